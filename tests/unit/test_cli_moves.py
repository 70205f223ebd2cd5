"""The table of moves: what is under way, what is over, what holds them back, and sums."""

from __future__ import annotations

import pytest

from frys_node.cli import moves


def move(unit: str, state: str, **fields: object) -> dict:
    """Return one move of a body."""
    return {
        "unit": unit, "source": "1", "source_name": "a", "target": "2", "target_name": "b", "state": state,
        "bytes_done": 1_024, "bytes_total": 3_072, "rate_bytes_s": 512.0, "eta_s": 4.0, "started_unix_ns": 1,
        "held_back": "", **fields,
    }  # fmt: skip


def test_moves_under_way_come_first_with_their_sum_and_what_holds_them_back() -> None:
    """Bytes, rate and time left of all together are told; finished moves follow, the latest first."""
    body = {
        "moves": [
            move("cache/1", "installed", started_unix_ns=1, bytes_done=3_072),
            move("cache/2", "installed", started_unix_ns=9),
            move("vector/p/0", "transferring", held_back="paused: p99 of requests 80.0 ms, before the move 9.0 ms"),
            move("vector/p/1", "offered", rate_bytes_s=0.0, eta_s=None),
        ],
        "step": {"epoch": "1.5", "phase": "joining", "settled": False, "copies": 333,
                 "waits_for": [{"name": "b", "id": "2", "reason": "3 units to take"}]},
        "silent": [{"name": "c\x1b[2J", "id": "3", "error": "no answer within 2 s"}],
    }  # fmt: skip
    lines = moves.text(body).split("\n")
    assert lines[:3] == [
        "epoch 1.5, joining, 333 copies to make",
        "waits for b: 3 units to take",
        "2 under way, 4.0 KiB to go at 512 B/s, 8.0 s left; 2 finished",
    ]
    assert [line.split()[0] for line in lines[4:8]] == ["vector/p/0", "vector/p/1", "cache/2", "cache/1"]
    assert lines[4].endswith("4.0 s  paused: p99 of requests 80.0 ms, before the move 9.0 ms")
    assert lines[8] == "c\\x1b[2J did not answer: no answer within 2 s"


def test_old_finished_moves_are_counted_and_shown_when_asked_for() -> None:
    """Ten are enough; --all has the rest."""
    body = {"moves": [move(f"cache/{n}", "installed", started_unix_ns=n) for n in range(30)]}
    lines = moves.text(body).split("\n")
    assert lines[0] == "nothing under way; 30 finished"
    assert (len(lines), lines[-1]) == (13, "... and 20 finished before; --all shows them")
    assert len(moves.text(body, is_whole=True).split("\n")) == 32


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (12.4, "12 s"), (59.6, "1 m 0 s"), (200, "3 m 20 s"), (7_500, "2 h 5 m")]
)
def test_durations_are_told_in_two_units_at_most(seconds: float, text: str) -> None:
    """Seconds, minutes and seconds, hours and minutes."""
    assert moves.seconds_text(seconds) == text
