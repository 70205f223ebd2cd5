"""The checker is tested with planted violations: a judge that never objects proves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.checker import (
    Ledger,
    Operation,
    check_equal,
    check_events,
    check_final,
    check_members,
    check_reads,
    judge,
    longest_gap_s,
    vanished,
)


def write(key: int, version: int, at_s: float, *, good: bool = True, store: str = "point") -> Operation:
    """A write that took a tenth of a second."""
    return Operation("write", store, key, version, at_s - 0.1, at_s, good, "n1")


def read(key: int, version: int | None, begun_s: float, *, store: str = "point") -> Operation:
    """A read that took a tenth of a second."""
    return Operation("read", store, key, version, begun_s, begun_s + 0.1, True, "n2")


HISTORY = [write(1, 1, 1.0), write(2, 2, 2.0), write(1, 3, 3.0), write(2, 4, 4.0, good=False)]


def test_a_clean_history_passes() -> None:
    """The final state that follows from the history has no violation, and neither have reads in order."""
    ledger = Ledger(HISTORY)
    assert check_final(ledger, "point", {"n1": {1: 3, 2: 2}, "n2": {1: 3, 2: 4}}) == []
    assert check_reads([*HISTORY, read(1, 1, 1.5), read(1, 3, 2.0), read(9, None, 1.0)], ledger) == []


def test_a_lost_point_is_found() -> None:
    """Planted: an acknowledged point is missing."""
    assert check_final(Ledger(HISTORY), "point", {"n1": {1: 3}}) == [
        "final read at n1: point 2: lost, version 2 was acknowledged"
    ]


def test_a_point_that_went_back_is_found() -> None:
    """Planted: an older version than the acknowledged one is there."""
    assert check_final(Ledger(HISTORY), "point", {"n1": {1: 1, 2: 2}}) == [
        "final read at n1: point 1: version 1 came back, 3 was acknowledged"
    ]


def test_a_value_that_nobody_wrote_is_found() -> None:
    """Planted: a version from nowhere."""
    assert check_final(Ledger(HISTORY), "point", {"n1": {1: 7, 2: 2}}) == [
        "final read at n1: point 1: version 7 was never written"
    ]


def test_a_stale_read_during_the_run_is_found() -> None:
    """Planted: a read that began after an acknowledgement does not see it; one that began before it may."""
    ledger = Ledger(HISTORY)
    assert check_reads([read(1, 1, 2.95)], ledger) == []
    assert check_reads([read(1, 1, 3.05)], ledger) == [
        "read at n2, t=3.050: point 1: version 1 came back, 3 was acknowledged"
    ]
    assert check_reads([read(1, None, 1.05)], ledger) != []


def test_the_cache_may_forget_but_not_go_back() -> None:
    """A miss is allowed in the cache, an older value is not."""
    history = [write(1, 1, 1.0, store="cache"), write(1, 2, 2.0, store="cache")]
    ledger = Ledger(history)
    assert check_final(ledger, "cache", {"n1": {}}) == []
    assert check_final(ledger, "cache", {"n1": {1: 1}}) == [
        "final read at n1: cache 1: version 1 came back, 2 was acknowledged"
    ]


def test_what_the_cache_forgot_is_counted() -> None:
    """A value acknowledged last and not there has vanished; one that was deleted, or may have been, has not."""
    history = [write(key, 1, 1.0, store="cache") for key in (1, 2, 3, 4)]
    history += [delete(2, 2, 2.0, store="cache"), delete(3, 2, 2.0, good=False, store="cache")]
    assert vanished(Ledger(history), "cache", {4: 1}) == 1


def test_an_unknown_outcome_allows_both_states() -> None:
    """A write that was not acknowledged may be there or not."""
    ledger = Ledger([write(5, 1, 1.0, good=False)])
    assert check_final(ledger, "point", {"n1": {}, "n2": {5: 1}}) == []
    assert ledger.keys("point") == []


def test_a_write_of_unknown_outcome_may_take_effect_late() -> None:
    """A request that waited in a paused node lands after a newer acknowledged one: the last writer wins."""
    ledger = Ledger([write(5, 1, 1.0, good=False), write(5, 2, 2.0), write(6, 3, 3.0), write(6, 4, 4.0)])
    assert check_final(ledger, "point", {"n1": {5: 1, 6: 4}}) == []
    assert len(check_final(ledger, "point", {"n1": {5: 2, 6: 3}})) == 1


def test_disagreement_about_members_is_found() -> None:
    """Planted: a living node called dead, a silent node, two views; a dead process may be called anything."""
    good = {"n1": "alive", "n2": "alive", "n3": "dead"}
    assert check_members({"n1": good, "n2": good}, ["n1", "n2"]) == []
    bad = {"n1": "alive", "n2": "dead", "n3": "dead"}
    wrong = check_members({"n1": bad, "n2": good}, ["n1", "n2"])
    assert "n1 sees the living n2 as dead" in wrong
    assert "2 different views of the members among 2 nodes" in wrong
    assert check_members({"n1": good, "n2": {}}, ["n1", "n2"]) == ["n2 answers no question about members"]


def test_a_run_without_faults_or_load_proves_nothing() -> None:
    """Planted: fewer faults and fewer points than promised are violations themselves."""
    view = {"n1": "alive"}
    verdict = judge(
        "kill",
        HISTORY,
        answers={"point": {"n1": {1: 3, 2: 2}}},
        views={"n1": view},
        nodes=["n1"],
        living=["n1"],
        faults=1,
        faults_min=20,
        acknowledged_min=10,
    )
    assert len(verdict.violations) == 2
    assert not verdict.is_good
    assert verdict.counts["points_acknowledged"] == 2
    assert verdict.counts["writes_unknown"] == 1


def test_a_process_that_ended_by_itself_is_found() -> None:
    """Planted: a node that nobody killed does not run; all else is well, and yet it is no success."""
    view = {"n1": "alive", "n2": "dead"}
    verdict = judge(
        "pause",
        HISTORY,
        answers={"point": {"n1": {1: 3, 2: 2}}},
        views={"n1": view},
        nodes=["n1", "n2"],
        living=["n1"],
        faults=1,
        faults_min=1,
        acknowledged_min=1,
    )
    assert verdict.violations == ["the process of n2 ended by itself"]


def test_the_report_is_json_and_says_how_many_violations_there_were(tmp_path: Path) -> None:
    """A flood of violations is cut in the report, its count is not."""
    history = [write(key, 1, 1.0) for key in range(100)]
    verdict = judge(
        "kill",
        history,
        answers={"point": {"n1": {}}},
        views={"n1": {"n1": "alive"}},
        nodes=["n1"],
        living=["n1"],
        faults=0,
        faults_min=0,
        acknowledged_min=1,
    )
    verdict.write(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["good"] is False
    assert report["violation_count"] == 100
    assert len(report["violations"]) == 20


def test_the_longest_gap_counts_from_the_edges() -> None:
    """The gap is the longest time without an acknowledgement, the ends of the window included."""
    assert longest_gap_s([write(1, 1, 1.0), write(1, 2, 1.5)], 0.0, 4.0) == pytest.approx(2.5)
    assert longest_gap_s([], 0.0, 4.0) == pytest.approx(4.0)


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=40))
def test_dropping_any_acknowledged_key_is_always_found(writes: list[tuple[int, bool]]) -> None:
    """For any history: the last writes pass, and removing any one acknowledged key fails."""
    history = [write(key, number, float(number), good=good) for number, (key, good) in enumerate(writes, 1)]
    state = {operation.key: operation.version for operation in history if operation.version is not None}
    ledger = Ledger(history)
    assert check_final(ledger, "point", {"n1": state}) == []
    for key in ledger.keys("point"):
        assert len(check_final(ledger, "point", {"n1": {k: v for k, v in state.items() if k != key}})) == 1


def delete(key: int, version: int, at_s: float, *, good: bool = True, store: str = "point") -> Operation:
    """A delete that took a tenth of a second."""
    return Operation("write", store, key, version, at_s - 0.1, at_s, good, "n1", is_delete=True)


def test_a_deleted_point_may_be_gone_until_it_is_written_again() -> None:
    """After an acknowledged delete nothing is there; after a later write it must be."""
    history = [write(1, 1, 1.0), delete(1, 2, 2.0)]
    assert check_final(Ledger(history), "point", {"n1": {}}) == []
    assert check_final(Ledger([*history, write(1, 3, 3.0)]), "point", {"n1": {}}) == [
        "final read at n1: point 1: lost, version 3 was acknowledged"
    ]


def test_a_deleted_value_that_came_back_is_found_and_told_from_a_stale_one() -> None:
    """Planted, in both stores: the older version has been deleted, or only overwritten."""
    for store in ("point", "cache"):
        history = [write(1, 1, 1.0, store=store), delete(1, 2, 2.0, store=store), write(1, 3, 3.0, store=store)]
        (fault,) = check_final(Ledger(history), store, {"n1": {1: 1}})
        assert (fault, fault.kind) == (
            f"final read at n1: {store} 1: version 1 came back, 2 had deleted it",
            "resurrected",
        )
        (fault,) = check_final(Ledger([*history, write(1, 4, 4.0, store=store)]), store, {"n1": {1: 3}})
        assert (fault, fault.kind) == (f"final read at n1: {store} 1: version 3 came back, 4 was acknowledged", "stale")
        assert check_reads([read(1, 1, 1.95, store=store)], Ledger(history)) == []
        assert [fault.kind for fault in check_reads([read(1, 1, 2.05, store=store)], Ledger(history))] == [
            "resurrected"
        ]


def test_a_delete_of_unknown_outcome_may_take_effect_at_any_time() -> None:
    """Its request may sit in a paused node: a miss is no loss, and the value before it is no resurrection."""
    ledger = Ledger([write(1, 1, 1.0), delete(1, 2, 2.0, good=False), write(1, 3, 3.0)])
    assert check_final(ledger, "point", {"n1": {}, "n2": {1: 3}}) == []
    assert [fault.kind for fault in check_final(ledger, "point", {"n1": {1: 1}})] == ["stale"]


def test_replicas_that_differ_are_found() -> None:
    """Planted: one of three replicas of a unit has another hash."""
    roots = {"vector/a/0": {"n1": "x", "n2": "x", "n3": "x"}, "vector/a/1": {"n1": "x", "n2": "y", "n3": "x"}}
    (fault,) = check_equal(roots)
    assert fault.kind == "unequal"
    assert fault.startswith("vector/a/1: 2 different states")


def test_a_replica_that_was_not_compared_is_no_equal_one() -> None:
    """Planted: of one unit's holders one told nothing, of another's two, and of a third nobody told."""
    held_by = {f"vector/a/{shard}": ["n1", "n2", "n3"] for shard in range(4)}
    roots = {
        "vector/a/0": {"n1": "x", "n2": "x", "n3": "x"},
        "vector/a/1": {"n1": "x", "n2": "x"},
        "vector/a/2": {"n3": "x"},
    }
    faults = check_equal(roots, held_by)
    assert [(fault.kind, str(fault)) for fault in faults] == [
        ("uncompared", "vector/a/1: 2 of 3 replicas compared, not those of n3"),
        ("uncompared", "vector/a/2: 1 of 3 replicas compared, not those of n1, n2"),
        ("uncompared", "vector/a/3: 0 of 3 replicas compared, not those of n1, n2, n3"),
    ]
    assert [fault.kind for fault in check_equal({"vector/a/0": {"n1": "x"}})] == ["uncompared"]


def test_a_run_that_ends_before_its_events_is_not_good() -> None:
    """Planted: forty events of a hundred within the time, and faults of which too few took effect."""
    assert check_events(100, 100, 80) == []
    assert check_events(40, 100, 40) == [
        "only 40 of 100 events in --seconds: the run proves less than it was asked for"
    ]
    assert check_events(100, 100, 79) == ["too few faults took effect: the run proves too little"]


def test_a_read_beside_a_delete_may_miss_and_one_before_it_may_not() -> None:
    """The delete was acknowledged later than the read ended, and may have taken effect before."""
    ledger = Ledger([write(1, 1, 1.0), delete(1, 2, 2.0)])
    assert check_reads([read(1, None, 1.85)], ledger) == []
    assert [fault.kind for fault in check_reads([read(1, None, 1.5)], ledger)] == ["lost"]
