"""Each benchmark runs at the smallest size, without peers that need an environment of their own."""

from importlib import import_module

import pytest
from benchmarks.__main__ import NAMES
from benchmarks.harness import TINY

from tests.conftest import redis_program


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_measures_what_it_says(name):
    if name == "redis_store":
        redis_program("redis")
    claims = list(import_module(f"benchmarks.{name}").run(TINY))
    assert claims
    assert all(claim.median > 0 for claim in claims)
