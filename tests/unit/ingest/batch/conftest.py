from itertools import count
from pathlib import Path

import pytest
from tests.unit.ingest.batch.world import World, version_of


@pytest.fixture
def make_world(tmp_path: Path):
    numbers = count()

    def make(group, **options) -> World:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return World(folder, version_of(group), **options)

    return make


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
