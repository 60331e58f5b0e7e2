"""The embedded online store against the contract of online stores."""

from functools import partial

import pytest

from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.testing.online_suite import Factory, OnlineStoreConformance


class TestLmdb(OnlineStoreConformance):
    @pytest.fixture
    def factory(self, tmp_path) -> Factory:
        return partial(LmdbOnlineStore, tmp_path / "online")
