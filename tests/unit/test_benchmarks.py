"""Each benchmark runs at the smallest size, without peers that need an environment of their own."""

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module

import pytest
from benchmarks.__main__ import NAMES
from benchmarks.harness import TINY

from millstream.testing.servers.server import Server
from tests.conftest import redis_program


class Lent:
    """In the place of a kind of server: the one that runs, which goes on afterwards."""

    def __init__(self, server: Server) -> None:
        self.lacking = server.lacking
        self._server = server

    def __call__(self) -> AbstractContextManager[Server]:
        return nullcontext(self._server)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_measures_what_it_says(name, request, monkeypatch):
    benchmark = import_module(f"benchmarks.{name}")
    if name == "redis_store":
        redis_program("redis")
    if name == "s3_archive":
        s3 = request.getfixturevalue("s3")
        monkeypatch.setattr(benchmark, "S3Server", Lent(s3))
    if name == "kafka_computing":
        kafka = request.getfixturevalue("kafka")
        monkeypatch.setattr(benchmark, "Kafka", Lent(kafka))
    if name == "freshness":
        monkeypatch.setattr(benchmark, "Kafka", Lent(request.getfixturevalue("kafka")))
        monkeypatch.setattr(benchmark, "RedisServer", Lent(request.getfixturevalue("redis_server")))
        monkeypatch.setattr(benchmark, "SETTLING", 3.0)
    claims = list(benchmark.run(TINY))
    assert claims
    assert all(claim.median > 0 for claim in claims)
