"""The balance benchmark: its arithmetic, and its budgets on few seeds."""

from __future__ import annotations

from frys_node.bench import balance
from frys_node.bench.figure import Figure


def test_only_replicas_that_are_new_where_they_are_count_as_moved() -> None:
    """Another order of the same nodes moves nothing; one new node of two is half."""
    before = {"u": ["a", "b"], "v": ["a", "b"]}
    assert balance.moved(before, {"u": ["b", "a"], "v": ["a", "b"]}) == 0
    assert balance.moved(before, {"u": ["c", "a"], "v": ["b", "c"]}) == 0.5
    assert balance.over_mean({"a": 3, "b": 1}, 2) == 1.5


def test_a_round_keeps_its_budgets_and_tells_them_beside_the_plain_ring() -> None:
    """Twenty rings of 10 to 20 members are as even as the design asks, and a join moves little more than its share."""
    figures = [
        Figure(name, unit, sum(samples) / len(samples), "", 0.0, budget)
        for copies in (1, 3)
        for (name, unit, budget), samples in balance.ring_figures(range(20), copies, balance.bounded).items()
    ]
    assert len(figures) == 7
    for figure in figures:
        assert figure.ours <= float(figure.budget.removeprefix("<= ")), figure.name
