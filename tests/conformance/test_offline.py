"""The Iceberg offline store, on its SQLite catalog and a local folder, against the contract of offline stores."""

from functools import partial

import pytest

from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.testing.offline_suite import Factory, OfflineStoreConformance


class TestIceberg(OfflineStoreConformance):
    @pytest.fixture
    def factory(self, tmp_path) -> Factory:
        return partial(IcebergOfflineStore, tmp_path / "offline")
