"""The membership machine under fuzz: a node with a table of members, fed a session of packets and calls.

An input is either one message, as it comes from the wire, or a session: an array of steps, each
`[kind, who, wait_ms, bytes]`.
What must hold of a node is checked after each step; at the end the node lives on for a while.
"""

from __future__ import annotations

import random
import socket
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from membership_hands import BOOT, ME, B, C, D, E, address, answered, claim, said

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import NodeId
from frys_node.testing.voices import FakeVoices
from frys_node.transport.addresses import sockaddr
from frys_node.wire.codec import Codec
from membership.catchup import BATCHES, HEADS, Batch, Head, Heads
from membership.config import for_profile
from membership.driver_exchange import PUSH_PULL
from membership.edges import Edge
from membership.effects import Effect, Reconnect, SendBatch, SendPacket, SendRumour, TryPort
from membership.findings import Finding, LifelineDown, LifelineEnd, LifelineUp, Nudged, PortState, Tried
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import NOBODY, PACKETS, SYNC_PLAIN_BYTES_MAX, SYNCS, Gossip, Standing, Sync
from membership.packing import pack
from membership.rumours import (
    RUMOURS,
    RUMOURS_BYTES_MAX,
    RUMOURS_MAX,
    Query,
    QueryReply,
    StateDelta,
    StateEntry,
    UserEvent,
)
from membership.table import fingerprint
from membership.testimony import CrashReport, Vouch, VouchKind

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
STRANGER = NodeId("f" * 32)
MEMBERS_MAX = 16
CONFIG = for_profile("lan", members_max=MEMBERS_MAX)
SENDERS = (B, C, D, E, STRANGER, ME)
BOOTS = (BOOT, BOOT + 1, BOOT - 1, 0, (1 << 64) - 1)
ATTRIBUTES = make_attributes("0", address(ME))
EVERYBODY = (*(claim(node) for node in (B, C, D)), claim(E, Standing.SUSPECT, 1, accuser=C))

STEPS_MAX = 5
WAIT_MS_MAX = 120_000
LIVED_S_MAX = 1.0
AFTERLIFE_S = (0.15, 6.0)
GUARDS = ("membership-guard-1.hex", "membership-guard-2.hex", "membership-guard-3.hex")

LONG_LIVES = 32
"""One input in so many is followed by the longer afterlife: turns are what costs time."""

TURNS_MAX = 400
"""Deadlines in one wait or afterlife; more of them mean that the machine does not get on."""

PACKET, SYNC, RUMOUR, HEADS_SAID, BATCH, FINDING, SHORT_PACKET = range(7)
"""Kinds of steps."""


class Broken(AssertionError):
    """Something that must hold of a node does not."""


def check(holds: object, what: str) -> None:
    """Raise if something does not hold; unlike `assert` it stays under any flag."""
    if not holds:
        raise Broken(what)


VOICE_NAME_BYTES_MAX = 64
"""The test voices' MAC takes no longer id of a node; real ones do, and know no such node."""


class CredulousVoices(FakeVoices):
    """Believes whatever is signed at all, so that made-up claims get as deep as proven ones do."""

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool | None:
        """A signature that begins with a zero is of a voice that is not known."""
        if len(node.encode()) <= VOICE_NAME_BYTES_MAX and super().verify(node, data, signature):
            return True
        return None if signature[:1] == b"\0" else bool(signature)


