"""Directed runs of replica and coordinator: the windows that random seeds rarely hit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest

from balancer.placement import Placement, cache_unit
from balancer.record import FORMAT, JOINING, JOINT, STABLE, TopologyRecord
from balancer.spread import RingMember
from frys_node.base.types import ClusterId, Consistency, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import effects as fx
from frys_node.replication import hashtree
from frys_node.replication.admission import EARLY_BYTES_MAX, EARLY_MAX, Admission
from frys_node.replication.coordinator import CoordinatorMachine
from frys_node.replication.hlc import HybridClock
from frys_node.replication.messages import (
    LeafAsk,
    LeafPage,
    Read,
    ReadReply,
    Refused,
    Repair,
    Tree,
    TreeAsk,
    Write,
    WriteAck,
)
from frys_node.replication.pull import Purpose
from frys_node.replication.puller import PULLS_MAX, REFILLS_MAX, RETRY_S, ROUNDS_MAX, Puller
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine
from frys_node.replication.takeover import QUIET_S, Takeover
from frys_node.replication.unit import HeldUnit, UnitTable
from frys_node.testing.data_cluster import DictStore

NODES = tuple(NodeId(f"n{number}") for number in range(1, 6))
N1, N2, N3, N4, N5 = NODES
UNIT = cache_unit(0)


def key(seq: int) -> Epoch:
    """Return the key of the record with that number."""
    return Epoch(Term(1, N1), seq)


def record(seq: int, phase: str, ring: Iterable[NodeId], following: Iterable[NodeId] | None = None) -> Placement:
    """Return the placement of a record with one cache unit that every member holds."""
    members = tuple(RingMember(node=node) for node in ring)
    after = members if following is None else tuple(RingMember(node=node) for node in following)
    return Placement(
        TopologyRecord(
            format=FORMAT,
            cluster=ClusterId("c" * 32),
            epoch=key(seq),
            phase=phase,
            ring=members,
            next_ring=after,
            parent=key(seq - 1),
            partitions=1,
            replication_factor=5,
            vnodes=4,
        )
    )


class Bench:
    """One replica whose disk is driven by hand."""

    def __init__(self, node: NodeId = N1, *, durable: bool = True) -> None:
        self.machine = ReplicaMachine(node, random.Random(1), ReplicaConfig(bulk_by_messages=True))
        self.machine.declare("cache", lambda _unit: DictStore(), durable=durable)
        self.tokens: list[int] = []
        self.now_s = 0.0

    def take(self, found: Sequence[fx.Effect]) -> list[fx.Effect]:
        """Collect what waits for the disk; return the rest."""
        self.tokens += [effect.token for effect in found if isinstance(effect, fx.Persist)]
        return [effect for effect in found if not isinstance(effect, fx.Persist)]

    def adopt(self, placement: Placement) -> list[fx.Effect]:
        """Adopt a record."""
        return self.take(self.machine.adopt(placement, self.now_s))

    def receive(self, source: NodeId, message: object) -> list[fx.Effect]:
        """Hand a message over."""
        return self.take(self.machine.receive(source, message, self.now_s))  # type: ignore[arg-type]

    def sync(self) -> list[fx.Effect]:
        """Let the disk finish everything."""
        found: list[fx.Effect] = []
        while self.tokens:
            found += self.take(self.machine.persisted(self.tokens.pop(0), self.now_s))
        return found


def write(seq: int, number: int = 1) -> Write:
    """Return a write of key `k` under the record with that number."""
    return Write(key(seq), UNIT, number, 1, Version(number, 0, N2, 1), [(b"k", b"v%d" % number)])


def sent(found: Iterable[fx.Effect], kind: type) -> list[fx.Send]:
    """Return the messages of a kind."""
    return [effect for effect in found if isinstance(effect, fx.Send) and isinstance(effect.message, kind)]


def test_a_write_is_acknowledged_only_after_its_sync_and_a_duplicate_waits_too() -> None:
    """An ack never overtakes the disk, not even for a write that is in memory already (rule 7)."""
    bench = Bench()
    bench.adopt(record(2, STABLE, [N1, N2]))
    assert bench.receive(N2, write(2)) == []
    assert bench.receive(N2, write(2)) == []
    assert len(sent(bench.sync(), WriteAck)) == 2


def test_requests_under_another_record_are_refused_both_ways() -> None:
    """Older: refused with the newer record; higher: refused, and the record is asked for (rule 6)."""
    bench = Bench()
    bench.adopt(record(5, STABLE, [N1, N2]))
    for seq, effect in ((4, fx.ShareRecord(N2)), (6, fx.WantRecord(N2))):
        found = bench.receive(N2, write(seq))
        assert len(sent(found, Refused)) == 1
        assert effect in found
        assert bench.tokens == []
    held = bench.machine.local(UNIT)
    assert held is not None
    assert list(held.store.entries()) == []


def test_a_write_that_came_before_its_record_is_served_as_soon_as_that_is_adopted() -> None:
    """Its writer does not wait for its own retry; one under an older record stays refused, and none is served twice."""
    bench = Bench()
    bench.adopt(record(4, STABLE, [N1, N2]))
    for seq in (3, 5, 6):
        bench.receive(N2, write(seq, seq))
    assert bench.sync() == []
    bench.adopt(record(5, STABLE, [N1, N2]))
    assert [ack.message.request for ack in sent(bench.sync(), WriteAck)] == [5]  # type: ignore[union-attr]
    bench.adopt(record(6, STABLE, [N1, N2]))
    assert [ack.message.request for ack in sent(bench.sync(), WriteAck)] == [6]  # type: ignore[union-attr]
    bench.adopt(record(7, STABLE, [N1, N2]))
    assert bench.sync() == []


def test_early_requests_are_bounded_in_number_and_in_bytes() -> None:
    """A node that stays behind forgets the first of them: their senders ask again."""
    admission = Admission()
    for number in range(EARLY_MAX + 10):
        admission.refuse(N2, write(9, number), key(1))
    assert len(admission) == EARLY_MAX
    big = Write(key(9), UNIT, 1, 1, Version(1, 0, N2, 1), [(b"k", bytes(EARLY_BYTES_MAX // 4))])
    for _ in range(10):
        admission.refuse(N2, big, key(1))
    assert len(admission) == 3
    assert len(admission.take(key(9))) == 3
    assert len(admission) == 0


def test_an_incomplete_replica_takes_writes_and_gives_no_data() -> None:
    """Rule 8: no entry, no version, no tree; its reply says so."""
    bench = Bench(N3)
    bench.adopt(record(2, JOINING, [N1, N2], [N1, N2, N3]))
    bench.sync()
    bench.receive(N1, write(2))
    assert len(sent(bench.sync(), WriteAck)) == 1
    read = sent(bench.receive(N1, Read(key(2), UNIT, 7, 1, [b"k"])), ReadReply)[0].message
    assert read == ReadReply(key(2), UNIT, 7, 1, False, [], [])
    tree = sent(bench.receive(N1, TreeAsk(key(2), UNIT, 9)), Tree)[0].message
    assert tree == Tree(key(2), UNIT, 9, False, b"")
    assert bench.machine.local(UNIT) is None


def test_a_joiner_is_complete_only_after_a_pass_over_the_fence() -> None:
    """With three old members two finished sources are needed (rule 10), and the flag waits for the disk."""
    bench = Bench(N4)
    old, new = [N1, N2, N3], [N1, N2, N3, N4]
    bench.adopt(record(2, JOINING, old, new))
    asks = sent(bench.adopt(record(3, JOINT, old, new)), TreeAsk)
    assert {ask.to for ask in asks} == set(old)
    bench.sync()
    held = bench.machine.table.units[UNIT]
    for number, ask in enumerate(asks[:2]):
        message = ask.message
        assert isinstance(message, TreeAsk)
        bench.receive(ask.to, Tree(key(3), UNIT, message.pull, True, held.tree()))
        if number == 0:
            assert bench.sync() == []
            bench.take(bench.machine.advance(RETRY_S))
            assert not held.complete
    assert not held.complete
    assert fx.PassFinished(UNIT, key(3)) in bench.sync()
    assert held.complete


def test_an_incomplete_source_and_a_tree_of_another_record_do_not_count_for_a_pass() -> None:
    """Only a complete member that had adopted the same joint record is a source (rule 10)."""
    bench = Bench(N2)
    bench.adopt(record(2, JOINING, [N1], [N1, N2]))
    ask = sent(bench.adopt(record(3, JOINT, [N1], [N1, N2])), TreeAsk)[0].message
    assert isinstance(ask, TreeAsk)
    held = bench.machine.table.units[UNIT]
    bench.receive(N1, Tree(key(3), UNIT, ask.pull, False, b""))
    bench.receive(N1, Tree(key(2), UNIT, ask.pull, True, held.tree()))
    bench.receive(N3, Tree(key(3), UNIT, ask.pull, True, held.tree()))
    bench.receive(N1, Tree(key(3), UNIT, ask.pull, True, b"junk"))
    bench.sync()
    assert not held.complete


def test_a_stayer_takes_a_pass_too_and_counts_itself_as_one_source() -> None:
    """Rule 11: of three old members a stayer needs one other."""
    bench = Bench(N1)
    bench.adopt(record(2, STABLE, [N1, N2, N3]))
    asks = sent(bench.adopt(record(3, JOINT, [N1, N2, N3], [N1])), TreeAsk)
    (ask,) = asks
    assert ask.to in (N2, N3)
    message = ask.message
    assert isinstance(message, TreeAsk)
    bench.receive(ask.to, Tree(key(3), UNIT, message.pull, True, bench.machine.table.units[UNIT].tree()))
    assert fx.PassFinished(UNIT, key(3)) in bench.sync()


def test_a_node_that_joins_again_wipes_what_it_held_before() -> None:
    """Rule 12: once per transition, and not again when joint follows joining."""
    bench = Bench(N3)
    bench.adopt(record(1, STABLE, [N1, N2, N3]))
    bench.receive(N1, write(1))
    bench.sync()
    bench.adopt(record(4, STABLE, [N1, N2]))
    assert list(bench.machine.table.units[UNIT].store.entries())
    bench.adopt(record(5, JOINING, [N1, N2], [N1, N2, N3]))
    assert not list(bench.machine.table.units[UNIT].store.entries())
    bench.receive(N1, write(5, 2))
    bench.adopt(record(6, JOINT, [N1, N2], [N1, N2, N3]))
    assert len(list(bench.machine.table.units[UNIT].store.entries())) == 1
    bench.adopt(record(8, JOINING, [N1, N2], [N1, N2, N3]))
    assert not list(bench.machine.table.units[UNIT].store.entries())


def test_a_source_keeps_its_data_until_the_record_is_settled() -> None:
    """Rule 13: adopting stable(N) is not enough, and an older record's settlement says nothing."""
    bench = Bench(N3)
    bench.adopt(record(1, STABLE, [N1, N2, N3]))
    bench.adopt(record(4, STABLE, [N1, N2]))
    bench.take(bench.machine.settled(key(1), 0.0))
    assert UNIT in bench.machine.table.units
    bench.take(bench.machine.settled(key(4), 0.0))
    assert UNIT not in bench.machine.table.units


