"""The membership component: performs what the machine asks for, on trio.

One task reads packets, one keeps time, one writes the peers, one looks for seeds while nobody else is known; state
exchanges run beside them, a few at a time. Nothing here waits for a subscriber: changes are published synchronously.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import trio

from frys_node.base.errors import FrysError, StorageError
from frys_node.base.ports import Clock, Datagram, Disk, Entropy, Executor, Network
from frys_node.base.types import Address, NodeId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.members import MemberChanged, MemberView, Status
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.observe.metrics import Metrics
from membership.config import MembershipConfig
from membership.discovery import PEERS_PATH, encode_peers, load_peers, resolve_seeds
from membership.effects import (
    Effect,
    Emit,
    LeaveAcknowledged,
    Peer,
    PersistPeers,
    PushPull,
    RoundTrip,
    SendPacket,
    Superseded,
)
from membership.errors import JoinFailed, LeaveUnacknowledged
from membership.machine import NOBODY, Membership
from membership.member import STATUS, make_attributes
from membership.messages import SYNC_UPDATES_MAX, Attributes, Sync

PUSH_PULL: Method[Sync, Sync] = Method("membership.push_pull", Sync, Sync)
"""Exchange of whole tables, in pieces."""

EXCHANGES_MAX = 8
"""State exchanges under way at once."""

EXCHANGES_WAITING_MAX = 64
"""State exchanges that may wait for their turn; more are dropped, counted, and asked for again later."""

EXCHANGE_TIMEOUT_S = 10.0
SEEDS_RETRY_S = 5.0

_LOG = logging.getLogger("frys.membership")


class PacketSealer(Protocol):
    """Seals and opens gossip packets (`frys_node.secure.packet`)."""

    def seal(self, payload: bytes) -> bytes | None:
        """Return the sealed packet; None, or a `FrysError`, while there is no key."""
        ...

    def open(self, packet: bytes, now_s: float) -> tuple[NodeId, int, bytes] | None:
        """Return (sender, its boot, payload), or None for anything foreign, forged or replayed."""
        ...


class Ports(NamedTuple):
    """What the component needs of the outside world."""

    clock: Clock
    entropy: Entropy
    datagram: Datagram
    network: Network
    disk: Disk
    executor: Executor


class MembershipDriver:
    """Runs a `Membership` and implements `Members`."""

    name = "membership"

    def __init__(
        self,
        *,
        node: NodeId,
        boot: int,
        attributes: Attributes,
        config: MembershipConfig,
        ports: Ports,
        sealer: PacketSealer,
        rpc: Rpc,
        bus: Bus,
        metrics: Metrics,
        learn: Callable[[NodeId, Address], None],
        introduce: Callable[[Address], Awaitable[NodeId | None]] | None = None,
        peers: Sequence[Peer] = (),
    ) -> None:
        """Take the ports. `learn` hears where each node is; `introduce` dials an address and says who is there."""
        self._config = config
        self._clock, self._datagram = ports.clock, ports.datagram
        self._network, self._disk, self._executor = ports.network, ports.disk, ports.executor
        self._sealer = sealer
        self._rpc = rpc
        self._bus = bus
        self._learn = learn
        self._introduce = introduce
        self._first_peers = list(peers)
        now_s = self._clock.now_s()
        self._machine = Membership(
            node=node,
            boot=boot,
            attributes=attributes,
            config=config,
            rng=ports.entropy.rng("membership"),
            now_s=now_s,
            unix_offset_ns=self._clock.unix_ns() - int(now_s * 1e9),
        )
        self.superseded_by: int | None = None
        """A higher boot of this very node that the cluster knows, if any."""
        self._timer_due_s = math.inf
        self._wake = trio.Event()
        self._changed = trio.Event()
        self._leave_heard = trio.Event()
        self._said_all = trio.Event()
        self._peers_to_write: Sequence[Peer] | None = None
        self._peers_wake = trio.Event()
        self._exchanges: dict[NodeId, Address] = {}
        self._exchange_limit = trio.CapacityLimiter(EXCHANGES_MAX)
        self._nursery: trio.Nursery | None = None
        self._declare_metrics(metrics)

    def _declare_metrics(self, metrics: Metrics) -> None:
        machine = self._machine
        tallies = machine.tallies
        packets = metrics.counter("frys_membership_packets_total", "Gossip packets.", ("direction", "type"))
        dropped = metrics.counter("frys_membership_packets_dropped_total", "Gossip packets not used.", ("reason",))
        events = metrics.counter("frys_membership_events_total", "What the failure detector did.", ("event",))
        # The machine's tallies are the counters' values, so that nothing is counted twice or copied.
        packets.values, dropped.values, events.values = tallies.packets, tallies.dropped, tallies.events
        self._rtt = metrics.histogram("frys_membership_probe_rtt_seconds", "Round trips of direct pings.")
        self._members_gauge = metrics.gauge("frys_membership_members", "Members as seen here.", ("state",))
        metrics.gauge(
            "frys_membership_queue_length",
            "Updates waiting to be passed on.",
            source=lambda: float(machine.queue_length),
        )
        self._count_members()

    # Members.

    @property
    def self_id(self) -> NodeId:
        """This node."""
        return self._machine.node

    def all(self) -> Sequence[MemberView]:
        """Every known member, sorted by name, this node included."""
        return self._machine.views()

    def get(self, node: NodeId) -> MemberView | None:
        """One member."""
        return self._machine.view(node)

    def is_usable(self, node: NodeId) -> bool:
        """True if alive or suspect: worth sending to."""
        return self._machine.is_usable(node)

    # Commands.

    def join(self, peers: Sequence[Peer]) -> None:
        """Remember peers and contact them in the background, also those that do not answer at first."""
        for peer in peers:
            if peer.node:
                self._learn(peer.node, peer.address)
        self._perform(self._machine.join(peers, self._clock.now_s()))

    async def joined(self) -> None:
        """Wait until another live member is known; the caller's cancel scope bounds it."""
        while not self._machine.live_count:
            await self._changed.wait()

    async def join_within(self, peers: Sequence[Peer], timeout_s: float) -> None:
        """Join and wait for the first live member.

        Raises:
            JoinFailed: Nobody answered in time. The node keeps trying.
        """
        self.join(peers)
        with trio.move_on_after(timeout_s):
            await self.joined()
            return
        tried = ", ".join(str(peer.address) for peer in peers) or "nobody"
        raise JoinFailed(f"no answer from {tried}", hint="check the address and the firewall (TCP and UDP)")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Replace this node's tags. `TagsTooLarge`: the former ones stand."""
        self._perform(self._machine.set_tags(dict(tags), self._clock.now_s()))

    def set_http(self, http: str) -> None:
        """Say where this node's HTTP listener is (``host:port``)."""
        own = self._own
        attributes = make_attributes(own.name, own.address, http, dict(own.tags))
        self._perform(self._machine.set_attributes(attributes, self._clock.now_s()))

    def force_leave(self, name: str) -> None:
        """Declare a failed member, by name or id, to have left. `NotFound`, `MemberAlive`: nothing changed."""
        self._perform(self._machine.force_leave(name, self._clock.now_s()))

    async def leave(self) -> None:
        """Say goodbye and wait until somebody has heard it and the news has been passed on.

        Raises:
            LeaveUnacknowledged: Nobody answered within `leave_timeout_s`. This node counts as leaving all the same.
        """
        self._said_all = trio.Event()
        self._perform(self._machine.leave(self._clock.now_s()))
        with trio.move_on_after(self._config.leave_timeout_s):
            await self._leave_heard.wait()
            if self._machine.live_count:
                await self._said_all.wait()
        if not self._leave_heard.is_set():
            raise LeaveUnacknowledged(hint="run `frys-node force-leave` on another node")

    # Component.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        self._rpc.serve(PUSH_PULL, self._serve_push_pull)
        remembered = await load_peers(self._disk, self._executor)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._read)
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._write_peers)
            if self._config.seeds:
                nursery.start_soon(self._seek_seeds)
            self.join([*self._first_peers, *remembered])
            task_status.started()
            await trio.sleep_forever()

    async def drain(self) -> None:
        """Write the peers a last time. Stopping is not leaving: the others will miss this node and wait for it."""
        self._peers_to_write = self._machine.peers()
        await self._flush_peers()

    async def _read(self) -> None:
        machine, clock = self._machine, self._clock
        while True:
            batch = await self._datagram.receive()
            now_s = clock.now_s()
            for packet, address in batch:
                opened = self._sealer.open(packet, now_s)
                if opened is None:
                    self._drop("unopened")
                    continue
                sender, boot, payload = opened
                self._perform(machine.receive(payload, sender, address, now_s, source_boot=boot))
            if now_s >= machine.next_deadline_s:
                # Under a flood the timer task may starve; what is due is due.
                self._perform(machine.advance(now_s))

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            self._timer_due_s = self._machine.next_deadline_s
            with trio.move_on_at(self._timer_due_s):
                await self._wake.wait()
            # After a stall both tasks are due: acks that lie in the socket are read before anybody is judged.
            await trio.lowlevel.checkpoint()
            now_s = self._clock.now_s()
            if now_s >= self._machine.next_deadline_s:
                self._perform(self._machine.advance(now_s))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendPacket(address, payload):
                    self._send(address, payload)
                case Emit(event):
                    self._publish(event)
                case RoundTrip(_, rtt_s):
                    self._rtt.observe(rtt_s)
                case PushPull(node, address):
                    self._begin_exchange(node, address)
                case PersistPeers(peers):
                    self._peers_to_write = peers
                    self._peers_wake.set()
                case LeaveAcknowledged(_):
                    self._leave_heard.set()
                case Superseded(boot):
                    self.superseded_by = boot
                    _LOG.error("membership.superseded", extra={"boot": boot, "own_boot": self._machine.boot})
        if not self._machine.queue_length:
            self._said_all.set()
        if self._machine.next_deadline_s < self._timer_due_s:
            self._wake.set()

    def _send(self, address: Address, payload: bytes) -> None:
        try:
            packet = self._sealer.seal(payload)
        except FrysError:
            packet = None
        if packet is None:
            self._drop("no_key")
        elif not self._datagram.send(packet, address):
            # A refused send is no verdict about the peer: the probe goes on to its helpers.
            self._drop("send_refused")

    def _publish(self, event: MemberChanged) -> None:
        old, new = event.old, event.new
        if new.id != self.self_id and (old is None or old.address != new.address or old.boot != new.boot):
            self._learn(new.id, new.address)
        if old is None or old.status != new.status:
            self._count_members()
            level = logging.WARNING if new.status in (Status.SUSPECT, Status.DEAD) else logging.INFO
            fields = {"peer": new.name, "peer_id": new.id, "status": new.status.value, "incarnation": new.incarnation}
            _LOG.log(level, "membership.member_changed", extra=fields)
        self._changed.set()
        self._changed = trio.Event()
        self._bus.publish(event)

    def _count_members(self) -> None:
        for standing, status in STATUS.items():
            self._members_gauge.set(self._machine.count(standing), status.value)

    # State exchange.

    def _begin_exchange(self, node: NodeId, address: Address) -> None:
        if self._nursery is None or node in self._exchanges:
            return
        if len(self._exchanges) >= EXCHANGES_WAITING_MAX:
            self._drop("exchange_refused")
            return
        self._exchanges[node] = address
        self._nursery.start_soon(self._exchange, node, address)

    async def _exchange(self, node: NodeId, address: Address) -> None:
        try:
            async with self._exchange_limit:
                self._learn(node, address)
                with trio.move_on_after(EXCHANGE_TIMEOUT_S) as scope:
                    await self._push_pull(node)
                if scope.cancelled_caught:
                    self._drop("exchange_failed")
        except FrysError as error:
            self._drop("exchange_failed")
            _LOG.debug("membership.exchange_failed", extra={"peer_id": node, "code": error.code})
        finally:
            self._exchanges.pop(node, None)

    async def _push_pull(self, node: NodeId) -> None:
        machine, clock = self._machine, self._clock
        sent_to = wants_after = NOBODY
        for _ in range(2 * self._config.members_max // SYNC_UPDATES_MAX + 2):
            request = machine.sync(sent_to, clock.now_s(), wants_after=wants_after)
            reply = await self._rpc.call(node, PUSH_PULL, request)
            self._perform(machine.merge_sync(reply, node, clock.now_s()))
            if not request.more and not reply.more:
                return
            sent_to = request.updates[-1].node if request.updates else sent_to
            wants_after = reply.updates[-1].node if reply.updates else wants_after

    async def _serve_push_pull(self, caller: NodeId, request: Sync) -> Sync:
        now_s = self._clock.now_s()
        self._perform(self._machine.merge_sync(request, caller, now_s))
        return self._machine.sync(request.after, now_s)

    # Peers and seeds.

    async def _write_peers(self) -> None:
        while True:
            await self._peers_wake.wait()
            self._peers_wake = trio.Event()
            await self._flush_peers()

    async def _flush_peers(self) -> None:
        peers, self._peers_to_write = self._peers_to_write, None
        if peers is None:
            return
        try:
            await self._executor.run(self._disk.write, PEERS_PATH, encode_peers(peers))
        except StorageError as error:
            self._drop("peers_not_written")
            _LOG.warning("membership.peers_not_written", extra={"code": error.code, "error": error.message})

    async def _seek_seeds(self) -> None:
        """Ask the seeds whenever nobody else is known; names are resolved anew each time."""
        while True:
            if not self._machine.live_count:
                peers = await resolve_seeds(self._network, self._config.seeds)
                if self._introduce is None:
                    self.join(peers)
                else:
                    async with trio.open_nursery() as nursery:
                        for peer in peers:
                            nursery.start_soon(self._ask_seed, peer.address)
            await trio.sleep(SEEDS_RETRY_S)

    async def _ask_seed(self, address: Address) -> None:
        assert self._introduce is not None
        try:
            with trio.move_on_after(EXCHANGE_TIMEOUT_S):
                node = await self._introduce(address)
                if node is not None and node != self.self_id:
                    self.join([Peer(node, address)])
        except FrysError as error:
            _LOG.debug("membership.seed_unreachable", extra={"seed": str(address), "code": error.code})

    @property
    def _own(self) -> MemberView:
        view = self._machine.view(self.self_id)
        assert view is not None
        return view

    def _drop(self, reason: str) -> None:
        self._machine.tallies.add(self._machine.tallies.dropped, reason)
