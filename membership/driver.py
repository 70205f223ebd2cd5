"""The membership component: performs what the machine asks for, on trio.

One task reads packets, one keeps time, one writes the peers, one looks for seeds while nobody else is known; state
exchanges run beside them, a few at a time. Nothing here waits for a subscriber: changes are published synchronously.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Clock, Datagram, Disk, Entropy, Executor, Network
from frys_node.base.types import Address, NodeId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.members import MemberView, Status
from frys_node.kernel.services.rpc import Rpc
from frys_node.observe.log import get_logger
from frys_node.observe.metrics import Metrics
from membership.agreement import Agreement
from membership.config import MembershipConfig
from membership.driver_exchange import StateExchange
from membership.driver_gossip import GossipDriver
from membership.driver_insight import InsightDriver
from membership.driver_lifelines import LifelineChannel, Lifelines
from membership.driver_peers import PeersFile, SeedSeeker
from membership.effects import (
    AskVoices,
    Effect,
    Emit,
    KeepLifelines,
    LeaveAcknowledged,
    Nudge,
    Peer,
    PersistPeers,
    PhiSeen,
    PushPull,
    Reconnect,
    RoundTrip,
    SendPacket,
    SendRefused,
    Superseded,
    SuspicionEnded,
    TryPort,
)
from membership.errors import JoinFailed, LeaveUnacknowledged
from membership.machine import Membership
from membership.member import STATUS, make_attributes
from membership.messages import Attributes
from membership.voices import Voices

ALERTED = ("false_suspicion", "false_death", "isolated", "crash_mass", "crash_doubted", "edge_down")
"""Events that have a count of 0 from the start: a rule over a series that is not there yet misses its first step."""

PHI_BUCKETS = (0.01, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
"""Bounds of the distribution of phi; 5 and 8 are the watch's thresholds."""

_LOG = get_logger(__name__)