def test_repair_under_another_record_is_dropped() -> None:
    """Rule 15: hints and read repair are bound to the record key."""
    bench = Bench()
    bench.adopt(record(5, STABLE, [N1, N2]))
    bench.receive(N2, Repair(key(4), UNIT, 3, [Entry(b"k", Version(1, 0, N2, 1), b"old")]))
    assert bench.machine.table.units[UNIT].store.get([b"k"]) == [None]


def coordinator(placement: Placement, node: NodeId = N5) -> CoordinatorMachine:
    """Return a coordinator that is no replica itself."""
    machine = CoordinatorMachine(node, HybridClock(node, 1), random.Random(2))
    machine.adopt(placement, 0.0)
    return machine


def begin(machine: CoordinatorMachine, wall_ms: int = 10) -> tuple[int, list[fx.Send]]:
    """Write one key; return the request and what was sent."""
    request, found = machine.write(UNIT, [(b"k", b"v")], Consistency.QUORUM, deadline_s=9.0, now_s=0.0, wall_ms=wall_ms)
    return request, sent(found, Write)


def ack(write_sent: fx.Send, highest: Version | None = None) -> WriteAck:
    """Return the target's acknowledgement."""
    message = write_sent.message
    assert isinstance(message, Write)
    return WriteAck(message.epoch, UNIT, message.request, message.attempt, highest or message.version)


