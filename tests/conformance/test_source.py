"""Every source passes the suite."""

import pytest

from millstream.sources.source import Source
from millstream.testing.adversarial_source import AdversarialSource
from millstream.testing.source_suite import SourceConformance


class Made:
    """A made source, which every process shares."""

    def __init__(self, seed: int) -> None:
        self._source = AdversarialSource(seed)

    def open(self) -> Source:
        return self._source

    def put(self, place: int, events: list[bytes]) -> None:
        for event in events:
            self._source.put(f"shard {place}", event)

    def expire(self, place: int) -> None:
        self._source.expire(f"shard {place}", 3)


class TestAdversarialSource(SourceConformance):
    @pytest.fixture(params=range(5))
    def world(self, request: pytest.FixtureRequest) -> Made:
        return Made(request.param)
