"""Each benchmark runs at the smallest size, without peers that need an environment of their own."""

from contextlib import nullcontext
from importlib import import_module

import pytest
from benchmarks.__main__ import NAMES
from benchmarks.harness import TINY

from tests.conftest import redis_program


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_measures_what_it_says(name, request, monkeypatch):
    benchmark = import_module(f"benchmarks.{name}")
    if name == "redis_store":
        redis_program("redis")
    if name == "s3_archive":
        s3 = request.getfixturevalue("s3")
        monkeypatch.setattr(benchmark, "S3Server", lambda: nullcontext(s3))
    if name == "kafka_computing":
        kafka = request.getfixturevalue("kafka")
        monkeypatch.setattr(benchmark, "Kafka", lambda: nullcontext(kafka))
    claims = list(benchmark.run(TINY))
    assert claims
    assert all(claim.median > 0 for claim in claims)