def test_a_write_that_meets_a_higher_version_is_stamped_above_it_once() -> None:
    """Rule 4: the second quorum acknowledges whatever else it has seen."""
    machine = coordinator(record(1, STABLE, [N1, N2, N3]))
    request, first = begin(machine)
    high = Version(99_999, 4, N1, 1)
    assert machine.receive(first[0].to, ack(first[0], high), 0.1) == []
    second = sent(machine.receive(first[1].to, ack(first[1]), 0.1), Write)
    assert len(second) == 3
    assert all(isinstance(s.message, Write) and s.message.version > high for s in second)
    higher = Version(100_000, 0, N1, 1)
    machine.receive(second[0].to, ack(second[0], higher), 0.2)
    done = machine.receive(second[1].to, ack(second[1]), 0.2)
    assert isinstance(done[0], fx.WriteDone)
    assert done[0].request == request
    assert high < done[0].version < higher


def test_replies_to_an_earlier_attempt_do_not_count() -> None:
    """After a re-stamp, late acknowledgements of the first stamp are no votes (rule 6)."""
    machine = coordinator(record(1, STABLE, [N1, N2, N3]))
    _, first = begin(machine)
    machine.receive(first[0].to, ack(first[0], Version(99, 0, N1, 1)), 0.1)
    machine.receive(first[1].to, ack(first[1]), 0.1)
    for old in first:
        assert machine.receive(old.to, ack(old), 0.2) == []


