"""The counter of forked epochs and double moves counts: planted records, and files as nodes leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from balancer.record import JOINING, JOINT, RECORD, STABLE, TopologyRecord, after, finished, first_record, taken_over
from balancer.register import REGISTER_PATH
from balancer.saved import ADOPTED_PATH, FROZEN_PATH
from balancer.spread import RingMember
from balancer.topology_messages import SIGNED_RECORD, SignedRecord
from chaos.cluster import Cluster
from chaos.plug import TOO_LATE, is_removed, leave_and_join, newcomers
from chaos.records import Records
from chaos.watch import Watch
from frys_node.base.types import ClusterId, Epoch, NodeId, Term
from frys_node.secure.stored import IDENTITY_PATH
from frys_node.wire.codec import Codec

NAMES = ("a", "b", "c", "d", "e")
IDS = {name: NodeId(name * 32) for name in NAMES}
ZEROS = {"forked_epochs": 0, "epochs_gone_back": 0, "double_moves": 0}


def ring(names: str) -> tuple[RingMember, ...]:
    """Members of a ring, by their letters."""
    return tuple(RingMember(node=IDS[name]) for name in names)


def stable(names: str) -> TopologyRecord:
    """A record in force of a cluster with a few partitions."""
    record = first_record(ClusterId("f" * 32), ring(names)[0], partitions=4)
    return msgspec.structs.replace(record, ring=ring(names), next_ring=ring(names))


def step(record: TopologyRecord, names: str) -> list[TopologyRecord]:
    """The three records that lead to another ring."""
    joining = after(record, phase=JOINING, next_ring=ring(names))
    joint = after(joining, phase=JOINT)
    return [joining, joint, finished(joint)]


def judged(held: list[tuple[str, TopologyRecord]]) -> dict[str, float]:
    """What is counted after nodes, by their letters, have adopted records in that order."""
    records = Records()
    for names, record in held:
        for name in names:
            records.adopted(name, RECORD.encode(record))
    found = records.judge(IDS)
    broken = sum(found.counts[kind] for kind in ZEROS)
    assert len(found.violations) == broken
    return found.counts


def broken(held: list[tuple[str, TopologyRecord]]) -> dict[str, float]:
    """Only what must be zero."""
    counts = judged(held)
    return {kind: counts[kind] for kind in ZEROS}


def test_one_history_is_clean_and_says_how_much_was_compared() -> None:
    """Two steps, adopted by all: nothing is wrong, and every sighting of a record counts."""
    first = stable("abc")
    joined = step(first, "abcd")
    left = step(joined[-1], "bcd")
    counts = judged([("abcd", record) for record in (first, *joined, *left)])
    assert counts == {
        "record_looks": 0,
        "records_compared": 28,
        "epochs_seen": 7,
        "epochs_unseen": 0,
        "epochs_in_force": 7,
        **ZEROS,
    }


def test_two_records_under_one_epoch_are_a_forked_epoch() -> None:
    """Planted: two nodes hold different records of one epoch, at different times; a third one more does not add."""
    first = stable("abc")
    one, other = (
        after(first, phase=JOINING, next_ring=ring("abcd")),
        after(first, phase=JOINING, next_ring=ring("abce")),
    )
    assert one.epoch == other.epoch
    assert broken([("abc", first), ("a", one), ("b", other), ("c", other)]) == ZEROS | {"forked_epochs": 1}


def test_a_node_that_met_two_records_tells_of_a_forked_epoch() -> None:
    """The second record may never reach a disk; the alarm of the node that refused it does."""
    records = Records()
    first = stable("abc")
    records.adopted("a", RECORD.encode(first))
    records.alarm("a", first.epoch)
    records.alarm("b", first.epoch)
    found = records.judge(IDS)
    assert found.counts["forked_epochs"] == 1
    assert found.violations == ["epoch 1.1: a, b met two different records"]


def test_a_node_whose_record_goes_back_is_found() -> None:
    """Planted: an older record on the disk of a node after a newer one."""
    first = stable("abc")
    later = after(first)
    assert broken([("abc", first), ("abc", later), ("b", first)]) == ZEROS | {"epochs_gone_back": 1}


def test_two_records_in_force_of_which_neither_follows_from_the_other_are_a_double_move() -> None:
    """Planted: another issuer goes on from before what the first one has put in force at most of the nodes."""
    first = stable("abc")
    joining, joint, _ = step(first, "abcd")
    other = taken_over(joining, Term(2, IDS["b"]))
    assert broken([("abc", first), ("abcd", joining), ("abd", joint), ("b", other)]) == ZEROS
    assert broken([("abc", first), ("abcd", joining), ("abcd", joint), ("bcd", other)])["double_moves"] == 1


def test_a_takeover_in_the_middle_of_a_move_is_one_history() -> None:
    """The new issuer's record of a joint one has the parent of that, and follows from it all the same."""
    first = stable("abc")
    joining, joint, _ = step(first, "abcd")
    other = taken_over(joint, Term(2, IDS["b"]))
    history = [first, joining, joint, other, finished(other)]
    assert broken([("abcd", record) for record in history]) == ZEROS


