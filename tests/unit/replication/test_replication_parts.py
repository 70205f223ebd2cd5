"""Reads of more than a message holds: part by part, each key at its own full quorum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from balancer.record import JOINT
from frys_node.base.types import Consistency, NodeId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import effects as fx
from frys_node.replication.coordinator import CoordinatorConfig
from frys_node.replication.messages import Read, ReadReply, RepairAck, ReplicationMessage
from frys_node.replication.operation import Kind, Operation
from frys_node.testing.replica_desk import UNIT, Desk, record_of

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
RING = ["n1", "n2", "n3"]
KEYS = [b"k%02d" % number for number in range(10)]
ALONE = CoordinatorConfig(repairs_reads=False, keeps_hints=False)


def value_of(key: bytes) -> bytes:
    """Return 200 KB, so that two fit in an answer."""
    return key * 66_667


def desk_of(config: CoordinatorConfig = ALONE) -> Desk:
    """Return three nodes that all hold ten values of 200 KB, one of them deleted."""
    desk = Desk(3, coordinating=config)
    desk.adopt(record_of(2, RING))
    for key in KEYS:
        desk.write("n2", value_of(key), key, Consistency.ALL)
    desk.write("n2", None, KEYS[4], Consistency.ALL)
    return desk


def begin(
    desk: Desk,
    name: str,
    keys: Sequence[bytes],
    consistency: Consistency = Consistency.QUORUM,
    *,
    least: Mapping[NodeId, int] | None = None,
    versions_only: bool = False,
    waits_repair: bool = False,
) -> int:
    """Begin a read and let everything be delivered; returns its number."""
    request, effects = desk.coordinators[NodeId(name)].read(
        UNIT,
        keys,
        consistency,
        deadline_s=desk.now_s + 5.0,
        now_s=desk.now_s,
        least=least,
        versions_only=versions_only,
        waits_repair=waits_repair,
    )
    desk.take(NodeId(name), effects)
    desk.run()
    return request


def values_of(desk: Desk, request: int) -> list[bytes | None]:
    """Return the values that a finished read found."""
    done = desk.done[request]
    assert isinstance(done, fx.ReadDone), done
    return [None if entry is None else entry.value for entry in done.entries]


EXPECTED = [None if key == KEYS[4] else value_of(key) for key in KEYS]


@pytest.mark.parametrize("consistency", list(Consistency))
def test_a_read_of_two_megabytes_returns_every_key_in_order(consistency: Consistency) -> None:
    """No message is over a frame, and a key that nobody holds is in its place too."""
    desk = desk_of()
    found = values_of(desk, begin(desk, "n1", [b"never", *KEYS, b"nor"], consistency))
    assert found == [None, *EXPECTED, None]


def test_in_joint_every_part_asks_both_sets() -> None:
    """A joiner that is not complete counts for the record only, in each part anew."""
    desk = Desk(3, coordinating=ALONE)
    desk.adopt(record_of(2, ["n1", "n2"]), "n1", "n2")
    for key in KEYS:
        desk.write("n2", value_of(key), key, Consistency.ALL)
    desk.keeps = lambda source, _target, message: source == N3 and isinstance(message, ReadReply)
    desk.adopt(record_of(3, ["n1", "n2"], ["n2", "n3"], phase=JOINT))
    request = begin(desk, "n1", KEYS)
    assert request not in desk.done
    seen = 0
    while request not in desk.done:
        seen += 1
        kept, desk.kept = desk.kept, []
        assert kept, "each part waits for a member of the next set"
        for source, target, message in kept:
            assert isinstance(message, ReadReply)
            desk.take(target, desk.coordinators[target].receive(source, message, desk.now_s))
        desk.run()
    assert seen == len(KEYS) / 2
    assert values_of(desk, request) == [value_of(key) for key in KEYS]


def test_replicas_that_answer_different_lengths_give_what_all_of_them_answered() -> None:
    """One has small old values and answers all ten at once: only what the other answered too is known yet."""
    desk = Desk(3, coordinating=ALONE)
    desk.adopt(record_of(2, RING))
    for key in KEYS:
        desk.write("n2", b"old", key, Consistency.ALL)
    desk.cut = {("n2", "n3")}
    for key in KEYS:
        desk.write("n2", value_of(key), key)
    desk.cut = {("n3", "n1"), ("n1", "n3")}
    assert values_of(desk, begin(desk, "n3", KEYS)) == [value_of(key) for key in KEYS]


def test_a_new_record_between_parts_keeps_what_is_known_and_begins_the_part_anew() -> None:
    """The first part was whole; replies to the second, made under the old record, count no more."""
    desk = desk_of()
    asked: list[list[bytes]] = []

    def keeps(_source: NodeId, target: NodeId, message: ReplicationMessage) -> bool:
        if isinstance(message, Read) and target == N2:
            asked.append(message.keys)
        return isinstance(message, ReadReply) and len(asked) == 2

    desk.keeps = keeps
    request = begin(desk, "n1", KEYS)
    stale, desk.kept = desk.kept, []
    assert len(stale) == 3
    desk.adopt(record_of(3, RING))
    assert [len(keys) for keys in asked[:4]] == [10, 8, 8, 5]
    for source, target, message in stale:
        assert isinstance(message, ReadReply)
        assert desk.coordinators[target].receive(source, message, desk.now_s) == []
    assert values_of(desk, request) == EXPECTED


def test_a_late_answer_to_an_earlier_part_is_not_taken_for_the_next_one() -> None:
    """n3 answers the first part when the second is under way: its keys would be taken for others."""
    desk = desk_of()
    desk.cut = {("n2", "n1")}
    desk.keeps = lambda source, _target, message: source == N3 and isinstance(message, ReadReply)
    request = begin(desk, "n1", KEYS)
    first = list(desk.kept)
    desk.cut = set()
    desk.keeps = lambda _source, _target, _message: False
    desk.kept = []
    desk.pass_time(0.5)
    for source, target, message in first:
        assert isinstance(message, ReadReply)
        assert desk.coordinators[target].receive(source, message, desk.now_s) == []
    desk.pass_time(1.0)
    assert values_of(desk, request) == EXPECTED


def test_a_complete_answer_about_no_key_or_too_many_is_not_counted() -> None:
    """It would end the read with nothing, or go round for ever."""
    desk = desk_of()
    desk.cut = {(source, target) for source in RING for target in RING}
    request = begin(desk, "n1", KEYS)
    machine = desk.coordinators[N1]
    epoch = machine._epoch
    for entries in ([], [None] * 11):
        for node in (N2, N3):
            assert machine.receive(node, ReadReply(epoch, UNIT, request, 1, True, list(entries), []), 0.1) == []
    assert begin(desk, "n1", []) not in desk.done


def test_parts_of_a_read_of_one_come_from_one_replica_while_it_answers() -> None:
    """So a session's token names it, and two halves are not of two replicas; when it falls silent another goes on."""
    desk = desk_of()
    rank = {N1: 0, N2: 1, N3: 2}
    machine = desk.coordinators[N1]
    machine._rank = rank.__getitem__
    asked: list[NodeId] = []

    def keeps(_source: NodeId, target: NodeId, message: ReplicationMessage) -> bool:
        if isinstance(message, Read):
            asked.append(target)
            rank[N1] = 5  # another one does better from now on
        return False

    desk.keeps = keeps
    done = desk.done[begin(desk, "n1", KEYS, Consistency.ONE)]
    assert isinstance(done, fx.ReadDone)
    assert done.is_of_one
    assert set(asked) == {N1} == set(done.seqs)
    rank[N1] = 0
    desk.keeps = lambda source, _target, message: (
        source == N1 and isinstance(message, ReadReply) and message.entries[0] is not None and message.attempt > 1
    )
    request = begin(desk, "n1", KEYS, Consistency.ONE)
    desk.pass_time(2.0)
    done = desk.done[request]
    assert isinstance(done, fx.ReadDone)
    assert not done.is_of_one
    assert done.seqs == {}, "no replica gave all of it"
    assert values_of(desk, request) == EXPECTED