def test_adopting_a_record_forgets_votes_and_keeps_the_version() -> None:
    """A write refused by the fence is tried again under the new record with the same version."""
    machine = coordinator(record(1, STABLE, [N1, N2, N3]))
    _, first = begin(machine)
    machine.receive(first[0].to, ack(first[0]), 0.1)
    second = sent(machine.adopt(record(2, JOINING, [N1, N2, N3], [N2, N3, N4]), 0.2), Write)
    assert sorted(s.to for s in second) == [N1, N2, N3, N4]
    assert {s.message.version for s in second if isinstance(s.message, Write)} == {
        s.message.version for s in first if isinstance(s.message, Write)
    }
    assert machine.receive(first[1].to, ack(first[1]), 0.3) == []
    by_node = {s.to: s for s in second}
    assert machine.receive(N4, ack(by_node[N4]), 0.3) == []
    assert machine.receive(N1, ack(by_node[N1]), 0.3) == []
    assert isinstance(machine.receive(N2, ack(by_node[N2]), 0.3)[0], fx.WriteDone)


def test_lost_messages_are_sent_again_and_a_deadline_names_who_answered() -> None:
    """Only silent targets are asked again; in the end the failure says who did answer."""
    machine = coordinator(record(1, STABLE, [N1, N2, N3]))
    request, first = begin(machine)
    machine.receive(first[0].to, ack(first[0]), 0.1)
    again = sent(machine.advance(machine.next_deadline_s), Write)
    assert sorted(s.to for s in again) == sorted(s.to for s in first[1:])
    failed = [effect for effect in machine.advance(9.0) if isinstance(effect, fx.RequestFailed)]
    assert failed == [fx.RequestFailed(request, UNIT, (first[0].to,), tuple(s.to for s in first))]


