"""Tombstones are freed when all agree, and what was dead stays dead (rules 16 to 19)."""

from __future__ import annotations

import msgspec

from frys_node.base.types import Consistency, Epoch, NodeId, Term
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import effects as fx
from frys_node.replication import hashtree
from frys_node.replication.knobs import ReplicaConfig
from frys_node.replication.messages import FloorsRecord, LeafPage, Purge, Repair, Seal, Sealed, Tree, Write
from frys_node.replication.pull import Pull, Purpose
from frys_node.replication.replica import ReplicaMachine
from frys_node.replication.unit import HeldUnit
from frys_node.testing.data_cluster import DictStore
from frys_node.testing.replica_desk import START_MS, UNIT, Desk, record_of

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
CONFIG = ReplicaConfig(
    bulk_by_messages=True, sync_interval_s=3_600.0, catches_up=False, gc_min_age_s=10.0, gc_interval_s=1.0
)
STABLE_3 = record_of(2, ["n1", "n2", "n3"])
LEADER = STABLE_3.sets(UNIT).current[0]
OTHERS = [name for name in (N1, N2, N3) if name != LEADER]


def desk_of_3(*, durable: bool = True, config: ReplicaConfig = CONFIG) -> Desk:
    """Return three members with one deleted and one living key, written at the start."""
    desk = Desk(3, config, durable=durable)
    desk.adopt(STABLE_3)
    desk.pass_time(4.0)  # a unit in memory looks for others first
    assert isinstance(desk.write("n1", b"old", consistency=Consistency.ALL), fx.WriteDone)
    assert isinstance(desk.write("n1", b"kept", b"live", Consistency.ALL), fx.WriteDone)
    assert isinstance(desk.write("n1", None, consistency=Consistency.ALL), fx.WriteDone)
    return desk


def purge_floor(desk: Desk, name: str) -> Version | None:
    """Return a member's purge floor."""
    return desk.replicas[NodeId(name)].table.units[UNIT].purge_floor


def cut_off(desk: Desk, *gone: NodeId) -> None:
    """Have nodes be down for the others, and up again if they are not named."""
    desk.down = set(gone)
    desk.cut = {(a, b) for a in desk.names for b in desk.names if a != b and {a, b} & desk.down}


def waiting(desk: Desk, name: NodeId) -> dict[NodeId, list[str]]:
    """Return what a node says waits for whom."""
    return {node: list(wait.units) for node, wait in desk.replicas[name].purger.waits_for().items()}


def test_a_tombstone_goes_once_it_is_old_enough_and_not_before() -> None:
    """After 10 s (`gc_min_age_s`) all three agree and free it; what lives stays."""
    for durable in (True, False):
        desk = desk_of_3(durable=durable)
        desk.pass_time(9.0)
        assert [desk.held(name) is not None for name in desk.names] == [True] * 3
        desk.pass_time(4.0)
        assert [desk.held(name) for name in desk.names] == [None] * 3
        assert desk.read("n2", b"live") == b"kept"
        assert desk.read("n2") is None
        assert desk.replicas[LEADER].purger.outcomes["agreed"] == 1


def test_units_in_memory_have_an_age_of_their_own() -> None:
    """Those of the cache free their tombstones after `memory_gc_min_age_s`, durable ones keep theirs for longer."""
    brief = msgspec.structs.replace(CONFIG, gc_min_age_s=100.0, memory_gc_min_age_s=10.0)
    for durable in (True, False):
        desk = desk_of_3(durable=durable, config=brief)
        desk.pass_time(9.0)
        assert [desk.held(name) is not None for name in desk.names] == [True] * 3
        desk.pass_time(4.0)
        assert [desk.held(name) is not None for name in desk.names] == [durable] * 3


def test_the_floors_are_in_the_log_before_anybody_hears_of_them() -> None:
    """The digest answers for what a crash leaves: the write floor is logged with all that came before it."""
    desk = desk_of_3()
    desk.keeps = lambda _a, _b, message: isinstance(message, Sealed)
    desk.pass_time(12.0)
    for name in desk.names:
        floors = [record for record in desk.logs[name] if isinstance(record, FloorsRecord)]
        assert floors[0].write_floor is not None
        assert floors[0].purge_floor is None


