"""phi: how unlikely it is that a beat which has not come is merely late.

Sans-I/O. phi = -log10(P(an interval is longer than this silence)), with intervals normal and P the exact normal tail:

    phi(t) = -log10(0.5 * erfc(z / sqrt(2))),    z = (t - pause - mean) / deviation

`t` is the silence since the last beat, `pause` what is forgiven before suspicion grows at all. Phi 5 is reached at
z = 4.265, phi 8 at z = 5.612. (The often copied logistic approximation reaches 8 at 5.23, which is not phi 8.)
Source: Hayashibara, Defago, Yared, Katayama, "The phi accrual failure detector", SRDS 2004.
"""

from __future__ import annotations

import math
from collections import deque
from functools import lru_cache
from statistics import NormalDist

WINDOW = 60
"""Intervals remembered: at one beat a second, a minute of weather."""

PRIOR_SPREAD = 0.1
"""Before anything is measured: two intervals, this much below and above the expected one."""

OUTLIER = 3.0
"""An interval over this many means is an outage, not a sample."""

_TAIL_Z = 25.0
"""From here on erfc is replaced by its asymptotic series: erfc itself ends, as a float, at z = 38."""

_LN10 = math.log(10.0)
_LOG_SQRT_TAU = 0.5 * math.log(math.tau)
_NORMAL = NormalDist()


def phi_at(z: float) -> float:
    """Return phi of a silence `z` deviations above the mean: finite and increasing for every float."""
    if z < 0.0:
        return -math.log1p(-0.5 * math.erfc(-z / math.sqrt(2.0))) / _LN10
    if z < _TAIL_Z:
        return -math.log10(0.5 * math.erfc(z / math.sqrt(2.0)))
    # Q(z) = exp(-z^2 / 2) / (z sqrt(tau)) * (1 - 1/z^2 + 3/z^4 - 15/z^6 + ...)
    inverse = 1.0 / (z * z)
    series = math.log1p(-inverse * (1.0 - inverse * (3.0 - 15.0 * inverse)))
    return (0.5 * z * z + math.log(z) + _LOG_SQRT_TAU - series) / _LN10


@lru_cache(maxsize=64)
def deviations_at(phi: float) -> float:
    """Return the z whose phi this is; 0 < phi < 300."""
    return -_NORMAL.inv_cdf(10.0**-phi)


class Beats:
    """The beats of one member, as one watcher receives them."""

    __slots__ = (
        "_deviation_s",
        "_intervals",
        "_is_skipping",
        "_mean_s",
        "_pause_s",
        "_sd_min_s",
        "is_proven",
        "last_s",
    )

    def __init__(self, interval_s: float, *, pause_s: float, sd_min_s: float, now_s: float) -> None:
        spread_s = interval_s * PRIOR_SPREAD
        self._intervals = deque((interval_s - spread_s, interval_s + spread_s), maxlen=WINDOW)
        self._pause_s = pause_s
        self._sd_min_s = sd_min_s
        self._is_skipping = True
        self._measure()
        self.is_proven = False
        """A beat has come at all."""
        self.last_s = now_s
        """When the last beat came, or the watch began."""

    @property
    def mean_s(self) -> float:
        """Mean interval."""
        return self._mean_s

    @property
    def deviation_s(self) -> float:
        """Deviation of the intervals, never below the profile's minimum or a tenth of the mean."""
        return self._deviation_s

    def _measure(self) -> None:
        count = len(self._intervals)
        mean_s = self._mean_s = sum(self._intervals) / count
        variance = sum([(interval_s - mean_s) ** 2 for interval_s in self._intervals]) / count
        self._deviation_s = max(math.sqrt(variance), self._sd_min_s, mean_s / 10.0)

    def beat(self, now_s: float) -> None:
        """Take a beat. The first one after an outage, a pause or the start ends a silence and is no sample."""
        interval_s, self.last_s = now_s - self.last_s, now_s
        self.is_proven = True
        is_outlier = interval_s > OUTLIER * self._mean_s
        if not (self._is_skipping or is_outlier):
            self._intervals.append(interval_s)
            self._measure()
        self._is_skipping = False

    def skip(self) -> None:
        """Do not learn from the interval that is under way."""
        self._is_skipping = True

    def shift(self, gap_s: float) -> None:
        """Leave out of the silence a time during which this node itself stood still."""
        self.last_s += gap_s
        self._is_skipping = True

    def phi(self, now_s: float) -> float:
        """Return phi of the silence until now."""
        return phi_at((now_s - self.last_s - self._pause_s - self._mean_s) / self._deviation_s)

    def crossing_s(self, phi: float) -> float:
        """Return when phi will have this value unless a beat comes."""
        return self.last_s + self._pause_s + self._mean_s + deviations_at(phi) * self._deviation_s