def test_a_silent_target_gets_a_hint_that_leaves_when_it_acknowledges() -> None:
    """Hints come after the quorum and are forgotten on the target's word."""
    machine = coordinator(record(1, STABLE, [N1, N2, N3]))
    _, first = begin(machine)
    for one in first[:2]:
        machine.receive(one.to, ack(one), 0.1)
    machine.advance(1.2)
    replay = sent(machine.advance(3.5), Repair)
    assert len(machine.hints) == 1
    hint = (sent(machine.advance(9.0), Repair) or replay)[0]
    assert hint.to == first[2].to


def test_a_read_never_uses_data_of_an_incomplete_replica() -> None:
    """A reply that is not complete counts for the epoch only (rule 8)."""
    machine = coordinator(record(3, JOINT, [N1], [N1, N2]))
    request, found = machine.read(UNIT, [b"k"], Consistency.QUORUM, deadline_s=9.0, now_s=0.0)
    asks = {s.to: s.message for s in sent(found, Read)}
    ask = asks[N2]
    assert isinstance(ask, Read)
    stray = Entry(b"k", Version(5, 0, N4, 1), b"stray")
    lying = ReadReply(key(3), UNIT, request, ask.attempt, False, [stray], [])
    assert machine.receive(N2, lying, 0.1) == []
    held = Entry(b"k", Version(4, 0, N4, 1), b"held")
    done = machine.receive(N1, ReadReply(key(3), UNIT, request, ask.attempt, True, [held], []), 0.1)
    assert isinstance(done[0], fx.ReadDone)
    assert done[0].entries == [held]


def test_a_durable_unit_catches_up_beside_any_number_of_refills() -> None:
    """Members with nothing to give may hold every refill: a durable unit is asked for at once, and after them too."""
    puller = Puller(N1, UnitTable(), random.Random(1))
    finished: list[str] = []

    def takeover(unit: str, purpose: Purpose) -> Takeover:
        def then(_at_s: float) -> list[fx.Effect]:
            finished.append(unit)
            return []

        return Takeover(
            UnitId(unit),
            epoch=key(5),
            purpose=purpose,
            sources=(N2, N3),
            needed=1,
            then=then,
            started_s=0.0,
        )

    for number in range(2 * PULLS_MAX):
        puller.start(takeover(f"cache/{number}", Purpose.REFILL), 0.0)
    asked = puller.start(takeover("vector/c/0", Purpose.CATCH_UP), 0.0)
    assert [effect.to for effect in asked if isinstance(effect, fx.Send)] == [N2, N3]
    now_s = 3.0
    while puller.has(Purpose.REFILL):
        # Those that were asked and heard nothing make room, and the next ones have their turn before they are given up.
        given_up = len(finished)
        puller.expire(Purpose.REFILL, 1.0, now_s)
        assert len(finished) == given_up + REFILLS_MAX // 2
        now_s += 2 * QUIET_S
    assert len(finished) == 2 * PULLS_MAX
    assert puller.active == 2
    assert len(puller.start(takeover("vector/c/1", Purpose.CATCH_UP), now_s)) == 2


