"""The online stores against the contract of online stores: the embedded one, and the one that keeps no more than that."""

from functools import partial
from pathlib import Path

import pytest

from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.testing.online_suite import Factory, OnlineStoreConformance


class TestLmdb(OnlineStoreConformance):
    @pytest.fixture
    def factory(self, tmp_path) -> Factory:
        return partial(LmdbOnlineStore, tmp_path / "online")


def adversarial(path: Path, seed: int) -> AdversarialOnlineStore:
    return AdversarialOnlineStore(LmdbOnlineStore(path), seed)


class TestAdversarial(OnlineStoreConformance):
    @pytest.fixture(params=[1, 2])
    def factory(self, tmp_path, request) -> Factory:
        return partial(adversarial, tmp_path / "online", request.param)