def test_a_unit_that_is_moved_elsewhere_before_its_move_has_ended_is_a_double_move() -> None:
    """Planted: a joint record that leads to another ring than its parent."""
    first = stable("abc")
    joining = after(first, phase=JOINING, next_ring=ring("abcd"))
    elsewhere = after(joining, phase=JOINT, next_ring=ring("abce"))
    assert broken([("a", first), ("a", joining), ("a", elsewhere)]) == ZEROS | {"double_moves": 1}


def test_records_that_no_look_met_are_counted_and_no_double_move() -> None:
    """A step of which only the ends were seen."""
    first = stable("abc")
    last = step(first, "abcd")[-1]
    counts = judged([("abc", first), ("abcd", last), ("abcd", after(last))])
    assert (counts["epochs_seen"], counts["epochs_unseen"], counts["double_moves"]) == (3, 2, 0)


def put(cluster: Cluster, name: str, path: str, data: bytes) -> None:
    """Leave a file as a node does: whole, in the place of the one before."""
    node = next(node for node in cluster.nodes if node.name == name)
    file = node.data_dir / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".new").write_bytes(data)
    file.with_suffix(".new").replace(file)


def signed(record: TopologyRecord) -> bytes:
    """A record as it is on disk."""
    return SIGNED_RECORD.encode(SignedRecord(RECORD.encode(record), b""))


def test_the_looks_find_what_nodes_have_on_their_disks(tmp_path: Path) -> None:
    """Two nodes, a fork between a register and another node's record, and an alarm; a record is read once."""
    cluster = Cluster.on_loopback(tmp_path, 3)
    for number, node in enumerate(cluster.nodes):
        put(cluster, node.name, IDENTITY_PATH, json.dumps({"node_id": IDS[NAMES[number]]}).encode())
    first = stable("abc")
    for node in cluster.nodes[:2]:
        put(cluster, node.name, ADOPTED_PATH, signed(first))
    watch = Watch(cluster)
    watch.look()
    assert watch.ids == {"n1": IDS["a"], "n2": IDS["b"]}
    put(cluster, "n1", REGISTER_PATH, signed(after(first, removed=(IDS["e"],))))
    put(cluster, "n2", ADOPTED_PATH, signed(after(first)))
    put(cluster, "n2", FROZEN_PATH, Codec(Epoch).encode(first.epoch))
    watch.start()
    watch.stop()
    found: Any = watch.records.judge(watch.ids)
    assert found.counts["forked_epochs"] == 2
    assert found.counts["records_compared"] == 4
    assert found.counts["record_looks"] >= 2


def test_a_removal_and_a_join_are_told_from_a_record() -> None:
    """The removed node is to hold nothing, or what is on its disk alone; once that is in force nothing is under way."""
    first = stable("abcd")
    weightless = (*ring("abc"), RingMember(node=IDS["d"], weight=0), *ring("e"))
    for following in (ring("abce"), weightless):
        joining = after(first, phase=JOINING, next_ring=following, removed=(IDS["d"],))
        assert is_removed(joining, IDS["d"])
        assert newcomers(joining) == [IDS["e"]]
        assert not is_removed(finished(after(joining, phase=JOINT)), IDS["d"])
    leaves = after(first, phase=JOINING, next_ring=ring("abc"))
    assert not is_removed(leaves, IDS["d"])
    assert (newcomers(leaves), leaves.phase != STABLE) == ([], True)


def test_a_plug_says_how_far_a_leave_and_a_join_were() -> None:
    """By the record of that moment: asked for, in a step, over; both over proves nothing."""
    quiet = stable("abc")
    leaver, joiner = IDS["c"], IDS["d"]
    assert (
        leave_and_join(quiet, leaver, None)
        == leave_and_join(quiet, leaver, joiner)
        == "leave asked for, join asked for"
    )
    joining, joint, done = step(quiet, "abd")
    assert leave_and_join(joining, leaver, joiner) == "leave in joining, join in joining"
    assert leave_and_join(joint, leaver, joiner) == "leave in joint, join in joint"
    assert leave_and_join(done, leaver, joiner) == TOO_LATE
    alone = step(quiet, "ab")
    assert leave_and_join(alone[0], leaver, joiner) == "leave in joining, join asked for"
    assert leave_and_join(step(alone[2], "abd")[1], leaver, joiner) == "leave over, join in joint"
    assert leave_and_join(alone[2], leaver, None) == "leave over, join asked for"
