"""Calls and notes between nodes of one process, without sockets: the `Rpc` service for tests of drivers.

Everything travels as bytes through the real codecs, errors cross by their code as they do on the channel, and a note
is handed over by a pump task, never from within the sender's call. Open it so::

    async with open_rpc_network() as network:
        one, two = network.node("n1"), network.node("n2")
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from frys_node.base.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FrameTooLarge,
    FrysError,
    NodeUnreachable,
    NotFound,
    RemoteError,
    error_from_code,
)
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method

Req = TypeVar("Req")
Rep = TypeVar("Rep")

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 1 << 20
"""Largest body, as on the channel."""

CALL_S = 30.0
"""Budget of a call whose caller has no deadline."""


class RpcNetwork:
    """The wires between the nodes, and what breaks them.

    `note_loss` (0-1) drops notes; `delay_s` holds every message; both may be changed at any time.
    """

    def __init__(self, seed: int = 0, *, delay_s: float = 0.0, note_loss: float = 0.0) -> None:
        self.delay_s = delay_s
        self.note_loss = note_loss
        self.counts: Counter[str] = Counter()
        """``calls``, ``notes``, ``notes_lost``, ``unreachable``."""
        self._nodes: dict[NodeId, LoopbackRpc] = {}
        self._down: set[NodeId] = set()
        self._cut: set[tuple[NodeId, NodeId]] = set()
        self._rng = random.Random(f"{seed}/rpc")
        self._notes: list[tuple[float, int, LoopbackRpc, NodeId, str, bytes]] = []
        self._sequence = 0
        self._wake = trio.Event()
        self._changed = trio.Event()

    def node(self, name: str) -> LoopbackRpc:
        """Return the `Rpc` of a node, made when missing."""
        node = NodeId(name)
        if node not in self._nodes:
            self._nodes[node] = LoopbackRpc(self, node)
        return self._nodes[node]

    def stop(self, name: str) -> None:
        """Make a node unreachable: calls under way break, notes are lost."""
        self._down.add(NodeId(name))
        self._change()

    def restart(self, name: str) -> None:
        """Bring a node back as a new process: reachable, and with nothing served until it registers again."""
        self._down.discard(NodeId(name))
        self.node(name).forget()

    def resume(self, name: str) -> None:
        """Make a node reachable again, with everything it served."""
        self._down.discard(NodeId(name))

    def partition(self, a_names: Iterable[str], b_names: Iterable[str]) -> None:
        """Cut every a from every b, both ways."""
        b_list = list(b_names)
        for a in a_names:
            for b in b_list:
                self._cut |= {(NodeId(a), NodeId(b)), (NodeId(b), NodeId(a))}
        self._change()

    def heal(self) -> None:
        """Join everything again; stopped nodes stay stopped."""
        self._cut.clear()

    def is_connected(self, source: NodeId, target: NodeId) -> bool:
        """True if messages pass between the two."""
        return (
            target in self._nodes
            and source not in self._down
            and target not in self._down
            and (source, target) not in self._cut
        )

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def send_note(self, source: NodeId, target: NodeId, name: str, payload: bytes) -> bool:
        """Queue a note; False when there is no connection.

        Raises:
            FrameTooLarge: The body is over `BODY_BYTES_MAX`. Nothing was queued.
        """
        if len(payload) > BODY_BYTES_MAX:
            raise FrameTooLarge(f"a note of {len(payload)} bytes is over the limit of {BODY_BYTES_MAX}")
        if not self.is_connected(source, target):
            self.counts["unreachable"] += 1
            return False
        self.counts["notes"] += 1
        if self.note_loss and self._rng.random() < self.note_loss:
            self.counts["notes_lost"] += 1
            return True
        self._sequence += 1
        at_s = trio.current_time() + self.delay_s
        heapq.heappush(self._notes, (at_s, self._sequence, self._nodes[target], source, name, bytes(payload)))
        self._wake.set()
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand notes over at their instant, until cancelled."""
        task_status.started()
        while True:
            while self._notes and self._notes[0][0] <= trio.current_time():
                _, _, target, source, name, payload = heapq.heappop(self._notes)
                if self.is_connected(source, target.self_id):
                    target.take_note(source, name, payload)
                else:
                    self.counts["notes_lost"] += 1
            await trio.lowlevel.checkpoint()
            if self._notes and self._notes[0][0] <= trio.current_time():
                continue
            self._wake = trio.Event()
            with trio.move_on_at(self._notes[0][0] if self._notes else math.inf):
                await self._wake.wait()

    async def carry(self, source: NodeId, target: NodeId, name: str, body: bytes) -> bytes:
        """Carry a call to its handler and the reply back; breaks when the connection does."""
        if not self.is_connected(source, target):
            self.counts["unreachable"] += 1
            raise NodeUnreachable(f"no connection to {target}")
        result: list[bytes | FrysError] = []
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                await trio.sleep(self.delay_s)
                result.append(await self._nodes[target].answer(source, name, body))
                await trio.sleep(self.delay_s)
                nursery.cancel_scope.cancel()

            async def watch() -> None:
                while self.is_connected(source, target):
                    await self._changed.wait()
                self.counts["unreachable"] += 1
                # Whatever the handler did stands, but its answer is lost.
                result[:] = [NodeUnreachable(f"the connection to {target} broke")]
                nursery.cancel_scope.cancel()

            nursery.start_soon(work)
            nursery.start_soon(watch)
        # A cancel from outside has left the block above already, so there is a result here.
        outcome = result[0]
        if isinstance(outcome, FrysError):
            raise outcome
        return outcome


