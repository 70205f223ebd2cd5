"""One live ``frys/1`` connection: a reader, a writer and the calls under way.

The reader decodes every frame of one read before it yields; the writer sends everything that gathered since its last
write as one; no memory channel per message (D11). Alone on a connection, a call has nothing to be joined with, and each
turn of the loop it waits for is a good part of its latency. So a lone call is written by its caller, and answered by
the task that read it, while another task reads on.

A connection may take another's place (`succession`): calls under way stay on the old one until they are answered, and
notes of the new one wait until the other side has said on the old one that nothing comes behind (`GoAway`).
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
from frys_node.channel.ending import Ending as Ending  # noqa: PLC0414 (others know it from here)
from frys_node.channel.ending import ending_of
from frys_node.channel.messages import (
    EXPELLED,
    HEARD,
    OVERDUE,
    REPLACED,
    SHUTDOWN,
    Cancel,
    Failure,
    GoAway,
    Hello,
    Note,
    Reply,
    Request,
)
from frys_node.channel.mux import BUDGET_MS_MAX, QUEUE_BYTES_MAX, Event, Mux
from frys_node.channel.succession import Succession
from frys_node.channel.waiter import Waiter
from frys_node.secure.gate import Peer, Session
from frys_node.trust.messages import Credentials

log = logging.getLogger(__name__)

PING_AFTER_S = 5.0
"""Silence after which a ping is sent while somebody waits for an answer."""

IDLE_PING_AFTER_S = 30.0
"""Silence after which a ping is sent on an idle connection: often enough for the memory of firewalls."""

PONG_WITHIN_S = 9.0
"""Silence after a ping before the connection is given up: two looks at the clock, each `PING_AFTER_S` apart."""

STALL_MAX_S = 120.0
"""Longest silence after a ping of a process whose kernel acknowledged it: it stands still and may go on."""

DRAIN_S = 30.0
"""How long calls under way may hold a connection open that takes no new ones."""

REPLACED_DRAIN_S = BUDGET_MS_MAX / 1_000
"""The same for a connection that was replaced: the other side is well, so each call may use its whole budget."""

PART_S = 0.25
"""How long an expelled node has to read why."""

HELD_BYTES_MAX = QUEUE_BYTES_MAX
"""Notes that wait for the end of those on connections before, of one peer; then no more of them are read."""

HOLD_SILENT_S = 2.0
"""Notes wait for those of the connection before as long as that is heard of; after so much silence it has died."""

BUDGET_S = 30.0
"""A call's budget when its caller has no deadline; it is enforced up to `PING_AFTER_S` later."""


