"""How fast a node may move units while it serves requests: a controller of the rate by their p99.

Sans-I/O. Theory of operation. While nothing moves, the node learns the p99 of its requests: that is what *before the
move* means. While something moves, the p99 of the last seconds is compared with it. A move begins slowly, for nobody
knows yet what it costs, and its rate doubles once a window until the p99 is first above the bound. Then it halves, has
as long as the window to show its effect, and grows in small steps that would take it back in eight seconds (slow start,
additive increase, multiplicative decrease: Chiu and Jain 1989; Jacobson 1988). Near the bound it stays as it is: a rate
that grows until it hurts hurts again and again. At the floor nothing is left to halve: the moves stand still for a
while, then go on at the floor, so that they end even when something else spoils the p99.

::

    p99 well within bound:  rate * 2 once a window, until first cut; then rate + GROWTH of the rate last cut, a look
    p99 near the bound:     the rate stays
    p99 above it:           rate * DECREASE           (down to FLOOR_BYTES_S), once a window
    above it at FLOOR:      nothing for PAUSE_S, then a window at the floor
    no p99, but asked:      rate * 2 once a window
    few requests:           rate * 2, a look

It grows only as far as it is used. A node that serves other nodes' clients only has no p99 of its own. It begins slowly
too, and the paces of those that do are at the other end of most of its moves.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

TICK_S = 0.5
"""How often the rate is looked at."""

WINDOW_S = 2.0
"""Over how long the p99 is taken while units move."""

CALM_WINDOW_S = 30.0
"""Over how long the p99 from before a move is taken."""

QUIET_S = 5.0
"""Nothing has moved for so long: the move is over, and its tail no longer colours the p99."""

SAMPLES_MIN = 20
"""Requests within a window below which there is no p99 to speak of."""

CALM_P99_MIN_S = 0.005
"""A p99 from before counts as at least this: twice very little is no harm."""

CALM_P99_UNKNOWN_S = 0.025
"""What counts as the p99 from before on a node that had no requests then, such as a newcomer."""

START_BYTES_S = float(512 << 10)
"""What a move begins with where requests are served: its first window at a higher rate would cost those who wait."""

IDLE_START_BYTES_S = float(8 << 20)
"""What it begins with on a node with too few requests for a p99 and hardly a question of another node."""

FLOOR_BYTES_S = float(256 << 10)
CEILING_BYTES_S = float(1 << 30)
"""The highest rate where no setting bounds it."""

UNUSED_MAX = 2.0
"""The rate grows to at most so many times what moves in fact."""

WITHIN = 0.75
"""Part of the bound up to which the rate grows: with a bound of twice the p99 from before, one and a half times."""

GROWTH = 1 / 32
"""Step of the rate after a cut, as a part of what it was then, or is now if that is more: half of it to all of it in 16
looks, and twice that in 23 more."""

DECREASE = 0.5
PAUSE_S = 3.0


class _Mark(NamedTuple):
    """What was counted until an instant: requests by bucket, and bytes moved."""

    at_s: float
    counts: tuple[int, ...]
    moved_bytes: int


def quantile(bounds: Sequence[float], counts: Sequence[int], part: float) -> float:
    """Return the value below which that part of the observations lies, interpolated within its bucket.

    `counts` has one more element than `bounds`: the observations above the last bound, taken to be at it.
    """
    wanted = part * sum(counts)
    below = 0.0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            lower = bounds[index - 1] if index else 0.0
            upper = bounds[min(index, len(bounds) - 1)]
            return lower + (upper - lower) * (wanted - below) / count
        below += count
    return bounds[-1]


class Governor:
    """The rate of one node's moves."""

    __slots__ = (
        "_begun_at_s", "_bounds", "_calm_since_s", "_ceiling", "_cut_at_s", "_cut_bytes_s", "_doubled_at_s", "_marks",
        "_moved_at_s", "_ratio_max", "calm_p99_s", "is_asked", "is_moving", "p99_s", "paused_until_s", "pauses",
        "rate_bytes_s", "why",
    )  # fmt: skip

    def __init__(self, bounds: Sequence[float], *, ceiling_bytes_s: float = 0.0, ratio_max: float = 2.0) -> None:
        self._bounds = tuple(bounds)
        self._marks: deque[_Mark] = deque()
        self._calm_since_s = -math.inf
        self._begun_at_s = self._moved_at_s = -math.inf
        self._cut_at_s = self._doubled_at_s = -math.inf
        self._cut_bytes_s = 0.0
        self.is_asked = self.is_moving = False
        self.calm_p99_s: float | None = None
        """The p99 from before the move; None while there is none to know of."""
        self.p99_s: float | None = None
        """That of the last window; None with too few requests."""
        self.paused_until_s = -math.inf
        self.pauses = 0
        """Times that moves stood still."""
        self.why = ""
        """Why moves are slow, for people; empty when they are not held back."""
        self.configure(ceiling_bytes_s=ceiling_bytes_s, ratio_max=ratio_max)
        self.rate_bytes_s = self._start_bytes_s

    def configure(self, *, ceiling_bytes_s: float, ratio_max: float) -> None:
        """Take a bound (0 for none) and how many times the p99 from before is borne (0: any, nothing is held back)."""
        self._ceiling = ceiling_bytes_s if ceiling_bytes_s > 0 else CEILING_BYTES_S
        self._ratio_max = ratio_max
        self.rate_bytes_s = min(getattr(self, "rate_bytes_s", self._ceiling), self._ceiling)

    def tick(
        self, counts: Sequence[int], now_s: float, *, moved_bytes: int, is_active: bool, is_asked: bool = False
    ) -> None:
        """Look at what was counted so far: requests by bucket, and bytes moved.

        `is_active`: something is on its way; `is_asked`: other nodes ask for what their clients wait for.
        """
        if is_asked and not self.is_asked and self.p99_s is None:
            # It was idle: whatever rate it had come to says nothing of what those who ask now bear.
            self.rate_bytes_s, self._doubled_at_s = min(self.rate_bytes_s, START_BYTES_S), now_s
        self.is_asked = is_asked
        if is_active and not self.is_moving:
            # What was counted since the last look may be the move's doing already.
            self._begin(now_s)
        self._mark(_Mark(now_s, tuple(counts), moved_bytes))
        if is_active:
            self._moved_at_s = now_s
        elif self.is_moving and now_s >= self._moved_at_s + QUIET_S:
            self.is_moving = False
            self._calm_since_s, self.why = now_s, ""
        self.p99_s = self._p99(now_s - WINDOW_S)
        if self.is_moving:
            self._steer(now_s)
        else:
            # What is asked for before the next look goes at this rate.
            self.rate_bytes_s = self._start_bytes_s

    def is_paused(self, now_s: float) -> bool:
        """True while moves stand still."""
        return now_s < self.paused_until_s

    @property
    def bound_s(self) -> float:
        """The p99 that is borne while units move; infinite if any is."""
        calm_s = CALM_P99_UNKNOWN_S if self.calm_p99_s is None else max(self.calm_p99_s, CALM_P99_MIN_S)
        return self._ratio_max * calm_s if self._ratio_max > 0 else math.inf

    def _mark(self, mark: _Mark) -> None:
        self._marks.append(mark)
        # One mark at or before the beginning of the longest window stays: what was counted then is taken off.
        while len(self._marks) > 1 and self._marks[1].at_s <= mark.at_s - CALM_WINDOW_S:
            self._marks.popleft()

    def _begin(self, now_s: float) -> None:
        self.is_moving = True
        self._begun_at_s = self._marks[-1].at_s if self._marks else now_s
        self.calm_p99_s = self._p99(max(now_s - CALM_WINDOW_S, self._calm_since_s)) or self.calm_p99_s
        self._cut_at_s = self.paused_until_s = -math.inf
        self._cut_bytes_s = 0.0
        self._doubled_at_s = now_s

    @property
    def _start_bytes_s(self) -> float:
        """What a move begins with now, and may always grow to: little, if there is anybody to wait for it."""
        is_idle = self.p99_s is None and not self.is_asked
        return min(IDLE_START_BYTES_S if is_idle else START_BYTES_S, self._ceiling)

    def _p99(self, since_s: float) -> float | None:
        """Return the p99 of requests since an instant, as of the last look; None if they were too few."""
        if not self._marks:
            return None
        first, last = self._mark_at(since_s), self._marks[-1]
        counts = [new - old for new, old in zip(last.counts, first.counts, strict=True)]
        return quantile(self._bounds, counts, 0.99) if sum(counts) >= SAMPLES_MIN else None

    def _mark_at(self, at_s: float) -> _Mark:
        """Return the last mark at or before an instant, else the first there is."""
        return next((mark for mark in reversed(self._marks) if mark.at_s <= at_s), self._marks[0])

    def _grown(self, rate_bytes_s: float, now_s: float) -> float:
        """Return a higher rate, as far as it is made use of: halving one that nobody uses would change nothing."""
        first = self._mark_at(max(now_s - WINDOW_S, self._begun_at_s))
        used = (self._marks[-1].moved_bytes - first.moved_bytes) / max(TICK_S, now_s - first.at_s)
        useful = max(self._start_bytes_s, self.rate_bytes_s, UNUSED_MAX * used)
        return min(self._ceiling, rate_bytes_s, useful)

    def _steer(self, now_s: float) -> None:
        if self.is_paused(now_s):
            return
        if self._ratio_max <= 0 or (self.p99_s is None and not self.is_asked):
            self.rate_bytes_s, self.why = self._grown(self.rate_bytes_s * 2, now_s), ""
        elif self.p99_s is None:
            self.why = ""
            self._speed_up(now_s)
        elif self.p99_s <= self.bound_s:
            self.why = ""
            if self.p99_s <= WITHIN * self.bound_s:
                self._speed_up(now_s)
        elif now_s >= self._cut_at_s + WINDOW_S:
            self._hold_back(now_s, self.p99_s)

    def _speed_up(self, now_s: float) -> None:
        if self._cut_bytes_s:
            step = GROWTH * max(self._cut_bytes_s, self.rate_bytes_s)
            self.rate_bytes_s = self._grown(self.rate_bytes_s + step, now_s)
        elif now_s >= self._doubled_at_s + WINDOW_S:
            self._doubled_at_s = now_s
            self.rate_bytes_s = self._grown(self.rate_bytes_s * 2, now_s)

    def _hold_back(self, now_s: float, p99_s: float) -> None:
        before = "unknown" if self.calm_p99_s is None else f"{self.calm_p99_s * 1e3:.1f} ms"
        self.why = f"p99 of requests {p99_s * 1e3:.1f} ms, before the move {before}"
        floor = min(FLOOR_BYTES_S, self._ceiling)
        self._cut_at_s, self._cut_bytes_s = now_s, self.rate_bytes_s
        if self.rate_bytes_s > floor:
            self.rate_bytes_s = max(floor, self.rate_bytes_s * DECREASE)
            return
        self.pauses += 1
        self.paused_until_s = now_s + PAUSE_S
        # After the pause the floor has a window of its own: what always stands still never ends.
        self._cut_at_s = self.paused_until_s
