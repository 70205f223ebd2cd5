"""Work of a move in small pieces: what a node gives up, and what it begins to take."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import pytest

from balancer.placement import Placement, cache_unit
from balancer.record import FORMAT, STABLE, TopologyRecord
from balancer.spread import RingMember
from frys_node.base.types import ClusterId, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Changes, Entry, Version
from frys_node.replication import effects as fx
from frys_node.replication import hashtree
from frys_node.replication.emptying import PAUSE_S
from frys_node.replication.messages import LeafAsk, LeafPage, Tree, TreeAsk
from frys_node.replication.pull import Purpose
from frys_node.replication.puller import COPIES_MAX, COPY_SILENT_MAX, PULLS_MAX, RETRY_S, SILENT_MAX, STARTS_MAX, Puller
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine
from frys_node.replication.takeover import Takeover
from frys_node.replication.unit import HeldUnit, UnitTable
from frys_node.testing.data_cluster import DictStore

N1, N2, N3, N4 = (NodeId(f"n{number}") for number in range(1, 5))


def _key(seq: int) -> Epoch:
    return Epoch(Term(1, N1), seq)


def _on(node: NodeId, seq: int) -> Placement:
    """Return a stable placement of three cache units on one node."""
    ring = (RingMember(node=node),)
    return Placement(
        TopologyRecord(
            format=FORMAT,
            cluster=ClusterId("c" * 32),
            epoch=_key(seq),
            phase=STABLE,
            ring=ring,
            next_ring=ring,
            parent=_key(seq - 1),
            partitions=3,
            replication_factor=1,
            vnodes=4,
        )
    )


def _asked(found: Iterable[fx.Effect]) -> int:
    return sum(isinstance(effect, fx.Send) and isinstance(effect.message, TreeAsk) for effect in found)


def test_a_node_that_gives_up_units_empties_their_stores_one_after_another() -> None:
    """At once none of them is held any more; forgetting what they hold does not hold up the node."""
    stores: list[DictStore] = []

    def open_store(_unit: UnitId) -> DictStore:
        stores.append(DictStore())
        stores[-1].put([Entry(b"k", Version(1, 0, N1, 1), b"v")])
        return stores[-1]

    machine = ReplicaMachine(N1, random.Random(1), ReplicaConfig(bulk_by_messages=True))
    machine.declare("cache", open_store, durable=False)
    machine.adopt(_on(N1, 1), 0.0)
    machine.adopt(_on(N2, 2), 0.0)
    machine.settled(_key(2), 1.0)
    assert machine.table.units == {}
    due_s = 1.0
    for left in (3, 2, 1):
        assert [len(list(store.entries())) for store in stores].count(1) == left
        assert machine.next_deadline_s == due_s
        machine.advance(due_s)
        machine.advance(due_s)
        due_s += PAUSE_S
    assert not any(list(store.entries()) for store in stores)
    assert machine.next_deadline_s > due_s


def test_many_pulls_begin_a_few_at_a_time() -> None:
    """Each looks at a hash tree: all at once would hold up the node; they go on at once in the next turns."""
    puller, units = _puller(STARTS_MAX + 5)
    begun = [_asked(puller.start(_takeover(unit), 1.0)) for unit in units]
    assert begun == [1] * STARTS_MAX + [0] * 5
    assert puller.next_deadline_s == 1.0
    assert _asked(puller.advance(1.0)) == 5
    assert puller.next_deadline_s > 1.0


def test_a_pass_asks_as_many_sources_as_it_needs_and_others_where_one_is_silent_or_incomplete() -> None:
    """Three would do the work of two on nodes that serve; a source that is down costs one pause, not the pass."""
    puller, (unit,) = _puller(1)
    sends = _sends(puller.start(_takeover(unit, sources=(N2, N3, N4), needed=1), 0.0))
    (first,) = sends
    (second, again) = _sends(puller.advance(RETRY_S))
    assert (again.to, again.message) == (first.to, first.message)
    assert second.to != first.to
    assert isinstance(second.message, TreeAsk)
    nothing = Tree(_key(1), unit, second.message.pull, False, b"")
    (third,) = _sends(puller.receive(second.to, nothing, RETRY_S))
    assert {first.to, second.to, third.to} == {N2, N3, N4}
    assert _sends(puller.receive(second.to, nothing, RETRY_S)) == []


def test_a_copy_has_one_source_and_goes_to_the_next_when_that_does_not_answer() -> None:
    """What comes from a second source at the same time is thrown away; a source that is down must not be waited for."""
    puller, (unit,) = _puller(1)
    sends = _sends(puller.start(_takeover(unit, Purpose.BULK, sources=(N2, N3, N4)), 0.0))
    while len(sends) <= 3 * SILENT_MAX:
        sends += _sends(puller.advance(puller.next_deadline_s))
    asked = [send.to for send in sends]
    rounds = [set(asked[at : at + SILENT_MAX]) for at in range(0, 3 * SILENT_MAX, SILENT_MAX)]
    assert [len(sources) for sources in rounds] == [1, 1, 1]
    assert set.union(*rounds) == {N2, N3, N4}
    assert asked[-1] == asked[0]


def test_a_copy_takes_an_answer_that_was_long_on_its_way() -> None:
    """Asked again after 0.3 s it has the same number: where answers take longer no copy would ever end."""
    puller, (unit, *others) = _puller(1 + 2 * COPIES_MAX)
    (ask,) = _sends(puller.start(_takeover(unit, Purpose.BULK, sources=(N2, N3)), 0.0))
    for other in others:
        puller.start(_takeover(other, Purpose.BULK, sources=(N2, N3)), 0.0)
    puller.advance(2 * RETRY_S)
    assert isinstance(ask.message, TreeAsk)
    tree = Tree(_key(1), unit, ask.message.pull, True, hashtree.build([Entry(b"k", Version(1, 0, N2, 1), b"v")]))
    (page,) = _sends(puller.receive(ask.to, tree, 0.8))
    assert isinstance(page.message, LeafAsk)


@pytest.mark.parametrize("is_up", [True, False])
def test_a_copy_that_has_begun_bears_a_source_at_its_rate_and_not_one_that_is_down(is_up: bool) -> None:
    """What is asked too early is not answered, for a minute at a low rate; another source compares and sends anew."""
    down: set[NodeId] = set()
    puller, (unit,) = _puller(1, is_usable=lambda node: node not in down)
    (ask,) = _sends(puller.start(_takeover(unit, Purpose.BULK, sources=(N2, N3)), 0.0))
    assert isinstance(ask.message, TreeAsk)
    tree = Tree(_key(1), unit, ask.message.pull, True, hashtree.build([Entry(b"k", Version(1, 0, N2, 1), b"v")]))
    sends = _sends(puller.receive(ask.to, tree, 0.0))
    down |= set() if is_up else {ask.to}
    count = COPY_SILENT_MAX if is_up else SILENT_MAX
    for _ in range(count):
        sends += _sends(puller.advance(puller.next_deadline_s))
    assert [send.to == ask.to for send in sends] == [True] * count + [False]
    assert [type(send.message) for send in sends] == [LeafAsk] * count + [TreeAsk]


def test_a_source_without_data_does_not_keep_a_copy_from_the_next() -> None:
    """It answers at once that it has none: that is no life sign of the copy."""
    puller, (unit,) = _puller(1)
    sends = _sends(puller.start(_takeover(unit, Purpose.BULK, sources=(N2, N3)), 0.0))
    while sends[-1].to == sends[0].to:
        assert len(sends) <= SILENT_MAX
        message = sends[-1].message
        assert isinstance(message, TreeAsk)
        puller.receive(sends[-1].to, Tree(_key(1), unit, message.pull, False, b""), 0.0)
        sends += _sends(puller.advance(puller.next_deadline_s))


def test_a_newcomers_pass_waits_for_all_that_are_there() -> None:
    """A write that one member alone acknowledged is not lost when that member leaves (rule 10)."""
    finished: list[float] = []
    puller, (unit,) = _puller(1)
    takeover = _takeover(unit, sources=(N2, N3, N4), needed=2, wants_all=True, then=finished)
    asks = {send.to: send.message for send in _sends(puller.start(takeover, 0.0))}
    assert set(asks) == {N2, N3, N4}
    for source in (N2, N3):
        message = asks[source]
        assert isinstance(message, TreeAsk)
        puller.receive(source, Tree(_key(1), unit, message.pull, True, b"", None, True), 0.1)
    puller.persisted(0.1)
    assert finished == []
    puller.advance(RETRY_S)
    assert finished == [RETRY_S]


def test_members_that_look_down_are_asked_last() -> None:
    """The detector knows before a question has waited in vain."""
    puller, units = _puller(2, is_usable=lambda node: node == N4)
    for unit, purpose in zip(units, (Purpose.BULK, Purpose.FENCED), strict=True):
        (ask,) = _sends(puller.start(_takeover(unit, purpose, sources=(N2, N3, N4)), 0.0))
        assert ask.to == N4


def test_a_pass_that_made_room_goes_on_where_it_was() -> None:
    """Its source may lag, and then has all it holds to send: from the first page on again, it would never end."""
    puller, units = _puller(PULLS_MAX + 1)
    (ask,) = _sends(puller.start(_takeover(units[0], sources=(N2,), needed=1), 0.0))
    assert isinstance(ask.message, TreeAsk)
    entry = Entry(b"k", Version(1, 0, N2, 1), b"v")
    tree = Tree(_key(1), units[0], ask.message.pull, True, hashtree.build([entry]))
    puller.receive(N2, tree, 0.0)
    (more,) = _sends(puller.receive(N2, LeafPage(_key(1), units[0], ask.message.pull, b"", True, [entry], True), 0.0))
    for unit in units[1:]:
        puller.start(_takeover(unit, sources=(N3,), needed=1), 0.0)
    asked = _sends(puller.advance(0.0))
    while sum(send.message.unit == units[0] for send in asked) < 2 * SILENT_MAX:
        asked += _sends(puller.advance(puller.next_deadline_s))
    assert {send.message for send in asked if send.message.unit == units[0]} == {more.message}


def test_a_pass_waits_for_a_source_that_was_slow_once_and_answers_now() -> None:
    """Where answers take longer than a pause all are silent at first; what one alone holds must not be left behind."""
    finished: list[float] = []
    puller, (unit,) = _puller(1)
    takeover = _takeover(unit, sources=(N2, N3, N4), needed=2, wants_all=True, then=finished)
    asks = {send.to: send.message for send in _sends(puller.start(takeover, 0.0))}
    puller.advance(RETRY_S)
    alone = hashtree.build([Entry(b"k", Version(1, 0, N4, 1), b"v")])
    for source in (N4, N2, N3):
        message = asks[source]
        assert isinstance(message, TreeAsk)
        leaves = alone if source == N4 else b""
        puller.receive(source, Tree(_key(1), unit, message.pull, True, leaves, None, not leaves), 0.35)
    puller.persisted(0.36)
    assert finished == []
    message = asks[N4]
    assert isinstance(message, TreeAsk)
    entries = [Entry(b"k", Version(1, 0, N4, 1), b"v")]
    puller.receive(N4, LeafPage(_key(1), unit, message.pull, b"", True, entries, False), 0.4)
    puller.persisted(0.4)
    assert finished == [0.4]


def test_copies_are_few_at_a_time_and_stand_behind_passes() -> None:
    """All of them share one rate: many at once wait so long for it that they begin anew."""
    puller, units = _puller(COPIES_MAX + 4)
    *copied, passed = units
    begun = [_asked(puller.start(_takeover(unit, Purpose.BULK, started_s=0.0), 0.0)) for unit in copied]
    begun += [_asked(puller.advance(0.0))]
    assert sum(begun) == COPIES_MAX
    assert puller.active == len(copied)
    (ask,) = _sends(puller.start(_takeover(passed), 0.0))
    assert isinstance(ask.message, TreeAsk)
    assert ask.message.unit == passed


def test_the_hash_tree_of_a_copy_grows_with_its_pages() -> None:
    """The pass behind it asks for the trees of all units at once, when writes need both sets."""
    puller, (unit,) = _puller(1)
    store = _Watched()
    held = puller.table.units[unit] = HeldUnit(unit, store, durable=False, complete=False, join_key=None)
    (ask,) = _sends(puller.start(_takeover(unit, Purpose.BULK), 0.0))
    assert isinstance(ask.message, TreeAsk)
    entries = [Entry(b"%d" % n, Version(1, 0, N2, 1), b"v") for n in range(10)]
    tree = Tree(_key(1), unit, ask.message.pull, True, hashtree.build(entries))
    (leaves,) = _sends(puller.receive(N2, tree, 0.0))
    assert isinstance(leaves.message, LeafAsk)
    puller.receive(N2, LeafPage(_key(1), unit, leaves.message.pull, b"", True, entries, False), 0.0)
    assert store.new == []
    assert held.tree() == tree.leaves


class _Watched(DictStore):
    """A store that tells what came since its tree was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[Entry] = []

    def put(self, entries: Sequence[Entry]) -> None:
        self.new += entries
        super().put(entries)

    def changed(self) -> Changes:
        new, self.new = self.new, []
        return Changes(False, [(None, entry) for entry in new])