class PacketSealer(Protocol):
    """Seals and opens gossip packets (`frys_node.secure.packet`)."""

    def seal(self, payload: bytes, *, is_short: bool = False) -> bytes | None:
        """Return the sealed packet; None, or a `FrysError`, while there is no key."""
        ...

    def open(self, packet: bytes, now_s: float) -> tuple[NodeId, int, bytes, bool] | None:
        """Return (sender, boot, payload, had the short header), or None for anything foreign, forged or replayed."""
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
        voices: Voices,
        introduce: Callable[[Address], Awaitable[NodeId | None]] | None = None,
        channel: LifelineChannel | None = None,
        peers: Sequence[Peer] = (),
    ) -> None:
        """Take the ports. `learn` hears where each node is; `introduce` dials an address and says who is there.

        Without a `channel` there are no lifelines: no evidence of crashes, and nobody is found stalled.
        """
        self._config = config
        self._clock, self._datagram = ports.clock, ports.datagram
        self._sealer = sealer
        self._bus = bus
        self._learn = learn
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
            voices=voices,
        )
        self.superseded_by: int | None = None
        """A higher boot of this very node that the cluster knows, if any."""
        self._timer = trio.CancelScope()
        """Ends when the machine's next deadline is due."""
        self._changed = trio.Event()
        self._leave_heard = trio.Event()
        self._said_all = trio.Event()
        self._peers_file = PeersFile(ports.disk, ports.executor, self._drop)
        self._agreement = Agreement(config)
        self._exchange = StateExchange(
            machine=self._machine,
            clock=self._clock,
            rpc=rpc,
            learn=learn,
            perform=self._perform,
            drop=self._drop,
            agreement=self._agreement,
            is_connected=lambda node: channel is None or channel.is_connected(node),
        )
        self.gossip = self._make_gossip(rpc, metrics)
        self.insight = InsightDriver(machine=self._machine, clock=self._clock, rpc=rpc)
        self._lifelines = None if channel is None else self._make_lifelines(ports, channel)
        self._seeker = SeedSeeker(
            node=node,
            seeds=config.seeds,
            network=ports.network,
            is_alone=lambda: not self._machine.live_count,
            join=self.join,
            introduce=introduce,
        )
        self._declare_metrics(metrics)

    def _make_gossip(self, rpc: Rpc, metrics: Metrics) -> GossipDriver:
        return GossipDriver(
            machine=self._machine,
            clock=self._clock,
            rpc=rpc,
            bus=self._bus,
            learn=self._learn,
            perform=self._perform,
            metrics=metrics,
        )

    def _make_lifelines(self, ports: Ports, channel: LifelineChannel) -> Lifelines:
        return Lifelines(
            machine=self._machine,
            clock=self._clock,
            rng=ports.entropy.rng("membership.lifelines"),
            network=ports.network,
            channel=channel,
            perform=self._perform,
        )

    def _declare_metrics(self, metrics: Metrics) -> None:
        machine = self._machine
        tallies = machine.tallies
        packets = metrics.counter("frys_membership_packets_total", "Gossip packets.", ("direction", "type"))
        dropped = metrics.counter("frys_membership_packets_dropped_total", "Gossip packets not used.", ("reason",))
        events = metrics.counter("frys_membership_events_total", "What the failure detector did.", ("event",))
        oversized = metrics.counter(
            "frys_membership_oversized_total", "Claims about members that no packet had room for, whole.", ("form",)
        )
        # The machine's tallies are the counters' values, so that nothing is counted twice or copied.
        oversized.values = tallies.oversized
        packets.values, dropped.values, events.values = tallies.packets, tallies.dropped, tallies.events
        for event in ALERTED:
            tallies.events.setdefault((event,), 0)
        self._rtt = metrics.histogram("frys_membership_probe_rtt_seconds", "Round trips of direct pings.")
        self._phi = metrics.histogram(
            "frys_membership_phi", "Phi of watched members when a beat came or a threshold was crossed.", PHI_BUCKETS
        )
        self._suspicion = metrics.histogram(
            "frys_membership_suspicion_seconds", "How long members were suspected, until they refuted or were buried."
        )
        self._members_gauge = metrics.gauge("frys_membership_members", "Members as seen here.", ("state",))
        metrics.gauge(
            "frys_membership_queue_length",
            "Updates waiting to be passed on.",
            source=lambda: float(machine.queue_length),
        )
        metrics.gauge(
            "frys_membership_health_score",
            "This node's doubt in its own senses: 0 is well, 8 is worst.",
            source=lambda: float(machine.health_score),
        )
        metrics.gauge(
            "frys_membership_exchange_queue_length",
            "State exchanges under way or waiting.",
            source=lambda: float(len(self._exchange)),
        )
        metrics.gauge(
            "frys_membership_settings_differ",
            "Live members with other settings than this node's where all should have the same.",
            source=lambda: float(len(self._agreement.differing(machine.is_usable))),
        )
        self._count_members()

    # Members.

    @property
    def self_id(self) -> NodeId:
        """This node."""
        return self._machine.node

    def all(self) -> Sequence[MemberView]:
        """Every known member, sorted by name, this node included."""
        return self._machine.views(self._clock.now_s())

    def get(self, node: NodeId) -> MemberView | None:
        """One member."""
        return self._machine.view(node, self._clock.now_s())

    def is_usable(self, node: NodeId) -> bool:
        """True if alive or suspect: worth sending to."""
        return self._machine.is_usable(node)

    def is_lost(self, node: NodeId) -> bool:
        """True if the member has been dead for `dead_reclaim_s`: another one may have its name."""
        return self._machine.is_lost(node, self._clock.now_s())

    def rank(self, node: NodeId) -> int:
        """How gladly to send new work there."""
        return self._machine.rank(node)

    def settings_differ(self) -> list[dict[str, str]]:
        """Which live members have other settings where all should have the same, for `frys-node status`."""
        names = {view.id: view.name for view in self.all()}
        return [
            {"member": names.get(node, node), "setting": what.setting, "there": what.there, "here": what.here}
            for node, found in self._agreement.differing(self.is_usable).items()
            for what in found
        ]

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
        """Declare a dead member, by name or id, to have left. `NotFound`, `MemberAlive`: nothing changed."""
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
            if not self._machine.has_said_all:
                await self._said_all.wait()
        if not self._leave_heard.is_set():
            raise LeaveUnacknowledged(hint="run `frys-node leave` again once the others can be reached")

    # Component.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        remembered = await self._peers_file.load()
        async with trio.open_nursery() as nursery:
            self._exchange.start(nursery)
            self.gossip.start(nursery)
            if self._lifelines is not None:
                self._lifelines.start(nursery)
            nursery.start_soon(self._read)
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._peers_file.run)
            if self._config.seeds:
                nursery.start_soon(self._seeker.run)
            self.join([*self._first_peers, *remembered])
            _LOG.info("membership.started", peers=len(remembered))
            task_status.started()
            await trio.sleep_forever()

    async def drain(self) -> None:
        """Write the peers a last time. Stopping is not leaving: the others will miss this node and wait for it."""
        self._peers_file.put(self._machine.peers())
        await self._peers_file.flush()

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
                sender, boot, payload, is_short = opened
                self._perform(machine.receive(payload, sender, address, now_s, source_boot=boot, is_short=is_short))
            if now_s >= machine.next_deadline_s:
                # Under a flood the timer task may starve; what is due is due.
                self._perform(machine.advance(now_s))

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._machine.next_deadline_s) as self._timer:
                await trio.sleep_forever()
            # After a stall both tasks are due: acks that lie in the socket are read before anybody is judged.
            await trio.lowlevel.checkpoint()
            now_s = self._clock.now_s()
            if now_s >= self._machine.next_deadline_s:
                self._perform(self._machine.advance(now_s))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendPacket():
                    self._send(effect)
                case Emit():
                    self._take_change(effect)
                case RoundTrip() | PhiSeen() | SuspicionEnded() | SendRefused():
                    self._observe(effect)
                case PushPull() | AskVoices():
                    self._exchange.perform(effect)
                case PersistPeers(peers):
                    self._peers_file.put(peers)
                case KeepLifelines() | Nudge() | Reconnect() | TryPort():
                    self._tend(effect)
                case LeaveAcknowledged(_):
                    self._leave_heard.set()
                case Superseded(boot):
                    self.superseded_by = boot
                    _LOG.error("membership.superseded", boot=boot, own_boot=self._machine.boot)
                case _:
                    self.gossip.perform(effect)
        if self._machine.has_said_all:
            self._said_all.set()
        # An answer mostly moves the deadline on: the timer must not fire for what it was armed for before.
        if self._machine.next_deadline_s != self._timer.deadline:
            self._timer.deadline = self._machine.next_deadline_s

    def _observe(self, effect: RoundTrip | PhiSeen | SuspicionEnded | SendRefused) -> None:
        match effect:
            case RoundTrip(_, rtt_s):
                self._rtt.observe(rtt_s)
            case PhiSeen(phi):
                self._phi.observe(phi)
            case SuspicionEnded(lasted_s):
                self._suspicion.observe(lasted_s)
            case SendRefused(node, address):
                self._warn_refused(node, address)

    def _tend(self, effect: KeepLifelines | Nudge | Reconnect | TryPort) -> None:
        lifelines = self._lifelines
        if lifelines is None:
            return
        match effect:
            case KeepLifelines(nodes):
                lifelines.keep(nodes)
            case Nudge(node, boot, patience_s):
                lifelines.nudge(node, boot, patience_s)
            case Reconnect(node, boot, address):
                lifelines.reconnect(node, boot, address)
            case TryPort(node, boot, address, patience_s):
                lifelines.try_port(node, boot, address, patience_s)

    def _send(self, effect: SendPacket) -> None:
        address = effect.address
        try:
            packet = self._sealer.seal(effect.payload, is_short=effect.is_short)
        except FrysError:
            packet = None
        if packet is None:
            self._drop("no_key")
        elif not self._datagram.send(packet, address):
            # A refused send is no verdict about the peer: the probe goes on to its helpers, at once.
            self._drop("send_refused")
            self._perform(self._machine.send_refused(address, self._clock.now_s()))

    def _warn_refused(self, node: NodeId, address: Address) -> None:
        view = self._machine.view(node)
        _LOG.warning(
            "membership.cannot_send",
            peer="" if view is None else view.name,
            peer_id=node,
            address=str(address),
            bound=str(self._datagram.address),
            hint="this machine has no way to that address: look at --bind, allow and routes here, --advertise there",
        )

    def _take_change(self, change: Emit) -> None:
        event, is_damped = change.event, change.is_damped
        old, new = event.old, event.new
        if new.id != self.self_id and (old is None or old.address != new.address or old.boot != new.boot):
            self._learn(new.id, new.address)
        self._count_members()
        self._changed.set()
        self._changed = trio.Event()
        is_news = old is None or old.status != new.status
        if change.is_turn or is_news:
            write = _LOG.warning if new.status in (Status.SUSPECT, Status.DEAD) and not is_damped else _LOG.info
            # A flapping member wakes no subscriber and raises no alarm; what is known of it is on record all the same,
            # its return from a death that was never published too.
            write(
                "membership.change_held" if is_damped or not is_news else "membership.member_changed",
                peer=new.name,
                peer_id=new.id,
                status=new.status.value,
                incarnation=new.incarnation,
            )
        if is_damped:
            return
        if old is not None and old.condition != new.condition:
            _LOG.info("membership.condition_changed", peer=new.name, peer_id=new.id, condition=new.condition.value)
        self._bus.publish(event)

    def _count_members(self) -> None:
        for standing, status in STATUS.items():
            self._members_gauge.set(self._machine.count(standing), status.value)

    @property
    def _own(self) -> MemberView:
        view = self._machine.view(self.self_id)
        assert view is not None
        return view

    def _drop(self, reason: str) -> None:
        self._machine.tallies.add(self._machine.tallies.dropped, reason)
