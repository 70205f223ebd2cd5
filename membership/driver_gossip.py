"""Events, queries and state for the rest of the node: implements `Gossip` over the machine's `Talk`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import trio

from frys_node.base.errors import AlreadyExists, FrysError
from frys_node.base.ports import Clock
from frys_node.base.types import Address, NodeId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.gossip import ClusterEvent, QueryAnswer, Question, Responder, StateChanged, StateValue
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.observe.log import get_logger
from frys_node.observe.metrics import Metrics
from frys_node.wire.codec import Message
from membership.catchup import BATCHES
from membership.driver_errands import Errands
from membership.effects import (
    Effect,
    EventHeard,
    QueryAsked,
    QueryEnded,
    QuerySaid,
    SendBatch,
    SendRumour,
    StateHeard,
    Talking,
)
from membership.machine import Membership
from membership.queries import ReplyKind, Said
from membership.rumours import Query, StateEntry, UserEvent


class Carried(Message, frozen=True):
    """Bytes of the machine that go over the channel, because no packet holds them."""

    data: bytes


RUMOUR: Method[Carried, Carried] = Method("membership.rumour", Carried, Carried)
"""Hear this. The answer is empty."""

CATCH_UP: Method[Carried, Carried] = Method("membership.catch_up", Carried, Carried)
"""This is what you lack. The answer is where that brought the other side, if there is more; else empty."""

SENDS_MAX = 64
"""Rumours and batches under way over the channel; more are dropped and counted, and reminders ask for them again."""

SEND_TIMEOUT_S = 10.0

RESPONDERS_MAX = 64
"""Handlers of queries at work at once; beyond it a query is answered with a failure."""

ANSWERS_MAX = 65_536
"""Answers that a reader may lag behind: more than there are members."""

_LOG = get_logger(__name__)


class GossipDriver:
    """One node's voice."""

    def __init__(
        self,
        *,
        machine: Membership,
        clock: Clock,
        rpc: Rpc,
        bus: Bus,
        learn: Callable[[NodeId, Address], None],
        perform: Callable[[Iterable[Effect]], None],
        metrics: Metrics,
    ) -> None:
        self._machine = machine
        self._talk = machine.talk
        self._clock = clock
        self._rpc = rpc
        self._bus = bus
        self._learn = learn
        self._perform = perform
        self._errands = Errands()
        self._responders: dict[str, Responder] = {}
        self._responding = 0
        self._sending: set[tuple[str, NodeId, bytes]] = set()
        self._asking: dict[int, trio.MemorySendChannel[QueryAnswer]] = {}
        rpc.serve(RUMOUR, self._serve_rumour)
        rpc.serve(CATCH_UP, self._serve_batch)
        self._declare_metrics(metrics)

    def _declare_metrics(self, metrics: Metrics) -> None:
        tallies, queue = self._machine.tallies, self._machine.rumours.queue
        said = metrics.counter("frys_membership_rumours_total", "Rumours in packets.", ("direction", "kind"))
        dropped = metrics.counter("frys_membership_rumours_dropped_total", "Rumours not used.", ("reason", "kind"))
        said.values, dropped.values = tallies.rumours, tallies.rumours_dropped
        metrics.gauge(
            "frys_membership_rumour_queue_length",
            "Rumours waiting to be passed on.",
            source=lambda: float(len(queue)),
        )
        metrics.gauge(
            "frys_membership_send_queue_length",
            "Rumours and batches under way over the channel.",
            source=lambda: float(len(self._sending)),
        )
        self._latency = metrics.histogram(
            "frys_membership_event_latency_seconds", "From an event's origin to its delivery here, by both wall clocks."
        )

    def start(self, nursery: trio.Nursery) -> None:
        """Run handlers and sends in the nursery from now on."""
        self._errands.start(nursery)

    # Gossip.

    def fire(self, name: str, payload: bytes = b"") -> ClusterEvent:
        """Tell every node; see `Gossip.fire`."""
        now_s = self._clock.now_s()
        event = self._talk.fire(name, payload, now_s)
        self._perform(self._machine.end_turn(now_s))
        return self._view(event)

    def ask(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> AsyncIterator[QueryAnswer]:
        """Ask members; see `Gossip.ask`."""
        now_s = self._clock.now_s()
        sequence = self._talk.ask(name, payload, nodes=tuple(nodes), tags=tags, timeout_s=timeout_s, now_s=now_s)
        send, receive = trio.open_memory_channel[QueryAnswer](ANSWERS_MAX)
        self._asking[sequence] = send
        self._perform(self._machine.end_turn(now_s))
        return self._answers(sequence, receive)

    async def _answers(
        self, sequence: int, receive: trio.MemoryReceiveChannel[QueryAnswer]
    ) -> AsyncIterator[QueryAnswer]:
        try:
            async for answer in receive:
                yield answer
        finally:
            receive.close()
            self._asking.pop(sequence, None)
            self._talk.queries.cancel(sequence)

    def respond(self, name: str, responder: Responder) -> Callable[[], None]:
        """Answer queries of a name; see `Gossip.respond`."""
        if name in self._responders:
            raise AlreadyExists(f"queries named '{name}' are answered here already")
        self._responders[name] = responder
        self._talk.queries.handled.add(name)

        def off() -> None:
            if self._responders.get(name) is responder:
                del self._responders[name]
                self._talk.queries.handled.discard(name)

        return off

    def put(self, key: str, value: bytes) -> StateValue:
        """Set a key of this node's state; see `Gossip.put`."""
        now_s = self._clock.now_s()
        entry = self._talk.states.put(key, value, now_s)
        self._perform(self._machine.end_turn(now_s))
        return StateValue(key=entry.key, value=entry.value, version=entry.version)

    def delete(self, key: str) -> None:
        """Remove a key of this node's state; see `Gossip.delete`."""
        now_s = self._clock.now_s()
        self._talk.states.delete(key, now_s)
        self._perform(self._machine.end_turn(now_s))

    def state(self, node: NodeId) -> Sequence[StateValue]:
        """A member's keys."""
        return [StateValue(key=e.key, value=e.value, version=e.version) for e in self._talk.state_of(node)]

    # Effects.

    def perform(self, effect: Talking) -> None:
        """Carry out one effect of the machine."""
        match effect:
            case EventHeard(event):
                self._latency.observe(max(0.0, (self._clock.unix_ns() - event.unix_ns) / 1e9))
                self._bus.publish(self._view(event))
            case StateHeard(node, entry):
                self._publish_state(node, entry)
            case QueryAsked(query):
                self._begin(query)
            case QuerySaid(said):
                self._take_answer(said)
            case QueryEnded(sequence):
                channel = self._asking.pop(sequence, None)
                if channel is not None:
                    channel.close()
            case SendRumour(node, address, data):
                self._send("rumour", node, address, data)
            case SendBatch(node, address, data):
                self._send("batch", node, address, data)

    def _view(self, event: UserEvent) -> ClusterEvent:
        return ClusterEvent(
            name=event.name,
            payload=event.payload,
            origin=event.origin,
            origin_name=self._name(event.origin),
            boot=event.boot,
            sequence=event.sequence,
            lamport=event.lamport,
            unix_ns=event.unix_ns,
        )

    def _name(self, node: NodeId) -> str:
        view = self._machine.view(node)
        return "" if view is None else view.name

    def _publish_state(self, node: NodeId, entry: StateEntry) -> None:
        value = None if entry.is_deleted else entry.value
        self._bus.publish(
            StateChanged(node=node, name=self._name(node), key=entry.key, value=value, version=entry.version)
        )

    def _take_answer(self, said: Said) -> None:
        channel = self._asking.get(said.sequence)
        if channel is None:
            return
        answer = QueryAnswer(
            node=said.node,
            name=self._name(said.node),
            outcome=said.outcome,
            payload=said.payload,
            after_s=said.after_s,
        )
        try:
            channel.send_nowait(answer)
        except (trio.WouldBlock, trio.BrokenResourceError):
            # The reader is gone.
            self._asking.pop(said.sequence, None)

    # Answering.

    def _begin(self, query: Query) -> None:
        responder = self._responders.get(query.name)
        if responder is None or not self._errands.is_running:
            self._answer(query, ReplyKind.UNHANDLED, b"")
        elif self._responding >= RESPONDERS_MAX:
            self._answer(query, ReplyKind.FAILED, b"too many queries at once")
        else:
            self._responding += 1
            self._errands.begin(self._respond, query, responder)

    async def _respond(self, query: Query, responder: Responder) -> None:
        try:
            with trio.move_on_after(query.timeout_ms / 1e3):
                question = Question(name=query.name, payload=query.payload, origin=query.origin)
                self._answer(query, ReplyKind.ANSWER, await responder(question))
        except FrysError as error:
            self._answer(query, ReplyKind.FAILED, f"{error.code}: {error.message}".encode())
        except Exception as error:  # noqa: BLE001 (somebody else's code)
            # A handler's bug is its own: it ends this query, not the node.
            _LOG.failed("membership.responder_failed", error, query=query.name)
            self._answer(query, ReplyKind.FAILED, f"{type(error).__name__}: {error}".encode()[:1_024])
        finally:
            self._responding -= 1

    def _answer(self, query: Query, kind: ReplyKind, payload: bytes) -> None:
        now_s = self._clock.now_s()
        self._talk.answer(query, kind, payload, now_s)
        self._perform(self._machine.end_turn(now_s))

    # Over the channel.

    def _send(self, what: str, node: NodeId, address: Address, data: bytes) -> None:
        key = (what, node, data if what == "rumour" else b"")
        if not self._errands.is_running or key in self._sending:
            return
        if len(self._sending) >= SENDS_MAX:
            self._drop("send_refused", what)
            return
        self._sending.add(key)
        self._errands.begin(self._carry, key, address, data)

    async def _carry(self, key: tuple[str, NodeId, bytes], address: Address, data: bytes) -> None:
        what, node, _ = key
        reply = Carried(b"")
        try:
            self._learn(node, address)
            with trio.move_on_after(SEND_TIMEOUT_S) as scope:
                reply = await self._rpc.call(node, RUMOUR if what == "rumour" else CATCH_UP, Carried(data))
            if scope.cancelled_caught:
                self._drop("send_failed", what)
        except FrysError as error:
            self._drop("send_failed", what)
            _LOG.debug("membership.send_failed", peer_id=node, code=error.code, error=error.message)
        finally:
            self._sending.discard(key)
        if reply.data:
            now_s = self._clock.now_s()
            self._talk.meet(reply.data, node, now_s)
            self._perform(self._machine.end_turn(now_s))

    async def _serve_rumour(self, caller: NodeId, request: Carried) -> Carried:
        await trio.lowlevel.checkpoint()
        self._perform(self._machine.hear(request.data, caller, self._clock.now_s()))
        return Carried(b"")

    async def _serve_batch(self, caller: NodeId, request: Carried) -> Carried:
        await trio.lowlevel.checkpoint()
        now_s = self._clock.now_s()
        heads = self._talk.take_batch(BATCHES.decode(request.data), caller, now_s)
        self._perform(self._machine.end_turn(now_s))
        return Carried(heads)

    def _drop(self, reason: str, kind: str) -> None:
        self._machine.tallies.add(self._machine.tallies.rumours_dropped, reason, kind)
