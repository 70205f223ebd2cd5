"""One live ``frys/1`` connection: a reader, a writer and the calls under way.

The reader decodes every frame of one read before it yields; the writer sends everything that gathered since its last
write as one. Calls wait on one event each; no memory channel per message (D11).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import trio

from frys_node.base.errors import (
    DeadlineExceeded,
    FrysError,
    NodeUnreachable,
    WireError,
    error_from_code,
)
from frys_node.base.ports import Stream
from frys_node.base.types import NodeId
from frys_node.channel.dispatch import Dispatch
from frys_node.channel.messages import Cancel, Credentials, Failure, GoAway, Hello, Note, Reply, Request
from frys_node.channel.mux import QUEUE_BYTES_MAX, Event, Mux
from frys_node.secure.gate import Peer

log = logging.getLogger(__name__)

PING_AFTER_S = 5.0
"""Silence after which a ping is sent."""

SILENCE_MAX_S = 15.0
"""Silence after which the connection is given up."""

DRAIN_S = 30.0
"""How long calls under way may hold a connection open that takes no new ones."""

BUDGET_S = 30.0
"""A call's budget when its caller has no deadline."""


class _Waiter:
    """A caller that waits."""

    __slots__ = ("answer", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: Reply | FrysError | None = None


class Connection:
    """An authenticated connection after both hellos."""

    def __init__(
        self,
        stream: Stream,
        mux: Mux,
        *,
        peer: Peer,
        hello: Hello,
        dialled: bool,
        dispatch: Dispatch,
        on_credentials: Callable[[Connection, Credentials], None],
    ) -> None:
        self.peer = peer
        self.hello = hello
        self.dialled = dialled
        self.mux = mux
        self.is_open = True
        self.notes_unknown = 0
        self.idle = trio.Event()
        """Set when the connection is draining and no call is under way, or it has ended."""
        self._stream = stream
        self._dispatch = dispatch
        self._on_credentials = on_credentials
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._waiters: dict[int, _Waiter] = {}
        self._serving: dict[int, trio.CancelScope] = {}
        self._got_go_away = False
        self._scope = trio.CancelScope()
        self._heard_s = 0.0
        self._nonce = 0

    @property
    def node(self) -> NodeId:
        """The other side."""
        return self.peer.node

    @property
    def is_usable(self) -> bool:
        """True while new calls may be sent."""
        return self.is_open and not self.mux.is_draining

    def flush(self) -> None:
        """Wake the writer: something was queued in the mux."""
        self._wake.set()

    async def run(self, early: list[Event]) -> None:
        """Run until the connection ends; `early` is what arrived behind the hello. Never raises on network errors."""
        self._heard_s = trio.current_time()
        reason = "closed"
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    reason = await self._read(nursery, early)
                    nursery.cancel_scope.cancel()
        finally:
            self.is_open = False
            self._drained.set()
            self.idle.set()
            lost = NodeUnreachable(
                f"the connection to {self.peer.name} ended ({reason})",
                hint="whether the call was carried out is unknown",
            )
            for waiter in self._waiters.values():
                waiter.answer = lost
                waiter.event.set()
            self._waiters.clear()
            with trio.CancelScope(shield=True):
                await self._stream.aclose()
            log.debug("channel.connection_ended", extra={"peer": self.node, "reason": reason})

    def close(self) -> None:
        """End the connection at once; calls that come from now on go elsewhere."""
        self.is_open = False
        self._scope.cancel()

    def drain(self, reason: str) -> None:
        """Take no new calls; the connection ends when those under way are done."""
        if self.is_open:
            self.mux.go_away(reason)
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + DRAIN_S)
            self.flush()
            self._finish_drain()

    def _finish_drain(self) -> None:
        if self.mux.is_draining and self.mux.in_flight == 0:
            self.idle.set()
        # Only the side that has read the other's GoAway may close: no call can be on its way to it any more.
        if self._got_go_away and self.mux.in_flight == 0:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + 0.05)

    async def call(self, method: str, body: bytes) -> bytes:
        """Call the other side; the caller's cancel scope bounds the wait.

        Raises:
            FrysError: What the other side answered, or why there is no answer.
        """
        if not self.is_open:
            raise NodeUnreachable(f"the connection to {self.peer.name} has ended", hint="nothing was sent")
        left_s = trio.current_effective_deadline() - trio.current_time()
        has_deadline = not math.isinf(left_s)
        call_id = self.mux.request(method, int(1_000 * (left_s if has_deadline else BUDGET_S)), body)
        waiter = self._waiters[call_id] = _Waiter()
        self._wake.set()
        try:
            if has_deadline:
                await waiter.event.wait()
            else:
                with trio.move_on_after(BUDGET_S):
                    await waiter.event.wait()
        finally:
            if waiter.answer is None:
                self._waiters.pop(call_id, None)
                self.mux.cancel(call_id)
                self._wake.set()
        answer = waiter.answer
        if answer is None:
            raise DeadlineExceeded(f"{self.peer.name} did not answer '{method}' within {BUDGET_S:.0f} s")
        if isinstance(answer, Reply):
            return answer.body
        raise answer

    async def _write(self) -> None:
        """Send what gathers, joined."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while data := self.mux.data_to_send():
                    await self._stream.send_all(data)
                self._drained.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close()

    async def _watch(self) -> None:
        """Ping after silence, give up after more of it."""
        while True:
            silence_s = trio.current_time() - self._heard_s
            if silence_s >= SILENCE_MAX_S:
                log.info("channel.peer_silent", extra={"peer": self.node, "silence_s": silence_s})
                self.close()
            elif silence_s >= PING_AFTER_S:
                self._nonce += 1
                self.mux.ping(self._nonce)
                self._wake.set()
            await trio.sleep(PING_AFTER_S)

    async def _read(self, nursery: trio.Nursery, early: list[Event]) -> str:
        """Read until the end and return why it came."""
        try:
            for event in early:
                await self._handle(nursery, event)
            while True:
                data = await self._stream.receive_some(65_536)
                if not data:
                    return "closed by the other side"
                self._heard_s = trio.current_time()
                for event in self.mux.receive_data(data):
                    await self._handle(nursery, event)
                if self.mux.queued_bytes:
                    self._wake.set()
                    while self.mux.queued_bytes > 4 * QUEUE_BYTES_MAX:
                        self._drained = trio.Event()
                        await self._drained.wait()
                if self.mux.is_draining:
                    self._finish_drain()
        except WireError as error:
            log.warning("channel.protocol_broken", extra={"peer": self.node, "error": error.message})
            return error.code
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return "broken"

    async def _handle(self, nursery: trio.Nursery, event: Event) -> None:
        """Act on one event; waits only for inline handlers."""
        if isinstance(event, Note):
            if not self._dispatch.note(self.node, event.name, event.body):
                self.notes_unknown += 1
        elif isinstance(event, Reply):
            self._settle(event.id, event)
        elif isinstance(event, Request):
            served = self._dispatch.methods.get(event.method)
            if served is not None and served.inline:
                await self._serve(event)
            else:
                nursery.start_soon(self._serve, event)
        elif isinstance(event, Failure):
            self._settle(event.id, error_from_code(event.code, event.message, event.hint))
        elif isinstance(event, Cancel):
            scope = self._serving.pop(event.id, None)
            self.mux.forget(event.id)
            if scope is not None:
                scope.cancel()
        elif isinstance(event, Credentials):
            self._on_credentials(self, event)
        elif isinstance(event, GoAway):
            self._got_go_away = True
            self.drain(event.reason)

    def _settle(self, call_id: int, answer: Reply | FrysError) -> None:
        waiter = self._waiters.pop(call_id, None)
        if waiter is not None:
            waiter.answer = answer
            waiter.event.set()

    async def _serve(self, request: Request) -> None:
        """Answer one call within its budget."""
        scope = trio.CancelScope(deadline=trio.current_time() + request.budget_ms / 1_000)
        self._serving[request.id] = scope
        error: FrysError | None = None
        with scope:
            try:
                body = await self._dispatch.answer(self.node, request.method, request.body)
                self.mux.reply(request.id, body)
            except FrysError as caught:
                error = caught
        if scope.cancelled_caught:
            error = DeadlineExceeded(f"'{request.method}' was not done within {request.budget_ms} ms")
        self._serving.pop(request.id, None)
        if error is not None:
            self.mux.fail(request.id, error.code, error.message, error.hint)
        self._wake.set()
        if self.mux.is_draining:
            self._finish_drain()