def test_a_unit_that_starts_empty_lets_nothing_older_back() -> None:
    """Below the floor every read is a miss and every older version is refused, and a write is told to go above it."""
    unit = HeldUnit(UNIT, DictStore(), durable=False, complete=True, join_key=None)
    old, floor, new = Version(5, 0, N2, 1), Version(9, 0, N1, 2), Version(12, 0, N3, 1)
    unit.merge([Entry(b"kept", new, b"v"), Entry(b"gone", old, b"v")])
    unit.raise_floor(floor)
    assert unit.get([b"kept", b"gone", b"never"]) == [
        Entry(b"kept", new, b"v"),
        Entry(b"gone", floor, None),
        Entry(b"never", floor, None),
    ]
    merged = unit.merge([Entry(b"gone", old, b"v")])
    assert merged.highest == floor
    assert merged.taken == []
    assert [entry.key for entry in unit.store.entries()] == [b"kept"]


@pytest.mark.parametrize("is_known", [True, False])
def test_of_early_writes_below_the_floor_only_those_that_no_source_has_are_dropped(is_known: bool) -> None:
    """A source that has it too may have acknowledged it with this node; if none has, its tombstone may be gone."""
    bench, floor = Bench(N3, durable=False), Version(9, 0, N1, 1)
    bench.adopt(record(2, JOINING, [N1], [N1, N3]))
    bench.receive(N2, write(2))
    held = bench.machine.table.units[UNIT]
    asks = sent(bench.adopt(record(3, JOINT, [N1], [N1, N3])), TreeAsk)
    rounds = 0
    while not held.complete:
        rounds += 1
        (ask,) = asks
        assert isinstance(ask.message, TreeAsk)
        leaves = held.tree() if is_known else hashtree.build([])
        tree = Tree(key(3), UNIT, ask.message.pull, True, b"" if is_known else leaves, None, is_known, floor)
        found = bench.receive(N1, tree)
        for page in sent(found, LeafAsk):
            assert isinstance(page.message, LeafAsk)
            found = bench.receive(N1, LeafPage(key(3), UNIT, page.message.pull, b"", True, [], False))
        asks = sent(found, TreeAsk)
    # The first answer told of the floor and was asked for again.
    assert rounds == (2 if is_known else ROUNDS_MAX + 1)
    assert bool(list(held.store.entries())) is is_known


def test_a_unit_in_memory_that_most_members_lost_in_joint_starts_empty_and_takes_its_pass() -> None:
    """Two of three have restarted: the pass would want two complete sources, and the step would stand for ever."""
    old, new = [N1, N2, N3], [N1, N2, N4]
    bench = Bench(N1, durable=False)
    asks = sent(bench.adopt(record(3, JOINT, old, new)), TreeAsk)
    assert sorted(ask.to for ask in asks) == [N2, N3]
    for now_s in (10.0, 20.0, 30.0):
        bench.now_s = now_s
        found = bench.take(bench.machine.advance(now_s))
        if any(isinstance(effect, fx.StartedEmpty) for effect in found):
            break
    (floor,) = [effect.floor for effect in found if isinstance(effect, fx.StartedEmpty)]
    ask = sent(found, TreeAsk)[-1]
    held = bench.machine.table.units[UNIT]
    assert held.complete
    message = ask.message
    assert isinstance(message, TreeAsk)
    tree = Tree(key(3), UNIT, message.pull, True, held.tree(), floor)
    assert fx.PassFinished(UNIT, key(3)) in bench.receive(ask.to, tree)


def test_equal_replicas_compare_sixteen_bytes() -> None:
    """A tree whose root the asker named is left out; another root gets all leaves."""
    bench = Bench(N2)
    bench.adopt(record(2, STABLE, [N1, N2]))
    bench.sync()
    leaves = bench.machine.table.units[UNIT].tree()
    (same,) = sent(bench.receive(N1, TreeAsk(key(2), UNIT, 9, hashtree.root(leaves))), Tree)
    assert same.message == Tree(key(2), UNIT, 9, True, b"", None, True)
    (other,) = sent(bench.receive(N1, TreeAsk(key(2), UNIT, 9, bytes(16))), Tree)
    assert other.message == Tree(key(2), UNIT, 9, True, leaves)