class Session:
    """One node through one input."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.machine = m = Membership(
            node=ME,
            boot=BOOT,
            attributes=ATTRIBUTES,
            config=CONFIG,
            rng=random.Random(1),
            now_s=self.now_s,
            voices=CredulousVoices(ME),
            unix_offset_ns=1_700_000_000_000_000_000,
        )
        m.merge_sync(Sync(EVERYBODY), B, self.now_s)
        m.talk.queries.handled.add("deploy")
        m.talk.fire("started", b"1", self.now_s)
        m.talk.states.put("key", b"value", self.now_s)
        m.talk.ask("ping", b"x", nodes=(B,), timeout_s=5.0, now_s=self.now_s)
        m.end_turn(self.now_s)

    # What the machine wants done.

    def perform(self, effects: Iterable[Effect]) -> None:
        """Take effects as a driver would: all bytes are for other nodes to read, all addresses for the kernel."""
        for effect in effects:
            match effect:
                case SendPacket(where, payload, _):
                    check(len(payload) <= CONFIG.payload_bytes_max, f"a packet of {len(payload)} bytes")
                    PACKETS.decode(payload)
                case SendRumour(_, where, data):
                    RUMOURS.decode(data)
                case SendBatch(_, where, data):
                    check(len(data) <= SYNC_PLAIN_BYTES_MAX, f"a batch of {len(data)} bytes")
                    BATCHES.decode(data)
                case Reconnect(_, _, where) | TryPort(_, _, where):
                    pass
                case _:
                    continue
            for family in (socket.AF_INET, socket.AF_INET6):
                sockaddr(where, family)

    def wait(self, span_s: float) -> None:
        """Let the machine live for a time."""
        m, until_s = self.machine, self.now_s + span_s
        for _ in range(TURNS_MAX):
            if m.next_deadline_s > until_s:
                self.now_s = until_s
                return
            self.now_s = max(self.now_s, m.next_deadline_s)
            self.perform(m.advance(self.now_s))
        raise Broken(f"{TURNS_MAX} turns brought it from {until_s - span_s} to {self.now_s}")

    # One step.

    def step(self, kind: int, who: int, wait_ms: int, payload: bytes) -> None:
        """Wait, then hand over bytes from somebody; the codecs may say no, the machine may not."""
        m = self.machine
        span_s = min(abs(wait_ms), WAIT_MS_MAX) / 1e3
        if span_s > LIVED_S_MAX:
            # A longer wait is a node that stood still: turns are what costs time.
            self.now_s += span_s
            self.perform(m.advance(self.now_s))
        else:
            self.wait(span_s)
        source = SENDERS[who % len(SENDERS)]
        boot = BOOTS[who // len(SENDERS) % len(BOOTS)]
        match kind:
            case 1:
                self._sync(payload, source)
            case 2:
                self.perform(m.hear(payload, source, self.now_s))
            case 3:
                m.talk.meet(payload, source, self.now_s)
                self.perform(m.end_turn(self.now_s))
            case 4:
                self._batch(payload)
            case 5:
                # A node never looks at itself from outside.
                node = B if source == ME else source
                self.perform(m.found(self._finding(payload, node, boot), self.now_s))
            case _:
                effects = m.receive(
                    payload,
                    source,
                    address(NodeId(source)) if source in (B, C, D, E, ME) else address(NodeId("9")),
                    self.now_s,
                    source_boot=boot,
                    is_short=kind == SHORT_PACKET,
                )
                self.perform(effects)
        self.verify()

    def _sync(self, payload: bytes, source: NodeId) -> None:
        try:
            sync = PUSH_PULL.request.decode(payload)
        except MalformedFrame:
            return
        self.perform(self.machine.merge_sync(sync, source, self.now_s))
        self._piece(sync.after)

    def _batch(self, payload: bytes) -> None:
        try:
            batch = BATCHES.decode(payload)
        except MalformedFrame:
            return
        said = self.machine.talk.take_batch(batch, B, self.now_s)
        if said:
            HEADS.decode(said)
        self.perform(self.machine.end_turn(self.now_s))

    @staticmethod
    def _finding(payload: bytes, node: NodeId, boot: int) -> Finding:
        match sum(payload) % 6:
            case 0:
                return LifelineUp(node, boot)
            case 1:
                return LifelineDown(node, boot, LifelineEnd.LOST)
            case 2:
                return Tried(node, boot, PortState.REFUSED)
            case 3:
                return Tried(node, boot, PortState.OPEN)
            case _:
                return Nudged(node, boot, bool(len(payload) % 2))

    # What must hold.

    def _piece(self, after: NodeId) -> None:
        piece = self.machine.sync(after, self.now_s)
        check(len(SYNCS.encode(piece)) <= SYNC_PLAIN_BYTES_MAX, "a piece of the table is over a frame")
        PUSH_PULL.reply.decode(PUSH_PULL.reply.encode(piece))

    def verify(self) -> None:
        """Check what must hold after every step."""
        m = self.machine
        table, queue = m._claims.table, m.rumours.queue
        own = m._claims.own
        check((own.node, own.boot, own.standing) == (ME, BOOT, Standing.ALIVE), f"own identity forged: {own}")
        check(own.attributes == ATTRIBUTES, f"own attributes forged: {own.attributes}")
        check(len(table) <= MEMBERS_MAX, f"{len(table)} members")
        check(m.queue_length <= MEMBERS_MAX, f"{m.queue_length} updates queued")
        check(len(queue) <= RUMOURS_MAX and queue.bytes <= RUMOURS_BYTES_MAX, "rumours over their bounds")
        check(queue.bytes == sum(len(entry.data) for entry in queue._queue), "bytes of rumours miscounted")
        live = [member for member in table if member.is_live]
        digest = 0
        for member in live:
            digest ^= fingerprint(member.update)
        check(digest == table.digest, "the digest is not that of the table")
        check({x.node for x in live} - {ME} == set(table.live), "the roster is not that of the table")
        check(sum(table.counts.values()) == len(table), "members miscounted")
        check(m.next_deadline_s == m.next_deadline_s >= 0.0, f"deadline {m.next_deadline_s}")
        window = m.talk.events.windows[ME]
        check((window.boot, window.head, len(window.missing)) == (BOOT, 1, 0), "own events forged")
        state = m.talk.states.by_node[ME]
        check((state.boot, state.version, len(state.entries)) == (BOOT, 1, 1), "own state forged")

    def end(self, *, is_long: bool) -> None:
        """Live on, and say everything that a node says of itself and of others."""
        self.wait(AFTERLIFE_S[is_long])
        self.verify()
        self._piece(NOBODY)
        m = self.machine
        msgspec.json.encode(m.views(self.now_s))
        HEADS.decode(m.talk.said())
        for member in m._claims.table:
            msgspec.json.encode([entry._asdict() for entry in m.story(member.node)])
        m.edges(self.now_s)
        m.peers()


def steps_of(data: bytes, kind: int) -> list[tuple[int, int, int, bytes]]:
    """Return the session that an input stands for: a single step of a kind, if it is no session."""
    try:
        value: Any = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError):
        value = None
    if not isinstance(value, list) or not value or not all(isinstance(step, list) for step in value):
        return [(kind, 0, 0, data)]
    steps = []
    for step in value[:STEPS_MAX]:
        match step:
            case [int(number), int(who), int(wait_ms), bytes(payload), *_]:
                steps.append((number, who, wait_ms, payload))
    return steps


def _is_read(kind: int, who: int, wait_ms: int, payload: bytes) -> bool:
    """Return False if the codec of a step's kind refuses its bytes, and the step brings no time."""
    codecs: dict[int, Codec[Any]] = {SYNC: PUSH_PULL.request, RUMOUR: RUMOURS, HEADS_SAID: HEADS, BATCH: BATCHES}
    try:
        codecs.get(kind, PACKETS).decode(payload)
    except MalformedFrame:
        return bool(wait_ms) or kind == FINDING
    return True