def test_one_member_that_is_down_stops_it_and_is_named_and_its_return_ends_that() -> None:
    """Rule 19: nothing is freed by age alone, however long it takes."""
    desk = desk_of_3()
    gone = OTHERS[0]
    desk.cut = {(gone, name) for name in desk.names} | {(name, gone) for name in desk.names}
    desk.pass_time(60.0)
    assert [desk.held(name) is not None for name in desk.names] == [True] * 3
    ((named, wait),) = desk.replicas[LEADER].purger.waits_for().items()
    assert (named, wait.units) == (gone, [UNIT])
    assert START_MS + 10_000 <= wait.since_unix_ms <= START_MS + 25_000
    assert [desk.replicas[name].purger.waits_for() for name in OTHERS] == [{}, {}]
    desk.cut = set()
    desk.pass_time(8.0)
    assert [desk.held(name) for name in desk.names] == [None] * 3
    assert desk.replicas[LEADER].purger.waits_for() == {}


def test_tombstones_that_wait_for_the_first_member_are_named_by_the_first_one_that_is_up() -> None:
    """Nobody leads a purge then, which could not end anyway; one node says so, and since when, until it is back."""
    desk = desk_of_3()
    first, second, third = STABLE_3.sets(UNIT).current
    cut_off(desk, first)
    desk.pass_time(20.0)
    assert waiting(desk, second) == {first: [UNIT]}
    assert waiting(desk, third) == {}
    since_ms = desk.replicas[second].purger.waits_for()[first].since_unix_ms
    desk.pass_time(40.0)
    assert desk.replicas[second].purger.waits_for()[first].since_unix_ms == since_ms
    cut_off(desk, first, second)
    desk.pass_time(20.0)
    assert waiting(desk, third) == {first: [UNIT], second: [UNIT]}
    assert [desk.held(name) is not None for name in desk.names] == [True] * 3
    cut_off(desk)
    assert [waiting(desk, name) for name in (second, third)] == [{}, {}]
    desk.pass_time(8.0)
    assert [desk.held(name) for name in desk.names] == [None] * 3
    assert [desk.replicas[name].purger.stopped for name in desk.names] == [{}] * 3


def test_another_record_does_not_make_anybody_forget_how_long_tombstones_have_waited() -> None:
    """Since when they wait is told through changes of the record, of those that are still members."""
    desk = desk_of_3()
    first, second, third = STABLE_3.sets(UNIT).current
    cut_off(desk, first)
    desk.pass_time(20.0)
    since_ms = desk.replicas[second].purger.waits_for()[first].since_unix_ms
    desk.adopt(record_of(3, ["n1", "n2", "n3"]), second, third)
    assert desk.replicas[second].purger.waits_for()[first].since_unix_ms == since_ms
    desk.adopt(record_of(4, [second, third]), second, third)
    assert waiting(desk, second) == {}


def test_a_first_member_that_is_not_whole_says_that_tombstones_wait_for_itself() -> None:
    """It cannot lead before it has what the others have, and they cannot free anything meanwhile."""
    desk = desk_of_3()
    desk.replicas[LEADER].table.units[UNIT].complete = False
    desk.pass_time(20.0)
    assert [desk.held(name) is not None for name in desk.names] == [True] * 3
    assert waiting(desk, LEADER) == {LEADER: [UNIT]}
    assert [waiting(desk, name) for name in OTHERS] == [{}, {}]


def test_members_that_differ_exchange_what_they_lack_and_agree_later() -> None:
    """A member that missed the delete keeps the tombstone everywhere until it has it too."""
    desk = Desk(3, CONFIG)
    desk.adopt(STABLE_3)
    behind = OTHERS[1]
    desk.write("n1", b"old", consistency=Consistency.ALL)
    desk.cut = {(name, behind) for name in desk.names}
    desk.write(LEADER, None)
    desk.cut = set()
    desk.replicas[behind].sync_soon(desk.now_s)
    desk.replicas[behind].config = CONFIG
    desk.pass_time(13.0)
    assert desk.replicas[LEADER].purger.outcomes["differed"] + desk.replicas[LEADER].purger.outcomes["agreed"] >= 1
    desk.replicas[behind].sync_soon(desk.now_s)
    desk.pass_time(6.0)
    assert [desk.held(name) for name in desk.names] == [None] * 3
    assert desk.read(behind, consistency=Consistency.ONE) is None


