"""DDSketch, in its own environment: quantiles of values by the finest sketch of so many bytes."""

import json
import math
import sys
from typing import Any

from ddsketch import DDSketch

BUCKET = 8
"""Bytes of a bucket as the sketch is written: a count, of contiguous buckets."""


def quantiles(values: list[float], size: int, q: list[float]) -> list[float]:
    """Return the quantiles of a sketch whose buckets over the range of the values fill at most `size` bytes."""
    span = math.log(max(values) / min(values))
    gamma = math.exp(span / (size // BUCKET - 2))
    sketch = DDSketch((gamma - 1) / (gamma + 1))
    for value in values:
        sketch.add(value)
    return [sketch.get_quantile_value(share) for share in q]


def answer(request: dict[str, Any]) -> Any:
    """Answer one request."""
    return quantiles(request["values"], request["size"], request["q"])


for line in sys.stdin:
    print(json.dumps({"answer": answer(json.loads(line))}), flush=True)