class MachineHarness:
    """Sessions whose plain inputs are steps of one kind."""

    def __init__(self, kind: int, seeds: list[bytes]) -> None:
        self._kind = kind
        self._seeds = seeds
        self._idle = Session()
        """Stands by for inputs that are junk from the first byte."""

    def seeds(self) -> list[bytes]:
        """Inputs to begin with."""
        return self._seeds

    def run(self, data: bytes) -> None:
        """Feed one input; whatever is raised is a finding."""
        steps = steps_of(data, self._kind)
        if len(steps) == 1 and not _is_read(*steps[0]):
            # No codec takes it, so it changes nothing, and there is no need to make a new node for it.
            self._idle.step(*steps[0])
            return
        session = Session()
        for step in steps:
            session.step(*step)
        session.end(is_long=zlib.crc32(data) % LONG_LIVES == 0)


# Seeds.


def golden(name: str) -> dict[str, bytes]:
    """Return the lines of a golden file by name."""
    lines = (GOLDEN / name).read_text().splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {key: bytes.fromhex(data) for key, data in pairs}


def session_of(*steps: tuple[int, int, int, bytes]) -> bytes:
    """Encode a session."""
    return msgspec.msgpack.encode(steps)


def sessions_of(steps: list[tuple[int, int, int, bytes]]) -> list[bytes]:
    """Encode sessions of as many steps as are taken."""
    return [session_of(*steps[at : at + STEPS_MAX]) for at in range(0, len(steps), STEPS_MAX)]


