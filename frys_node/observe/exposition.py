"""Metrics as Prometheus text. prometheus_client is imported when somebody scrapes, not before (D12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frys_node.observe.metrics import Counter, Gauge, Histogram, Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator


def load() -> None:
    """Import what `render` needs: 40 ms the first time, so in a worker."""
    import prometheus_client.core
    import prometheus_client.openmetrics.exposition  # noqa: F401


def render(metrics: Metrics, *, openmetrics: bool = False) -> tuple[bytes, str]:
    """Return every metric as text and its content type; OpenMetrics 1.0 or Prometheus text 0.0.4."""
    from prometheus_client import CollectorRegistry, exposition
    from prometheus_client.openmetrics import exposition as open_exposition

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(metrics))
    if openmetrics:
        text: bytes = open_exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text, open_exposition.CONTENT_TYPE_LATEST
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_LATEST


class _Families:
    """A prometheus_client collector over `Metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Any]:
        """Nothing: names are unique by construction."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield each metric as a family."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for metric in list(self._metrics):
            if isinstance(metric, Histogram):
                cumulative, buckets = 0, []
                for bound, count in zip((*map(str, metric.bounds), "+Inf"), metric.counts, strict=True):
                    cumulative += count
                    buckets.append((bound, cumulative))
                yield HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=metric.sum)
                continue
            make = CounterMetricFamily if isinstance(metric, Counter) else GaugeMetricFamily
            family = make(metric.name, metric.help, labels=metric.labels)
            for labels, value in _values(metric):
                family.add_metric(labels, value)
            yield family


def _values(metric: Counter | Gauge) -> list[tuple[tuple[str, ...], float]]:
    if metric.source is not None:
        return [((), metric.source())]
    return list(metric.values.items())