class Connection:
    """An authenticated connection after both hellos."""

    def __init__(
        self,
        stream: Stream,
        mux: Mux,
        *,
        peer: Peer,
        hello: Hello,
        session: Session,
        dialled: bool,
        host: str = "",
        dispatch: Dispatch,
        on_credentials: Callable[[Connection, Credentials], None],
    ) -> None:
        self.peer = peer
        self.hello = hello
        self.session = session
        self.dialled = dialled
        self.host = host
        self.mux = mux
        self.is_open = True
        self.notes_unknown = 0
        self.reads = 0
        """Counts the pieces that the other side has sent: it runs."""
        self.bytes_moved = 0
        """Plain bytes, both ways."""
        self.since_s = trio.current_time()
        """When the connection was made, on trio's clock."""
        self.idle = trio.Event()
        """Set when the connection is draining and no call is under way, or it has ended."""
        self._released = trio.Event()
        """Set when no note has to wait for those of the connection before any more."""
        self.succession = Succession(self._hand_over, self._release)
        self._stream = stream
        self._dispatch = dispatch
        self._on_credentials = on_credentials
        self._wake = trio.Event()
        self._is_writing = False
        """A write is under way, or its rest waits for the writer."""
        self._ended = "closed"
        """Why the connection ended, for people."""
        self._ending: Ending | None = None
        self._drained = trio.Event()
        self._waiters: dict[int, Waiter] = {}
        self._serving: dict[int, trio.CancelScope] = {}
        self.before: Connection | None = None
        """The connection whose notes come first, while they may."""
        self._is_watched = False
        """True while a task watches whether those before are heard of."""
        self.on_first: Callable[[], None] | None = None
        """Called once, before the first frame behind the hello is acted on: the other side uses this connection."""
        self._drain_until_s = self._idle_until_s = self._close_s = math.inf
        self._is_parting = False
        self.is_replaced = False
        """True once the other side has said that there is another connection, which may be on its way here yet."""
        self._got_go_away = False
        self._is_stop_told = False
        self._scope = trio.CancelScope()
        self.heard_s = 0.0
        """When the other side was last heard here, on trio's clock."""
        self._pinged_s = math.inf
        """When the ping was sent that has had no answer."""
        self._nonce = 0

    @property
    def ending(self) -> Ending:
        """How the connection ended, once it has."""
        if self._is_stop_told:
            return Ending.STOPPED
        if self._got_go_away or self.mux.is_draining:
            return Ending.GOODBYE
        return self._ending or Ending.CLOSED

    def nudge(self) -> None:
        """Send a few bytes, so that the other side's kernel has something to acknowledge."""
        self._nonce += 1
        self.mux.ping(self._nonce)
        self._send(is_alone=True)

    def unacknowledged_bytes(self) -> int | None:
        """How much was sent that the other side's kernel has not acknowledged; see `Stream`."""
        return self._stream.unacknowledged_bytes()

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
        self.heard_s = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    nursery.start_soon(self._read, nursery, early)
        finally:
            self.is_open = False
            self.succession.hear_last()
            self._drained.set()
            self.idle.set()
            lost = NodeUnreachable(
                f"the connection to {self.peer.name} ended ({self._ended})",
                hint="whether the call was carried out is unknown",
            )
            for waiter in self._waiters.values():
                waiter.settle(lost)
            self._waiters.clear()
            with trio.CancelScope(shield=True):
                await self._stream.aclose()
            log.debug("channel.connection_ended", extra={"peer": self.node, "reason": self._ended})

    def close(self) -> None:
        """End the connection at once; calls that come from now on go elsewhere."""
        self.is_open = False
        self._scope.cancel()

    def _break(self, ending: Ending) -> None:
        """End the connection for what was found out about it; the first finding stands."""
        self._ending = self._ending or ending
        self.close()

    def drain(self, reason: str, within_s: float = DRAIN_S) -> None:
        """Take no new calls and notes; the connection ends when the calls under way are done, or `within_s`.

        With no call under way it stands for `DRAIN_S` at most, whatever the other side says.
        """
        if self.is_open:
            self.mux.go_away(reason)
            self._drain_until_s = min(self._drain_until_s, trio.current_time() + within_s)
            self.flush()
            self._finish_drain()

    def part(self, farewell: Credentials) -> None:
        """End the connection to a node that was expelled: it is told so, and nothing of it is heard any more."""
        if not self.is_open or self._is_parting:
            return
        self._is_parting = True
        self.is_open = False
        for scope in self._serving.values():
            scope.cancel()
        self.mux.credentials(farewell)
        self.mux.go_away(EXPELLED)
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + PART_S)
        self.flush()

    def follow(self, before: Connection) -> None:
        """Take the place of another connection to the same life of the node: its notes come first."""
        self.succession.follow(before.succession)
        if self.succession.before is not None:
            self.before = before

    def _release(self) -> None:
        self.before = None
        self._released.set()

    def _heard_before_s(self) -> float:
        """When any of the connections whose notes come first was last heard."""
        latest_s, before = -math.inf, self.before
        while before is not None:
            latest_s, before = max(latest_s, before.heard_s), before.before
        return latest_s

    async def _hold(self) -> None:
        """Let notes pass when those before are silent: they were lost, and their last words will not come."""
        was_silent = False
        while self.succession.before is not None:
            left_s = HOLD_SILENT_S + max(self.since_s, self._heard_before_s()) - trio.current_time()
            if left_s <= 0 and was_silent:
                self.succession.release()
                return
            # This process may have stood still itself: what has arrived meanwhile is read first.
            was_silent = left_s <= 0
            await trio.sleep(max(HOLD_SILENT_S / 10, left_s))

    def _hand_over(self, note: Note) -> None:
        if not self._dispatch.note(self.node, note.name, note.body):
            self.notes_unknown += 1

    def _finish_drain(self) -> None:
        now_s, in_flight = trio.current_time(), self.mux.in_flight
        self._idle_until_s = math.inf if in_flight else min(self._idle_until_s, now_s + DRAIN_S)
        if self.mux.is_draining and in_flight == 0:
            self.idle.set()
        # Only the side that has read the other's GoAway may close: no call can be on its way to it any more. Its own
        # last answers and notes must have gone first.
        is_said = not self.mux.queued_bytes and not self._is_writing
        if self._got_go_away and in_flight == 0 and is_said:
            self._close_s = min(self._close_s, now_s + 0.05)
        until_s = min(self._drain_until_s, self._idle_until_s, self._close_s)
        self._scope.deadline = min(until_s, self._scope.deadline) if self._is_parting else until_s

    async def call(self, method: str, body: bytes) -> bytes:
        """Call the other side; the caller's cancel scope bounds the wait.

        Raises:
            FrysError: What the other side answered, or why there is no answer.
        """
        if not self.is_open:
            raise NodeUnreachable(f"the connection to {self.peer.name} has ended", hint="nothing was sent")
        now_s, deadline_s = trio.current_time(), trio.current_effective_deadline()
        left_s = BUDGET_S if math.isinf(deadline_s) else deadline_s - now_s
        call_id = self.mux.request(method, int(1_000 * left_s), body)
        waiter = self._waiters[call_id] = Waiter(now_s + left_s)
        self._send(is_alone=len(self._waiters) == 1)
        try:
            await waiter.wait()
        finally:
            if self._waiters.pop(call_id, None) is not None:
                self._give_up(call_id)
        answer = waiter.answer
        assert answer is not None
        if isinstance(answer, Reply):
            return answer.body
        raise answer

    def _give_up(self, call_id: int) -> None:
        self.mux.cancel(call_id)
        self._wake.set()

    def _send(self, *, is_alone: bool) -> None:
        """Send what is queued: now if it is alone, otherwise with what else gathers until the writer's turn."""
        if self._is_writing or not is_alone:
            self._wake.set()
            return
        if not (data := self.mux.data_to_send()):
            return
        self.bytes_moved += len(data)
        try:
            self._is_writing = not self._stream.send_nowait(data)
        except trio.BrokenResourceError as error:
            self._break(ending_of(error))
        except trio.ClosedResourceError:
            self.close()
        if self._is_writing:
            self._wake.set()

    async def _write(self) -> None:
        """Send what gathers, joined."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while (data := self.mux.data_to_send()) or self._is_writing:
                    self._is_writing = True
                    self.bytes_moved += len(data)
                    await self._stream.send_all(data)
                    self._is_writing = False
                self._drained.set()
                if self.mux.is_draining:
                    self._finish_drain()
        except trio.BrokenResourceError as error:
            self._break(ending_of(error))
        except trio.ClosedResourceError:
            self.close()

    async def _watch(self) -> None:
        """Ping after silence, give up after more of it; end calls whose budget is over."""
        while True:
            now_s = trio.current_time()
            for call_id in [call_id for call_id, waiter in self._waiters.items() if waiter.give_up_s <= now_s]:
                self._give_up(call_id)
                self._settle(call_id, DeadlineExceeded(f"{self.peer.name} did not answer within the call's budget"))
            silence_s = now_s - self.heard_s
            if self.heard_s >= self._pinged_s:
                self._pinged_s = math.inf
            if now_s - self._pinged_s >= PONG_WITHIN_S:
                self._take_silence(silence_s)
            elif silence_s >= (PING_AFTER_S if self._waiters else IDLE_PING_AFTER_S):
                self._pinged_s = min(self._pinged_s, now_s)
                self._nonce += 1
                self.mux.ping(self._nonce)
                self._wake.set()
            await trio.sleep(PING_AFTER_S)

    def _take_silence(self, silence_s: float) -> None:
        """Give up the callers, and the connection too unless the other kernel still holds it for its process."""
        is_held = self._stream.unacknowledged_bytes() == 0
        if is_held and silence_s < STALL_MAX_S:
            for call_id in list(self._waiters):
                self._give_up(call_id)
                self._settle(call_id, NodeUnreachable(f"{self.peer.name} stands still", hint="retry on another node"))
            return
        log.info("channel.peer_silent", extra={"peer": self.node, "silence_s": silence_s})
        self._break(Ending.SILENT)

    async def _receive(self) -> bytes:
        """Wait for bytes; of a node that was expelled they are thrown away, as unread ones would reset its farewell."""
        while (data := await self._stream.receive_some(65_536)) and self._is_parting:
            continue
        return data

    async def _read(self, nursery: trio.Nursery, early: list[Event]) -> None:
        """Read until the end, or until a lone call comes: that is answered here, and another task reads on."""
        events = early
        try:
            while True:
                self._take(nursery, events)
                if self.mux.queued_bytes:
                    self._wake.set()
                    while self.mux.queued_bytes > 4 * QUEUE_BYTES_MAX:
                        self._drained = trio.Event()
                        await self._drained.wait()
                if self.succession.before is not None and self.succession.line_bytes > HELD_BYTES_MAX:
                    await self._released.wait()
                if self.mux.is_draining:
                    self._finish_drain()
                data = await self._receive()
                if not data:
                    self._ended = "closed by the other side"
                    self._ending = self._ending or Ending.LOST
                    break
                self.heard_s = trio.current_time()
                self.reads += 1
                self.bytes_moved += len(data)
                events = self.mux.receive_data(data)
                if len(events) == 1 and isinstance(events[0], Request) and not self._serving:
                    nursery.start_soon(self._read, nursery, [])
                    await self._serve(events[0])
                    return
        except WireError as error:
            log.warning("channel.protocol_broken", extra={"peer": self.node, "error": error.message})
            self._ended = error.code
        except trio.BrokenResourceError as error:
            self._ended = "broken"
            self._ending = self._ending or ending_of(error)
        except trio.ClosedResourceError:
            self._ended = "broken"
        nursery.cancel_scope.cancel()

    def _take(self, nursery: trio.Nursery, events: list[Event]) -> None:
        """Act on what one read brought."""
        if events and self.on_first is not None:
            first, self.on_first = self.on_first, None
            first()
        if self.before is not None and not self._is_watched:
            self._is_watched = True
            nursery.start_soon(self._hold)
        for event in events:
            self._handle(nursery, event)

    def _handle(self, nursery: trio.Nursery, event: Event) -> None:
        """Act on one event; of a node that was expelled on none."""
        if self._is_parting:
            return
        if isinstance(event, Note):
            self.succession.take(event)
        elif isinstance(event, Reply):
            self._settle(event.id, event)
        elif isinstance(event, Request):
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
            self._is_stop_told = event.reason == SHUTDOWN
            self.is_replaced = event.reason == REPLACED
            self.succession.hear_last()
            if event.reason in (REPLACED, OVERDUE):
                # The answer says so too: calls of the other side have their whole budget here as well.
                self.drain(event.reason, REPLACED_DRAIN_S)
            else:
                self.drain(HEARD, DRAIN_S)

    def _settle(self, call_id: int, answer: Reply | FrysError) -> None:
        waiter = self._waiters.pop(call_id, None)
        if waiter is not None:
            waiter.settle(answer)

    async def _serve(self, request: Request) -> None:
        """Answer one call within its budget; of a node that was expelled none, also if its task has just begun."""
        if self._is_parting:
            return
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
        self._send(is_alone=not self._serving)
        if self.mux.is_draining:
            self._finish_drain()
