"""The counters and the layers' state as a Prometheus server scrapes them: the blocks hold the sums, the library writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from millstream.usage.blocks import Histogram, Totals

BOUNDS = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_GAUGES: tuple[tuple[str, str, Callable[[Mapping[str, Any]], Any]], ...] = (
    ("layer_up", "Whether a process of the layer lives and says so", lambda layer: int(layer["state"] == "up")),
    ("layer_cpu_cores", "Cores that the processes of the layer use", lambda layer: layer["cpu"]),
    ("layer_memory_bytes", "Memory that the processes of the layer hold", lambda layer: layer["rss"]),
    ("layer_rate", "Records that the layer handles in a second", lambda layer: layer["facts"].get("rate")),
    ("layer_lag", "Records that the layer has still before it, about", lambda layer: layer["facts"].get("lag")),
    (
        "layer_lag_seconds",
        "How long the oldest record has waited that is before it",
        lambda layer: layer["facts"].get("lag_s"),
    ),
    ("layer_age", "Microseconds since the newest arrival that was handled", lambda layer: layer["facts"].get("age")),
)
_OF_GROUPS = {
    "late": ("group_late_rows", "Rows of its tables that are in no value of the group: they came later than those say"),
    "gone": ("group_gone_rows", "Rows that are in values of the group, and in its tables no more"),
}


def exposition(
    totals: Totals,
    layers: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    since: str = "the project was made",
) -> str:
    """Return the text that a Prometheus server scrapes: counters, latency histograms, and each layer's CPU and memory.

    Args:
        totals: what the scoring processes have counted.
        layers: by name, what each layer last said; see `millstream.usage.layers.snapshot`.
        groups: by group version, how many rows of its tables came too `late` for it, and how many are `gone`.
        since: what the counters count from, in words.

    Returns:
        str: Prometheus' text format, version 0.0.4.

    Example:
        >>> print(exposition(Totals({'requests{route="score"}': 3}), {}), end="")
        # HELP millstream_requests_total How often, since the project was made
        # TYPE millstream_requests_total counter
        millstream_requests_total{route="score"} 3.0
    """
    return generate_latest(_Counted(totals, layers, groups, since)).decode()


@dataclass(frozen=True)
class _Counted(Collector):
    """What was counted, family by family."""

    totals: Totals
    layers: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, int]]
    since: str

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()
        yield from self._of_groups()

    def _counters(self) -> Iterator[Metric]:
        for family, counters in _families(self.totals.counters):
            metric = CounterMetricFamily(f"millstream_{family}", f"How often, since {self.since}")
            for name, count in counters:
                metric.add_sample(f"millstream_{family}_total", _labels(name), count)
            yield metric

    def _histograms(self) -> Iterator[Metric]:
        for family, histograms in _families(self.totals.histograms):
            metric = HistogramMetricFamily(f"millstream_{family}_seconds", f"How long it took, since {self.since}")
            for name, histogram in histograms:
                _add(metric, _labels(name), histogram)
            yield metric

    def _gauges(self) -> Iterator[Metric]:
        for gauge, words, read in _GAUGES:
            known = {name: read(layer) for name, layer in self.layers.items() if _number(read(layer))}
            if known:
                metric = GaugeMetricFamily(f"millstream_{gauge}", words, labels=["layer"])
                for name, value in known.items():
                    metric.add_metric([name], value)
                yield metric

    def _of_groups(self) -> Iterator[Metric]:
        for fact, (gauge, words) in _OF_GROUPS.items():
            known = {name: facts[fact] for name, facts in self.groups.items() if fact in facts}
            if known:
                metric = GaugeMetricFamily(f"millstream_{gauge}", words, labels=["group"])
                for name, value in known.items():
                    metric.add_metric([name], value)
                yield metric


def _families(named: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """What has a name with labels, by the name before them."""
    for family, some in groupby(sorted(named), key=lambda name: name.partition("{")[0]):
        yield family, [(name, named[name]) for name in some]


def _labels(name: str) -> dict[str, str]:
    """The labels that stand in a name."""
    return dict(_LABEL.findall(name.partition("{")[2]))


def _add(metric: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    for bound in BOUNDS:
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": f"{bound / 1e6:g}"}, histogram.below(bound))
    metric.add_sample(f"{metric.name}_bucket", {**labels, "le": "+Inf"}, histogram.count)
    metric.add_sample(f"{metric.name}_sum", labels, histogram.total / 1e6)
    metric.add_sample(f"{metric.name}_count", labels, histogram.count)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