class LoopbackRpc:
    """`Rpc` of one node."""

    def __init__(self, network: RpcNetwork, node: NodeId) -> None:
        self._network = network
        self._node = node
        self._methods: dict[str, tuple[Method[Any, Any], Callable[[NodeId, Any], Awaitable[Any]]]] = {}
        self._notes: dict[str, Callable[[NodeId, bytes], None]] = {}
        self.note_errors = 0
        """Notes whose handler raised."""

    @property
    def self_id(self) -> NodeId:
        """This node."""
        return self._node

    def serve(self, method: Method[Req, Rep], handler: Callable[[NodeId, Req], Awaitable[Rep]]) -> None:
        """Answer a method; `AlreadyExists` if the name is served."""
        if method.name in self._methods:
            raise AlreadyExists(f"the method '{method.name}' is served already")
        self._methods[method.name] = (method, handler)

    def unserve(self, method: Method[Any, Any]) -> None:
        """Stop answering a method; nothing happens when it is not served."""
        self._methods.pop(method.name, None)

    async def call(self, node: NodeId, method: Method[Req, Rep], request: Req) -> Rep:
        """Call a node; the caller's deadline counts, or 30 s."""
        self._network.counts["calls"] += 1
        body = method.request.encode(request)
        if len(body) > BODY_BYTES_MAX:
            raise FrameTooLarge(f"a request of {len(body)} bytes is over the limit of {BODY_BYTES_MAX}")
        with trio.move_on_after(CALL_S if trio.current_effective_deadline() == math.inf else math.inf):
            if node == self._node:
                answer = await self.answer(self._node, method.name, body)
                if isinstance(answer, FrysError):
                    raise answer
                return method.reply.decode(answer)
            return method.reply.decode(await self._network.carry(self._node, node, method.name, body))
        raise DeadlineExceeded(f"'{method.name}' to {node} took over {CALL_S:g} s")

    async def answer(self, caller: NodeId, name: str, body: bytes) -> bytes | FrysError:
        """Carry a call out here; a failure comes back as the error that the caller shall see."""
        try:
            if name not in self._methods:
                raise NotFound(f"this node does not serve '{name}'")
            method, handler = self._methods[name]
            reply: bytes = method.reply.encode(await handler(caller, method.request.decode(body)))
            if len(reply) > BODY_BYTES_MAX:
                raise FrameTooLarge(f"a reply of {len(reply)} bytes is over the limit of {BODY_BYTES_MAX}")
            return reply
        except FrysError as error:
            return error_from_code(error.code, error.message, error.hint)
        except trio.TooSlowError:
            return DeadlineExceeded()
        except Exception as error:
            log.exception("rpc.handler_failed", extra={"method": name})
            return RemoteError(f"'{name}' failed: {type(error).__name__}: {error}")

    def on_note(self, name: str, handler: Callable[[NodeId, bytes], None]) -> None:
        """Receive notes of that name; `AlreadyExists` if they are handled."""
        if name in self._notes:
            raise AlreadyExists(f"notes '{name}' are handled already")
        self._notes[name] = handler

    def off_note(self, name: str) -> None:
        """Receive notes of that name no more."""
        self._notes.pop(name, None)

    def note(self, node: NodeId, name: str, payload: bytes) -> bool:
        """Send a note, best effort."""
        return self._network.send_note(self._node, node, name, payload)

    def take_note(self, source: NodeId, name: str, payload: bytes) -> None:
        """Hand a note to its handler; its error is logged and counted, never raised into the pump."""
        handler = self._notes.get(name)
        if handler is None:
            return
        try:
            handler(source, payload)
        except Exception:
            self.note_errors += 1
            log.exception("rpc.note_failed", extra={"note": name})

    def is_connected(self, node: NodeId) -> bool:
        """True if messages pass."""
        return self._network.is_connected(self._node, node)

    def forget(self) -> None:
        """Serve nothing any more."""
        self._methods.clear()
        self._notes.clear()


@asynccontextmanager
async def open_rpc_network(seed: int = 0, *, delay_s: float = 0.0, note_loss: float = 0.0) -> AsyncIterator[RpcNetwork]:
    """Open a network with its pump running; closed at the end of the block."""
    network = RpcNetwork(seed, delay_s=delay_s, note_loss=note_loss)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network
        nursery.cancel_scope.cancel()
