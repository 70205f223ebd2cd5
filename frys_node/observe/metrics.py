"""Metrics as plain numbers: handed to prometheus_client only when somebody scrapes (D12).

Names are ``frys_<package>_<noun>[_<unit>][_total]``. Labels are few and bounded: never a member, key, run or
address. One `Metrics` per node, so that several nodes in one process do not mix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator


class Counter:
    """A number that only grows, per label values, or a function of one that does."""

    __slots__ = ("help", "labels", "name", "source", "values")

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.help, self.labels = name, help_text, labels
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        self.source: Callable[[], float] | None = None

    def inc(self, *label_values: str, by: float = 1) -> None:
        """Add `by` under the label values, given in the declared order."""
        self.values[label_values] = self.values.get(label_values, 0) + by


class Gauge:
    """A number that goes both ways, or a function read at scrape time."""

    __slots__ = ("help", "labels", "name", "source", "values")

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.help, self.labels = name, help_text, labels
        self.values: dict[tuple[str, ...], float] = {}
        self.source: Callable[[], float] | None = None

    def set(self, value: float, *label_values: str) -> None:
        """Set the value under the label values."""
        self.values[label_values] = value


class Histogram:
    """Observations in buckets with fixed upper bounds (plus infinity)."""

    __slots__ = ("bounds", "counts", "help", "name", "sum")

    def __init__(self, name: str, help_text: str, bounds: tuple[float, ...]) -> None:
        self.name, self.help, self.bounds = name, help_text, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


Metric = Counter | Gauge | Histogram

SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Default bounds for durations in seconds."""


class Metrics:
    """Every metric of one node. Declaring the same name again returns the first."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def counter(
        self,
        name: str,
        help_text: str,
        labels: tuple[str, ...] = (),
        source: Callable[[], float] | None = None,
    ) -> Counter:
        """Declare a counter; its name ends in ``_total``. `source`, which only grows, is read at scrape time."""
        metric = self._metrics.setdefault(name, Counter(name, help_text, labels))
        assert isinstance(metric, Counter), name
        if source is not None:
            metric.source = source
        return metric

    def gauge(
        self,
        name: str,
        help_text: str,
        labels: tuple[str, ...] = (),
        source: Callable[[], float] | None = None,
    ) -> Gauge:
        """Declare a gauge; with `source` it is read at scrape time."""
        metric = self._metrics.setdefault(name, Gauge(name, help_text, labels))
        assert isinstance(metric, Gauge), name
        if source is not None:
            metric.source = source
        return metric

    def histogram(self, name: str, help_text: str, bounds: tuple[float, ...] = SECONDS) -> Histogram:
        """Declare a histogram with ascending upper bounds."""
        metric = self._metrics.setdefault(name, Histogram(name, help_text, bounds))
        assert isinstance(metric, Histogram), name
        return metric
