"""Log lines under a flood."""

from __future__ import annotations

from frys_node.base.log_limit import LogLimit


def test_a_flood_of_refusals_gives_one_line_a_second() -> None:
    """The next line says how many were left out; reasons do not hide one another."""
    limit = LogLimit()
    assert [limit.take("tag", 0.01 * number) for number in range(3)] == [0, None, None]
    assert limit.take("other", 0.5) == 0
    assert limit.take("tag", 1.0) == 2
    assert limit.take("tag", 2.0) == 0