def test_a_late_write_hint_or_repair_below_the_floor_brings_nothing_back() -> None:
    """The door below the write floor is closed: a coordinator is told `too_old`, a repair is dropped."""
    desk = desk_of_3()
    desk.pass_time(14.0)
    old = Version(START_MS - 5_000, 0, N2, 1)
    replica: ReplicaMachine = desk.replicas[N1]
    (refused,) = replica.receive(N2, Write(STABLE_3.record.epoch, UNIT, 1, 1, old, [(b"k", b"ghost")]), desk.now_s)
    assert isinstance(refused, fx.Send)
    assert refused.message.code == "replication.too_old"  # type: ignore[union-attr]
    replica.receive(N2, Repair(STABLE_3.record.epoch, UNIT, 0, [Entry(b"k", old, b"ghost")]), desk.now_s)
    assert desk.held("n1") is None


def test_a_member_that_never_heard_of_the_purge_gives_its_tombstones_to_nobody() -> None:
    """Below the purge floor what all had agreed on and one does not have is dead, so nothing returns by exchange."""
    desk = desk_of_3()
    deaf = OTHERS[0]
    desk.keeps = lambda _a, target, message: isinstance(message, Purge) and target == deaf
    desk.pass_time(14.0)
    assert desk.held(deaf) is not None
    for name in desk.names:
        desk.replicas[name].sync_soon(desk.now_s)
    desk.pass_time(1.0)
    assert desk.held(LEADER) is None
    desk.kept.clear()
    desk.replicas[deaf].sync_soon(desk.now_s)
    desk.pass_time(1.0)
    assert desk.held(deaf) is None
    assert purge_floor(desk, deaf) == purge_floor(desk, LEADER)


def test_a_floor_ahead_of_a_members_own_clock_is_refused() -> None:
    """A leader whose clock is a year ahead frees nothing."""
    desk = desk_of_3()
    desk.wall_ms[LEADER] += 365 * 86_400 * 1_000
    desk.pass_time(3.0)
    assert [desk.held(name) is not None for name in desk.names] == [True] * 3
    (answer,) = desk.replicas[OTHERS[0]].receive(
        LEADER, Seal(STABLE_3.record.epoch, UNIT, 9, Version(START_MS + 10**9, 0, NodeId(""), 0)), desk.now_s
    )
    assert isinstance(answer, fx.Send)
    assert answer.message == Sealed(STABLE_3.record.epoch, UNIT, 9, False)


def test_a_joiners_stray_below_the_sources_floor_goes_with_its_pass() -> None:
    """Rule 18: an old stamp that only the joiner took is dead, since the complete source has nothing there."""
    desk = Desk(4, CONFIG)
    desk.adopt(STABLE_3)
    desk.write("n1", b"old", consistency=Consistency.ALL)
    desk.write("n1", None, consistency=Consistency.ALL)
    desk.pass_time(14.0)
    three, four = ["n1", "n2", "n3"], ["n1", "n2", "n3", "n4"]
    joining = record_of(3, three, four, "joining")
    desk.adopt(joining)
    stray = Write(joining.record.epoch, UNIT, 5, 1, Version(START_MS - 1, 0, N2, 1), [(b"k", b"ghost")])
    joiner = desk.replicas[NodeId("n4")]
    joiner.table.units[UNIT].write_floor = None
    for effect in joiner.receive(N2, stray, desk.now_s):
        if isinstance(effect, fx.Persist):
            joiner.persisted(effect.token, desk.now_s)
    assert desk.held("n4") is not None
    desk.adopt(record_of(4, three, four, "joint"))
    desk.pass_time(2.0)
    held = joiner.table.units[UNIT]
    assert held.complete
    assert desk.held("n4") is None
    assert held.purge_floor == purge_floor(desk, "n1")


