"""A simulated node that runs the real membership machine with its real bytes.

The seal is replaced by a label with sender's boot (the sender's name comes from the simulator), and the
channel's state exchange by two kinds of packets, so that it suffers every fault of the wires too, which real TCP would
hide; only where a filter stops packets and lets connections pass does it take those. There is no replay window here:
replayed packets reach the machine, which must not mind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import MemberChanged
from frys_node.testing.lifelines import Carried, SimLifelines
from frys_node.testing.simulator import Packet, SimHost
from frys_node.testing.voices import Ed25519Voices
from frys_node.wire.codec import Codec, Message
from membership.config import IPV4_HEADER_BYTES, SEALING_BYTES, SHORT_SEALING_BYTES, MembershipConfig
from membership.effects import (
    AskVoices,
    Effect,
    Emit,
    KeepLifelines,
    LeaveAcknowledged,
    Nudge,
    Peer,
    PersistPeers,
    PushPull,
    Reconnect,
    SendPacket,
    Superseded,
    TryPort,
)
from membership.findings import LifelineDown, LifelineUp, Nudged, Refused, Tried
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import NOBODY, Sync, Update
from membership.voices import Voices

PORT = 7946
PEERS_PATH = "peers"
LEAVE = "leave"
"""The command to leave."""


class Sealed(Message, frozen=True, array_like=True, gc=False, tag=1):
    """A gossip packet with what the seal would prove."""

    boot: int
    payload: bytes
    is_short: bool = False
    """The receiver has to know this boot of the sender, or cannot open it."""


class Ask(Message, frozen=True, array_like=True, gc=False, tag=2):
    """A state exchange asked for."""

    sync: Sync


class Answer(Message, frozen=True, array_like=True, gc=False, tag=3):
    """The other half."""

    sync: Sync


class AskFor(Message, frozen=True, array_like=True, gc=False, tag=4):
    """Voices asked for."""

    voices: tuple[NodeId, ...]


class Known(Message, frozen=True, array_like=True, gc=False, tag=5):
    """What is known of them."""

    statements: tuple[bytes, ...]


Wired = Sealed | Ask | Answer | AskFor | Known

WIRE: Codec[Wired] = Codec(Wired)


_PEERS: Codec[list[Peer]] = Codec(list[Peer])


def node_id(host: SimHost) -> NodeId:
    """The id of the node on a simulated machine."""
    return NodeId(f"{host.index:032x}")


class SimMembership(Membership):
    """The real machine, with two doors that only a simulation may use."""

    @property
    def own(self) -> Update:
        """What this node says of itself."""
        return self._claims.own

    def acquaint(self, updates: Iterable[Update], statements: Iterable[bytes], now_s: float) -> list[Effect]:
        """Know these members as if this node had known them for long: nothing is passed on or published."""
        for statement in statements:
            self._claims.signing.learn(statement)
        for update in updates:
            if update.node != self.node:
                self._claims.table.merge(update, now_s)
                self._claims.order.add(update.node)
        return self._turn(now_s)

    @property
    def digest(self) -> int:
        """Equal at all members that hold the same live members."""
        return self._claims.table.digest

    def phis(self) -> dict[NodeId, float]:
        """Accrued suspicion of the members that this node watches."""
        found = {}
        for member in self._claims.table:
            phi = member.vitals.phi(self._claims.now_s)
            if phi is not None:
                found[member.node] = phi
        return found

    def sees_no_gap(self, now_s: float) -> None:
        """Take it that this node was awake until now: the pause guard sees nothing."""
        self._due_s = max(self._due_s, now_s)

    @property
    def suspicion_at_s(self) -> float:
        """When the next suspicion runs out."""
        return self._claims.suspicion_deadline_s

    def end_suspicions(self, now_s: float) -> list[Effect]:
        """Do nothing but what suspicions want."""
        self._claims.now_s = now_s
        self._claims.end_suspicions(now_s)
        return self._turn(now_s)


class MembershipNode:
    """The shell around one machine: one boot of one node."""

    may_oversleep = False
    """True if the shell itself keeps the machine from being on time."""

    def __init__(
        self, host: SimHost, config: MembershipConfig, seeds: Sequence[str], lifelines: SimLifelines | None = None
    ) -> None:
        self._host = host
        self._config = config
        self._seeds = seeds
        self._lifelines = lifelines
        self.node = node_id(host)
        self.boot = host.boot << 32
        self.voices: Voices = Ed25519Voices(self.node)
        self.changes: list[MemberChanged] = []
        """Changes that the checkers have not seen yet, those held back from subscribers too."""
        self.published: list[MemberChanged] = []
        """What subscribers would have heard and the checkers have not seen yet."""
        self.leave_acknowledged = False
        self.is_superseded = False
        self.packets_sent = 0
        self.bytes_sent = 0
        """As on the wire, sealed and with the headers of UDP and IPv4."""
        self.is_started = False
        self.is_reading = True
        """False while mail is kept unread."""
        self.machine: SimMembership
        self._asking: dict[str, NodeId] = {}
        self._acquaintances: dict[str, int] = {}
        """Boots that this one has opened packets of, by host."""

    @property
    def next_deadline_s(self) -> float:
        """The machine's next deadline."""
        return self.machine.next_deadline_s

    def phis(self) -> dict[NodeId, float]:
        """Accrued suspicion of the members that this node watches."""
        return self.machine.phis()

    def start(self, now_s: float) -> Sequence[Packet]:
        """Boot: join the peers on disk and the seeds."""
        if self._lifelines is not None:
            self._lifelines.started(self._host.name, self.node, self.boot)
        self.machine = SimMembership(
            node=self.node,
            boot=self.boot,
            attributes=make_attributes(self._host.name, Address(self._host.name, PORT)),
            config=self._config,
            rng=self._host.rng,
            now_s=now_s,
            voices=self.voices,
        )
        self.is_started = True
        stored = self._host.disk.read(PEERS_PATH)
        peers = _PEERS.decode(stored) if stored else []
        peers += [Peer(NOBODY, Address(name, PORT)) for name in self._seeds if name != self._host.name]
        return self._perform(self.machine.join(peers, now_s), now_s)

    def acquaint(self, updates: Iterable[Update], statements: Iterable[bytes], now_s: float) -> None:
        """Be a member of a cluster that has existed for long: nobody has anything to say, and the lifelines stand."""
        for effect in self.machine.acquaint(updates, statements, now_s):
            self._tend(effect)

    def receive(self, payload: bytes, source: str, now_s: float) -> Sequence[Packet]:
        """Take a packet or a piece of a state exchange."""
        try:
            message = WIRE.decode(payload)
        except MalformedFrame:
            return ()
        machine = self.machine
        source_node = NodeId(f"{int(source[1:]):032x}")
        if isinstance(message, Sealed):
            if not self._opens(source, message):
                return ()
            address = Address(source, PORT)
            effects = machine.receive(
                message.payload, source_node, address, now_s, source_boot=message.boot, is_short=message.is_short
            )
            return self._perform(effects, now_s)
        if isinstance(message, AskFor):
            packets: list[Packet] = []
            self._hand_over(packets, source, Known(machine.exchange.statements(message.voices)))
            return packets
        if isinstance(message, Known):
            return self._perform(machine.learn_voices(message.statements, now_s), now_s)
        packets = self._perform(machine.merge_sync(message.sync, source_node, now_s), now_s)
        if isinstance(message, Ask):
            self._hand_over(packets, source, Answer(machine.exchange.answer(message.sync, now_s)))
        elif source in self._asking:
            self._go_on(source, message.sync, packets, now_s)
        return packets

    def _opens(self, source: str, packet: Sealed) -> bool:
        """As the seal does: a long header introduces a boot, a short one is only opened for the newest known."""
        known = self._acquaintances.get(source, 0)
        if packet.is_short:
            return packet.boot == known
        if packet.boot < known:
            return False
        self._acquaintances[source] = packet.boot
        return True

    def _go_on(self, name: str, reply: Sync, packets: list[Packet], now_s: float) -> None:
        """Ask for the next piece of a table that did not fit into one."""
        sent = self.machine.sync(self._asking.pop(name), now_s)
        if sent.more or reply.more:
            self._asking[name] = sent.updates[-1].node if sent.updates else NOBODY
            wants_after = reply.updates[-1].node if reply.updates else NOBODY
            request = self.machine.sync(self._asking[name], now_s, wants_after=wants_after)
            self._hand_over(packets, name, Ask(request))

    def _hand_over(self, packets: list[Packet], name: str, message: Wired) -> None:
        data = WIRE.encode(message)
        if self._lifelines is None or not self._lifelines.carry(self._host.name, name, data):
            packets.append(Packet(name, data))

    def advance(self, now_s: float) -> Sequence[Packet]:
        """Do what is due."""
        return self._perform(self.machine.advance(now_s), now_s)

    def wake(self, token: object, now_s: float) -> Sequence[Packet]:
        """Take a command (tags to set, or `LEAVE`) or what happened to a lifeline."""
        machine = self.machine
        match token:
            case dict():
                effects = machine.set_tags(token, now_s)
            case LifelineUp() | LifelineDown() | Tried() | Nudged() | Refused():
                effects = machine.found(token, now_s)
            case Carried(source, data):
                return self.receive(data, source, now_s)
            case _:
                if self._lifelines is not None:
                    self._lifelines.goodbye(self._host.name)
                effects = machine.leave(now_s)
        return self._perform(effects, now_s)

    def _perform(self, effects: Iterable[Effect], now_s: float) -> list[Packet]:
        packets: list[Packet] = []
        for effect in effects:
            match effect:
                case SendPacket(address, payload, is_short):
                    assert len(payload) <= self._config.payload_bytes_max, f"a packet of {len(payload)} bytes (M7)"
                    packets.append(Packet(address.host, WIRE.encode(Sealed(self.boot, payload, is_short))))
                    self.packets_sent += 1
                    sealing = SHORT_SEALING_BYTES if is_short else SEALING_BYTES
                    self.bytes_sent += len(payload) + sealing + IPV4_HEADER_BYTES
                case PushPull(_, address):
                    self._asking[address.host] = NOBODY
                    self._hand_over(packets, address.host, Ask(self.machine.sync(NOBODY, now_s)))
                case AskVoices(node, voices):
                    self._hand_over(packets, f"n{int(node, 16)}", AskFor(voices))
                case Emit(event, is_damped, _):
                    self.changes.append(event)
                    if not is_damped:
                        self.published.append(event)
                case PersistPeers(peers):
                    self._host.disk.write(PEERS_PATH, _PEERS.encode(list(peers)))
                case LeaveAcknowledged(_):
                    self.leave_acknowledged = True
                case Superseded(_):
                    self.is_superseded = True
                case _:
                    self._tend(effect)
        return packets

    def _tend(self, effect: Effect) -> None:
        """See to the lifelines, where they are simulated."""
        lines, name = self._lifelines, self._host.name
        if lines is None:
            return
        match effect:
            case KeepLifelines(nodes):
                lines.keep(name, nodes)
            case Nudge(node, boot, patience_s):
                lines.nudge(name, node, boot, self.machine.trip_s(node), patience_s)
            case Reconnect(node, boot, _):
                lines.reconnect(name, node, boot, self.machine.trip_s(node))
            case TryPort(node, boot, _, patience_s):
                lines.try_port(name, node, boot, self.machine.trip_s(node), patience_s)
            case _:
                pass