def test_a_session_whose_replica_falls_behind_between_parts_asks_a_quorum_for_the_rest() -> None:
    """The token's replica gave the first part; who gave everything is named, with its place at the end."""
    desk = desk_of()
    done = desk.write("n2", b"x", b"other", Consistency.ALL)
    assert isinstance(done, fx.WriteDone)
    asked: list[Read] = []

    def keeps(_source: NodeId, target: NodeId, message: ReplicationMessage) -> bool:
        if isinstance(message, Read):
            asked.append(message)
            if len(asked) == 2:
                desk.replicas[target].table.units[UNIT].seq = 1
        return False

    desk.keeps = keeps
    request = begin(desk, "n1", KEYS, Consistency.ONE, least={N3: done.seqs[N3]})
    assert [message.least for message in asked[:2]] == [done.seqs[N3]] * 2
    assert [message.least for message in asked[2:]] == [0] * (len(asked) - 2)
    assert values_of(desk, request) == EXPECTED
    found = desk.done[request]
    assert isinstance(found, fx.ReadDone)
    assert not found.is_of_one
    assert found.seqs == {}


def test_versions_of_twenty_thousand_keys_come_in_parts() -> None:
    """They are over a megabyte together; a deleted one says so."""
    desk = desk_of()
    keys = [b"%05d" % number for number in range(20_000)]
    for name in RING:
        entries = [
            Entry(key, Version(10**13, 0, NodeId("f" * 32), 1), None if key == keys[7] else b"v") for key in keys
        ]
        desk.take(NodeId(name), desk.replicas[NodeId(name)].restore(UNIT, entries, lambda _at_s: [], 0.0) or [])
    done = desk.done[begin(desk, "n1", keys, versions_only=True)]
    assert isinstance(done, fx.ReadDone)
    assert [stamp and stamp.is_deleted for stamp in done.stamps] == [key == keys[7] for key in keys]
    assert done.entries == []


