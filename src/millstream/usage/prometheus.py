"""The counters and the layers' state as Prometheus text, without a client library: the blocks already hold the sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from millstream.usage.blocks import Histogram, Totals

BOUNDS = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)


def exposition(totals: Totals, layers: Mapping[str, Any]) -> str:
    """Return the text that a Prometheus server scrapes: counters, latency histograms, and each layer's CPU and memory.

    >>> print(exposition(Totals({'requests{route="score"}': 3}), {}), end="")
    # TYPE millstream_requests_total counter
    millstream_requests_total{route="score"} 3
    """
    lines: list[str] = []
    for family, names in groupby(sorted(totals.counters), key=_family):
        lines.append(f"# TYPE millstream_{family}_total counter")
        lines += [f"millstream_{family}_total{_labels(name)} {totals.counters[name]}" for name in names]
    for family, names in groupby(sorted(totals.histograms), key=_family):
        lines.append(f"# TYPE millstream_{family}_seconds histogram")
        for name in names:
            lines += _histogram(family, _labels(name), totals.histograms[name])
    lines += _gauges(layers)
    return "\n".join(lines) + "\n"


def _family(name: str) -> str:
    return name.partition("{")[0]


def _labels(name: str) -> str:
    return name[len(_family(name)) :]


def _histogram(family: str, labels: str, histogram: Histogram) -> Iterable[str]:
    opened = labels[:-1] + "," if labels else "{"
    for bound in BOUNDS:
        yield f'millstream_{family}_seconds_bucket{opened}le="{bound / 1e6:g}"}} {histogram.below(bound)}'
    yield f'millstream_{family}_seconds_bucket{opened}le="+Inf"}} {histogram.count}'
    yield f"millstream_{family}_seconds_sum{labels} {histogram.total / 1e6:.6f}"
    yield f"millstream_{family}_seconds_count{labels} {histogram.count}"


def _gauges(layers: Mapping[str, Any]) -> Iterable[str]:
    for gauge, read in (
        ("layer_up", lambda layer: int(layer["state"] == "up")),
        ("layer_cpu_cores", lambda layer: layer["cpu"]),
        ("layer_memory_bytes", lambda layer: layer["rss"]),
    ):
        if layers:
            yield f"# TYPE millstream_{gauge} gauge"
        yield from (f'millstream_{gauge}{{layer="{name}"}} {read(layer)}' for name, layer in layers.items())
    for fact in ("rate", "lag", "age"):
        known = {name: layer["facts"][fact] for name, layer in layers.items() if _number(layer["facts"].get(fact))}
        if known:
            yield f"# TYPE millstream_layer_{fact} gauge"
        yield from (f'millstream_layer_{fact}{{layer="{name}"}} {value}' for name, value in known.items())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