class _Puller(Puller):
    """One whose table the test fills."""

    def __init__(self, is_usable: Callable[[NodeId], bool]) -> None:
        self.table = UnitTable()
        super().__init__(N1, self.table, random.Random(1), is_usable)

    def persisted(self, now_s: float) -> None:
        """Let the disk finish everything."""
        for token in list(self.table._waiting):
            self.table.persisted(token, now_s)


def _puller(count: int, *, is_usable: Callable[[NodeId], bool] = lambda _node: True) -> tuple[_Puller, list[UnitId]]:
    """Return the pulls of a node with so many empty cache units."""
    puller, units = _Puller(is_usable), [cache_unit(number) for number in range(count)]
    for unit in units:
        puller.table.units[unit] = HeldUnit(unit, DictStore(), durable=False, complete=False, join_key=None)
    return puller, units


def _sends(found: Iterable[fx.Effect]) -> list[fx.Send]:
    return [effect for effect in found if isinstance(effect, fx.Send)]


def _takeover(
    unit: UnitId,
    purpose: Purpose = Purpose.FENCED,
    *,
    sources: tuple[NodeId, ...] = (N2,),
    needed: int = 1,
    started_s: float = 1.0,
    wants_all: bool = False,
    then: list[float] | None = None,
) -> Takeover:
    """Return a takeover; `then` notes when it is finished."""

    def finished(at_s: float) -> list[fx.Effect]:
        if then is not None:
            then.append(at_s)
        return []

    return Takeover(
        unit,
        epoch=_key(1),
        purpose=purpose,
        sources=sources,
        needed=needed,
        then=finished,
        started_s=started_s,
        wants_all=wants_all,
    )
