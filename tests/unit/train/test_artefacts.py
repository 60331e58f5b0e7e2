"""An artefact is on disk whole or not at all, whatever becomes of the process that writes it."""

from pathlib import Path

import numpy as np
import pytest

from millstream.errors import DiskFull
from millstream.testing.simulation.disk import Disk, Fate, Killed
from millstream.train.artefacts import keep, read

MATRIX, SCORES = np.zeros((2, 2)), np.zeros(2)


def test_what_a_process_left_that_died_while_writing_goes_with_the_next(tmp_path: Path, fitted) -> None:
    folder = tmp_path.resolve() / "models" / "fraud"
    with Disk(tmp_path.resolve()).watching() as disk:
        disk.meet(Fate(2, "before"))
        with pytest.raises(Killed):
            keep(folder, fitted, MATRIX, SCORES)
    assert [path.name[0] for path in folder.iterdir()] == ["."]
    digest = keep(folder, fitted, MATRIX, SCORES)
    assert [path.name for path in folder.iterdir()] == [digest]
    assert read(folder, digest, "it")[0].text == fitted.text


def test_a_full_disk_is_one_sentence(tmp_path: Path, fitted) -> None:
    folder = tmp_path.resolve() / "models" / "fraud"
    with Disk(tmp_path.resolve(), full={"models"}).watching(), pytest.raises(DiskFull):
        keep(folder, fitted, MATRIX, SCORES)
    assert (folder / keep(folder, fitted, MATRIX, SCORES)).is_dir()