def test_a_page_of_a_scan_ends_with_the_first_part_and_goes_on_behind_it() -> None:
    """Every live key is found, once and in order, whatever the size of the values."""
    desk = desk_of()
    found: list[bytes] = []
    after: bytes | None = b""
    pages = 0
    while after is not None:
        request, effects = desk.coordinators[N1].scan(UNIT, after=after, deadline_s=desk.now_s + 5.0, now_s=desk.now_s)
        desk.take(N1, effects)
        desk.run()
        done = desk.done[request]
        assert isinstance(done, fx.ScanDone)
        assert [entry.value for entry in done.entries] == [value_of(key) for key in done.keys]
        found += done.keys
        after = done.next_after
        pages += 1
    assert found == [key for key in KEYS if key != KEYS[4]]
    assert pages == 5


def test_read_repair_of_two_megabytes_goes_in_messages_that_fit() -> None:
    """A replica that lacks everything has it after the read."""
    desk = Desk(3, coordinating=CoordinatorConfig(keeps_hints=False))
    desk.adopt(record_of(2, RING))
    desk.cut = {("n2", "n3")}
    for key in KEYS:
        desk.write("n2", value_of(key), key)
    desk.cut = set()
    assert values_of(desk, begin(desk, "n1", KEYS, Consistency.ALL)) == [value_of(key) for key in KEYS]
    assert [entry and entry.value for entry in desk.replicas[N3].table.units[UNIT].store.get(KEYS)] == [
        value_of(key) for key in KEYS
    ]


def test_a_read_that_waits_has_every_part_on_a_quorum_before_it_goes_on() -> None:
    """Without the acknowledgement of one repair the read does not end, although all others came."""
    desk = Desk(3, coordinating=ALONE)
    desk.adopt(record_of(2, RING))
    desk.cut = {("n2", "n1"), ("n2", "n3")}
    for key in KEYS:
        desk.write("n2", value_of(key), key)
    desk.cut = {("n1", "n3"), ("n3", "n1")}
    acks: list[ReplicationMessage] = []

    def keeps(_source: NodeId, target: NodeId, message: ReplicationMessage) -> bool:
        if target == N1 and isinstance(message, RepairAck):
            acks.append(message)
        return isinstance(message, RepairAck) and len(acks) == 4

    desk.keeps = keeps
    request = begin(desk, "n1", KEYS, waits_repair=True)
    assert request not in desk.done
    held = desk.replicas[N1].table.units[UNIT].store.get(KEYS)
    assert [entry is not None for entry in held] == [True] * 8 + [False] * 2
    desk.release()
    assert values_of(desk, request) == [value_of(key) for key in KEYS]
    assert None not in desk.replicas[N1].table.units[UNIT].store.get(KEYS)


def test_hints_of_a_batch_of_small_items_are_cut_to_what_fits() -> None:
    """23,000 items of 22 bytes are one write of half a megabyte, and two megabytes as entries."""
    desk = Desk(3, coordinating=CoordinatorConfig(repairs_reads=False))
    desk.adopt(record_of(2, RING))
    items = [(b"%06d" % number, b"") for number in range(23_000)]
    desk.cut = {("n1", "n3")}
    _, effects = desk.coordinators[N1].write(
        UNIT, items, Consistency.QUORUM, deadline_s=5.0, now_s=0.0, wall_ms=desk.wall_ms[N1]
    )
    desk.take(N1, effects)
    desk.run()
    desk.pass_time(1.5)
    assert len(desk.coordinators[N1].hints) > 2
    desk.cut = set()
    desk.pass_time(5.0)
    assert len(desk.coordinators[N1].hints) == 0
    assert len(list(desk.replicas[N3].table.units[UNIT].store.keys())) == len(items)


def test_an_operation_asks_no_more_keys_than_fit() -> None:
    """Of keys of 60 KB four fit in a read: the others wait for their turn."""
    operation = Operation(1, Kind.READ, UNIT, Consistency.ONE, deadline_s=1.0)
    operation.keys = [bytes(60_000)] * 9
    operation.reset()
    assert len(operation.asked) == 4


def test_a_write_is_acknowledged_while_a_read_of_many_parts_goes_on() -> None:
    """The kinds of replies do not mix: a write's number is its own."""
    desk = desk_of()
    desk.keeps = lambda _source, _target, message: isinstance(message, ReadReply)
    request = begin(desk, "n1", KEYS)
    desk.keeps = lambda _source, _target, _message: False
    assert isinstance(desk.write("n1", b"new", KEYS[9]), fx.WriteDone)
    desk.release()
    assert values_of(desk, request) == [*EXPECTED[:9], b"new"]