def test_a_source_with_a_purge_floor_that_fails_half_way_leaves_the_floor_behind() -> None:
    """The highest floor comes into force with the data of its source, never before (the study's first finding)."""
    desk = desk_of_3()
    deaf = OTHERS[0]
    desk.keeps = lambda _a, target, message: isinstance(message, Purge) and target == deaf
    desk.pass_time(14.0)
    desk.kept.clear()
    joiner = desk.boot("n4")
    desk.names.append(NodeId("n4"))
    desk.wall_ms[NodeId("n4")] = desk.wall_ms[N1]
    desk.logs[NodeId("n4")] = []
    old, new = ["n1", "n2", "n3"], ["n1", "n2", "n3", "n4"]
    desk.keeps = lambda source, _b, message: source != deaf and type(message).__name__ == "LeafPage"
    desk.adopt(record_of(3, old, new, "joint"))
    held = joiner.table.units[UNIT]
    assert not held.complete
    assert held.purge_floor is None
    assert desk.held("n4", b"live") is not None
    desk.release()
    assert held.complete
    assert held.purge_floor is not None
    assert desk.held("n4", b"live") is not None
    assert desk.held("n4") is None


def test_a_unit_in_memory_keeps_values_that_another_member_lacks() -> None:
    """Its members agree on tombstones only, so a value below the purge floor is not dead because one lacks it."""
    desk = desk_of_3(durable=False)
    desk.replicas[OTHERS[0]].table.units[UNIT].drop([b"live"])
    desk.pass_time(14.0)
    assert desk.held(OTHERS[0]) is None
    assert purge_floor(desk, OTHERS[0]) is not None
    desk.replicas[OTHERS[0]].sync_soon(desk.now_s)
    desk.pass_time(1.0)
    entry = desk.held(OTHERS[0], b"live")
    assert entry is not None
    assert entry.value == b"kept"


def test_a_refilled_unit_in_memory_drops_what_was_written_too_early_to_be_refused() -> None:
    """An old stamp that only the refilling replica took, before it knew the floor, does not outlive the refill."""
    desk = desk_of_3(durable=False)
    desk.pass_time(14.0)
    gone = OTHERS[0]
    replica = desk.boot(gone, boot=2)
    desk.cut = {(name, gone) for name in desk.names if name != gone}
    desk.adopt(STABLE_3, gone)
    stray = Version(START_MS - 1, 0, N2, 1)
    replica.receive(N2, Write(STABLE_3.record.epoch, UNIT, 5, 1, stray, [(b"k", b"ghost")]), desk.now_s)
    assert desk.held(gone) is not None
    desk.cut = set()
    desk.pass_time(3.0)
    assert replica.table.units[UNIT].complete
    assert desk.held(gone) is None
    assert desk.held(gone, b"live") is not None


def test_a_pass_leaves_alone_what_was_written_anew_since_its_first_page() -> None:
    """Of what lies below the source's purge floor the source is right; a write of now is above it, and stays."""
    epoch = Epoch(Term(1, N1), 1)
    stale, floor, fresh = (Version(number, 0, N1, 1) for number in (5, 10, 20))
    held = HeldUnit(UNIT, DictStore(), durable=True, complete=True, join_key=None)
    held.put([Entry(key, stale, b"stale") for key in (b"x", b"y", b"z")])
    pull = Pull(1, UNIT, N2, epoch, Purpose.FENCED)
    theirs = [Entry(b"a", Version(11, 0, N2, 1), b"a"), Entry(b"y", Version(4, 0, N2, 1), b"right")]
    tree = Tree(epoch, UNIT, 1, True, hashtree.build(theirs), write_floor=floor, purge_floor=floor)
    for _ in range(2):
        pull.request(held)
        pull.must_ask_again(held, tree)
    pull.take_tree(held, tree)
    pull.leaves = hashtree.ALL_LEAVES
    first = LeafPage(epoch, UNIT, 1, b"", True, theirs[:1], True)
    assert pull.righted(held, first) == ([], [])
    pull.take_page(first)
    held.put([Entry(b"y", fresh, b"acknowledged"), Entry(b"z", fresh, b"acknowledged")])
    assert pull.righted(held, LeafPage(epoch, UNIT, 1, b"a", True, theirs[1:], False)) == ([b"x"], [])
