"""The fraud view of `world`, read from a store and scored."""

from pathlib import Path

import pytest
from tests.unit.serve.world import NOW, VERSIONS, fill, model, trained, view

from millstream.clock import SimulatedClock
from millstream.serve.reader import FeatureReader
from millstream.serve.scorer import Scorer
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.train.versions import LoadedModel


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOW)


@pytest.fixture
def online(tmp_path: Path) -> LmdbOnlineStore:
    store = LmdbOnlineStore(tmp_path / "online")
    fill(store)
    return store


@pytest.fixture
def reader(online: LmdbOnlineStore, clock: SimulatedClock) -> FeatureReader:
    return FeatureReader(online, view, VERSIONS, clock)


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    return trained()


@pytest.fixture
def scorer(reader: FeatureReader, loaded: LoadedModel, clock: SimulatedClock) -> Scorer:
    return Scorer(model, loaded, reader, clock)