def packet_seeds() -> list[bytes]:
    """Every golden packet, plain and compressed, all of them in a row, and the rumours in packets."""
    packets = [data for version in (1, 2, 3, 4, 5) for k, data in golden(f"membership-packets-{version}.hex").items()]
    guard = golden("membership-guard-1.hex")
    packets += [data for key, data in guard.items() if key.startswith("beat")]
    told = rumours()
    gossip = [PACKETS.encode(Gossip((claim(B, incarnation=1),), (data,))) for data in told]
    large = pack(PACKETS.encode(Gossip(tuple(claim(NodeId(f"{n:032x}")) for n in range(12)))), 64)
    steps = [(PACKET + SHORT_PACKET * (n % 2), n, 40 * n, data) for n, data in enumerate([*packets, *gossip])]
    accused = PACKETS.encode(Gossip((claim(ME, Standing.SUSPECT, 3, accuser=B), claim(C, Standing.DEAD, 2, age_s=9))))
    return [*packets, *gossip, large, accused, *sessions_of(steps)]


def rumours() -> list[bytes]:
    """Every golden rumour, and one of each kind about members of the table."""
    told = [*golden("membership-rumours-1.hex").values(), *golden("membership-rumours-2.hex").values()]
    told += [guard[key] for guard in map(golden, GUARDS) for key in ("vouch", "crash_report")]
    about = (
        Edge(B, C, 1_700_000_000),
        Vouch(C, BOOT, 0, B, VouchKind.KERNEL_ACK, 1),
        CrashReport(C, BOOT, 0, B, True),
        UserEvent(B, BOOT, 3, 1, 1, "deploy", b"v2"),
        Query(B, BOOT, 1, 1, 5_000, "deploy", b"x"),
        StateDelta(B, BOOT, 0, 0, 2, (StateEntry("k", b"v", 1), StateEntry("gone", b"", 2, True))),
    )
    return [*told, *map(said, about), answered(QueryReply(BOOT, 1, 1, b"x"), B)]


def rumour_seeds() -> list[bytes]:
    """Every rumour by itself, and in rows with what a driver finds out between them."""
    told = rumours()
    steps = [(RUMOUR, n, 100, data) for n, data in enumerate(told)]
    findings = [(FINDING, n, 50, bytes([n])) for n in range(5)]
    mixed = [step for pair in zip(steps, findings * 3, strict=False) for step in pair]
    return [*told, *sessions_of(steps), *sessions_of(mixed)]


def sync_seeds() -> list[bytes]:
    """Golden state exchanges, a compressed one, and two in a row."""
    syncs = [golden(f"membership-packets-{version}.hex")["sync"] for version in (1, 2, 3, 4)]
    heads = HEADS.encode(Heads((Head(B, BOOT, 3, 9, (4, 7)), Head(C, BOOT, 0, 2)), True))
    large = pack(SYNCS.encode(Sync(tuple(claim(NodeId(f"{n:032x}")) for n in range(20)), B, True, heads)), 64)
    return [*syncs, large, session_of((SYNC, 0, 10, large), (SYNC, 7, 900, syncs[2]), (HEADS_SAID, 1, 10, heads))]


def catch_up_seeds() -> list[bytes]:
    """Heads, batches of the golden rumours, and both in turns."""
    heads = Heads((Head(B, BOOT, 3, 9, (4, 7)), Head(ME, BOOT, 1, 1), Head(NodeId("b"), 1 << 40, 6, 7, (5,))), True)
    batches = [BATCHES.encode(Batch(tuple(rumours()), heads, is_whole)) for is_whole in (True, False)]
    said = HEADS.encode(heads)
    turns = session_of((HEADS_SAID, 0, 10, said), (BATCH, 0, 10, batches[0]), (HEADS_SAID, 1, 400, said))
    return [*batches, said, session_of((HEADS_SAID, 0, 0, said)), turns]
