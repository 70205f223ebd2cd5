"""The controller of moves by the p99 of requests, with literal times."""

from __future__ import annotations

import itertools

import pytest

from snapshots.governor import (
    CEILING_BYTES_S,
    FLOOR_BYTES_S,
    GROWTH,
    IDLE_START_BYTES_S,
    PAUSE_S,
    START_BYTES_S,
    TICK_S,
    WINDOW_S,
    Governor,
    quantile,
)

BOUNDS = (0.001, 0.01, 0.1, 1.0)
CALM, SLOW = 1, 2
"""Buckets: up to 10 ms, and up to 100 ms."""


class Node:
    """A node with requests, looked at every half second."""

    def __init__(self, bounds: tuple[float, ...] = BOUNDS, **settings: float) -> None:
        self.governor = Governor(bounds, **settings)
        self.counts = [0] * (len(bounds) + 1)
        self.now_s = 100.0
        self.moved_bytes = 0
        self.used = 1.0
        """Part of the rate that is made use of."""

    def live(
        self, seconds: float, *, bucket: int = CALM, requests: int = 20, moved: bool = True, asked: bool = False
    ) -> list[float]:
        """Let time pass with requests of one kind; return the rate after each look."""
        rates: list[float] = []
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.counts[bucket] += requests
            is_held = self.governor.is_paused(self.now_s - TICK_S)
            self.moved_bytes += round(self.governor.rate_bytes_s * TICK_S * self.used) if moved and not is_held else 0
            self.governor.tick(self.counts, self.now_s, moved_bytes=self.moved_bytes, is_active=moved, is_asked=asked)
            rates.append(0.0 if self.governor.is_paused(self.now_s) else self.governor.rate_bytes_s)
        return rates


def test_a_quantile_is_interpolated_in_its_bucket() -> None:
    """Half of a hundred in one bucket is its middle; what is above every bound counts as the last one."""
    assert quantile(BOUNDS, [0, 100, 0, 0, 0], 0.5) == pytest.approx(0.0055)
    assert quantile(BOUNDS, [99, 1, 0, 0, 0], 0.99) == pytest.approx(0.001)
    assert quantile(BOUNDS, [0, 0, 0, 0, 5], 0.99) == 1.0


def test_while_requests_stay_fast_the_rate_doubles_once_a_window_to_its_ceiling() -> None:
    """Slow start: each doubling has a window to show what it costs, and the ceiling ends it."""
    node = Node(ceiling_bytes_s=START_BYTES_S * 5)
    node.live(30, moved=False)
    rates = node.live(4 * WINDOW_S)
    assert list(dict.fromkeys(rates)) == [START_BYTES_S * n for n in (1, 2, 4, 5)]
    assert [rates.count(START_BYTES_S * n) for n in (2, 4)] == [round(WINDOW_S / TICK_S)] * 2
    assert node.governor.why == ""


def test_after_a_cut_the_rate_grows_in_small_steps() -> None:
    """From half of what hurt to all of it in sixteen looks, not at once; what was learned lasts for the move."""
    node = Node()
    node.live(30, moved=False)
    node.live(4 * WINDOW_S)
    top = node.governor.rate_bytes_s
    while node.governor.rate_bytes_s == top:
        node.live(TICK_S, bucket=SLOW)
    assert node.governor.rate_bytes_s == top / 2
    rates = node.live(12)
    grown = [rate for rate in rates if rate > top / 2]
    assert [b - a for a, b in itertools.pairwise(grown[:10])] == [pytest.approx(GROWTH * top)] * 9


def test_near_the_bound_the_rate_stays() -> None:
    """Between three quarters of the bound and all of it nothing changes, in either direction."""
    node = Node(bounds=(0.0065, 0.0125, 0.018, 1.0))
    node.live(30, bucket=0, moved=False)
    node.live(2 * WINDOW_S, bucket=0)
    rate = node.governor.rate_bytes_s
    assert rate > START_BYTES_S
    node.live(WINDOW_S, bucket=1)
    assert set(node.live(20, bucket=1)) == {rate}
    assert node.governor.why == ""


def test_a_p99_above_the_bound_halves_the_rate_once_a_window_and_then_pauses() -> None:
    """Multiplicative decrease to the floor, a pause there, a window at the floor, and so on; never nothing for ever."""
    node = Node()
    node.live(30, moved=False)
    node.live(4 * WINDOW_S)
    top = node.governor.rate_bytes_s
    rates = node.live(60, bucket=SLOW)
    distinct = list(dict.fromkeys(rates))
    halved = [top / 2**n for n in range(1, 20) if top / 2**n > FLOOR_BYTES_S]
    assert distinct == [*halved, FLOOR_BYTES_S, 0.0]
    assert rates.count(halved[0]) == 4
    assert "p99 of requests 99" in node.governor.why
    assert "before the move 9.9 ms" in node.governor.why
    at_floor = rates[rates.index(0.0) :]
    assert at_floor[:6] == [0.0] * round(PAUSE_S / TICK_S)
    assert at_floor[6:10] == [FLOOR_BYTES_S] * 4
    assert node.governor.pauses == at_floor.count(0.0) // 6 + (at_floor.count(0.0) % 6 > 0)


def test_it_recovers_when_requests_are_fast_again() -> None:
    """Once the p99 of the last window is within the bound, the reason goes and the rate grows."""
    node = Node()
    node.live(30, moved=False)
    node.live(20, bucket=SLOW)
    low = node.governor.rate_bytes_s
    rates = node.live(10)
    assert rates[-1] > low
    assert node.governor.why == ""


def test_nobody_asking_nobody_suffers() -> None:
    """With too few requests for a p99 the rate doubles up to the ceiling."""
    node = Node()
    node.live(1, requests=0, moved=False)
    assert node.governor.rate_bytes_s == IDLE_START_BYTES_S
    rates = node.live(10, requests=1)
    assert rates[0] == IDLE_START_BYTES_S * 2
    assert rates[-1] == CEILING_BYTES_S


def test_a_node_that_only_other_nodes_ask_begins_slowly_as_well() -> None:
    """It has no p99, but quorums wait for it: from the slow start its rate doubles once a window."""
    node = Node(ceiling_bytes_s=START_BYTES_S * 4)
    node.live(30, requests=0, moved=False, asked=True)
    assert node.governor.rate_bytes_s == START_BYTES_S
    rates = node.live(20, requests=0, asked=True)
    assert [rates.count(START_BYTES_S * n) for n in (1, 2)] == [round(WINDOW_S / TICK_S)] * 2
    assert rates[-1] == START_BYTES_S * 4
    assert node.governor.why == ""


def test_a_move_between_idle_nodes_begins_anew_when_others_start_to_ask() -> None:
    """It may have come to any rate, and without a p99 nothing else would ever slow it down."""
    node = Node()
    assert node.live(10, requests=0)[-1] > 10 * START_BYTES_S
    assert node.live(TICK_S, requests=0, asked=True) == [START_BYTES_S]
    assert node.live(TICK_S * 4, requests=0, asked=True)[-1] == 2 * START_BYTES_S


def test_the_rate_grows_only_as_far_as_it_is_used() -> None:
    """A rate that nothing reaches would have to be halved many times before anybody felt it."""
    node = Node()
    node.live(30, moved=False)
    node.used = 0.1
    assert max(node.live(60)) == START_BYTES_S
    node.used = 1.0
    assert max(node.live(60)) > 10 * START_BYTES_S


def test_what_was_slow_before_the_move_is_no_reason_to_hold_back() -> None:
    """The bound is relative: a node whose p99 was 90 ms bears 180 ms."""
    node = Node()
    node.live(30, bucket=SLOW, moved=False)
    node.live(10, bucket=SLOW)
    assert node.governor.calm_p99_s == pytest.approx(0.099, abs=0.001)
    assert node.governor.why == ""


def test_a_newcomer_without_requests_before_bears_a_p99_of_fifty_milliseconds() -> None:
    """Without a p99 from before, a stated one counts."""
    node = Node()
    node.live(1, requests=0)
    assert node.governor.calm_p99_s is None
    node.live(5, bucket=SLOW)
    assert "before the move unknown" in node.governor.why


def test_gaps_between_units_do_not_end_a_move() -> None:
    """Only after five quiet seconds is it over; the p99 from before is not taken from within it."""
    node = Node()
    node.live(30, moved=False)
    node.live(4, bucket=SLOW)
    node.live(3, bucket=SLOW, moved=False)
    assert node.governor.is_moving
    node.live(1, bucket=SLOW)
    assert node.governor.calm_p99_s == pytest.approx(0.0099, abs=0.0001)
    node.live(6, moved=False)
    assert not node.governor.is_moving
    assert node.governor.rate_bytes_s == START_BYTES_S


def test_a_move_right_behind_another_begins_slowly_too() -> None:
    """Who is asked is known from the last window, not only since the last move ended."""
    node = Node()
    node.live(30, moved=False)
    node.live(20)
    while node.governor.is_moving:
        node.live(TICK_S, moved=False)
    assert node.governor.rate_bytes_s == START_BYTES_S
    assert node.live(TICK_S) == [START_BYTES_S]


def test_a_ratio_of_zero_holds_nothing_back() -> None:
    """The operator may switch the controller off; the ceiling stands."""
    node = Node(ratio_max=0.0, ceiling_bytes_s=1e6)
    node.live(10, bucket=SLOW)
    assert (node.governor.rate_bytes_s, node.governor.why) == (1e6, "")
    node.governor.configure(ceiling_bytes_s=5e5, ratio_max=2.0)
    assert node.governor.rate_bytes_s == 5e5
