"""Artefacts: a fitted model as text, its encoder and a sample with its scores, in a folder named by their hash.

A folder on a disk is written aside, synced and renamed, so it is there whole or not at all. In the storage of objects each
is there whole or not at all, and a version is registered when all of them are. Its name says what a folder must hold.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from millstream.buffer.embedded.environment import exclusive, no_room
from millstream.disk import sync_folder
from millstream.errors import CorruptState, DiskFull
from millstream.train.encoding import Encoder
from millstream.train.trainers.trainer import Artefact

if TYPE_CHECKING:
    from millstream.store.s3 import ObjectFolder

Floats = NDArray[np.float64]

_MODEL, _ENCODER, _SAMPLE = "model.txt", "encoder.json", "sample.npy"


def keep(folder: Path | ObjectFolder, artefact: Artefact, matrix: Floats, scores: Floats) -> str:
    """Write an artefact below `folder` and return its digest; writing the same one again changes nothing.

    Args:
        folder: the model's folder; made if absent.
        artefact: the fitted model.
        matrix, scores: rows as its encoder makes them, and what it scores them.

    Raises:
        DiskFull: there is no room.
        StoreError: the storage of objects refuses it, or cannot be reached.
    """
    files = _files(artefact, matrix, scores)
    digest = _digest(files)
    _keep(folder, digest, files)
    return digest


def _keep(folder: Path | ObjectFolder, digest: str, files: Mapping[str, bytes]) -> None:
    if isinstance(folder, Path):
        _keep_on_disk(folder, digest, files)
    else:
        for name, content in files.items():
            (folder / digest).write(name, content)


def _keep_on_disk(folder: Path, digest: str, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder):
            for left in folder.glob(".*"):
                shutil.rmtree(left)  # by a process that died while it wrote
            if not (folder / digest).exists():
                _write_aside(folder, digest, files)
    except OSError as error:
        if no_room(error, folder):
            raise DiskFull.writing(folder) from error
        raise


def _write_aside(folder: Path, digest: str, files: Mapping[str, bytes]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    for name, content in files.items():
        _write(aside / name, content)
    sync_folder(aside)
    aside.rename(folder / digest)
    sync_folder(folder)


def read(folder: Path | ObjectFolder, digest: str, thing: str) -> tuple[Artefact, Floats, Floats]:
    """Return the artefact with that digest, its sample rows and their scores.

    Args:
        folder: the model's folder.
        digest: what `keep` returned.
        thing: what to call it in an error, "Model version 'fraud@3'".

    Raises:
        CorruptState: it is not there, or its content is not what its digest says.
        StoreError: the storage of objects refuses it, or cannot be reached.
    """
    files = _checked(folder, digest, thing)
    about = json.loads(files[_ENCODER])
    artefact = Artefact(about["kind"], files[_MODEL].decode(), Encoder.from_dict(about))
    sample = np.load(io.BytesIO(files[_SAMPLE]), allow_pickle=False)
    return artefact, np.ascontiguousarray(sample[:, :-1]), sample[:, -1]


def carry(source: Path | ObjectFolder, target: Path | ObjectFolder, digest: str, thing: str) -> int:
    """Copy an artefact to another folder, as it is, and return its bytes.

    Args:
        source: the model's folder.
        target: its folder elsewhere; made if absent.
        digest: what `keep` returned.
        thing: what to call it in an error, "Model version 'fraud@3'".

    Raises:
        CorruptState: it is not there, or its content is not what its digest says.
        DiskFull: there is no room.
        StoreError: the storage of objects refuses it, or cannot be reached.
    """
    files = _checked(source, digest, thing)
    _keep(target, digest, files)
    _checked(target, digest, thing)
    return sum(map(len, files.values()))


def _checked(folder: Path | ObjectFolder, digest: str, thing: str) -> dict[str, bytes]:
    """The files of an artefact, which are those that its digest says."""
    place = folder / digest
    files = {name: _read(place, name, thing) for name in (_MODEL, _ENCODER, _SAMPLE)}
    if _digest(files) != digest:
        raise CorruptState(
            f"{thing}: the files in {place} are not those that were written.",
            hint="restore the folder from a copy, or train again.",
        )
    return files


def _read(place: Path | ObjectFolder, name: str, thing: str) -> bytes:
    if isinstance(place, Path):
        try:
            return (place / name).read_bytes()
        except OSError as error:
            raise _unread(thing, place / name, error.strerror or "it is not there") from error
    found = place.read(name)
    if found is None:
        raise _unread(thing, place / name, "it is not there")
    return found


def _unread(thing: str, file: Path | ObjectFolder, why: str) -> CorruptState:
    return CorruptState(
        f"{thing}: {file} cannot be read ({why}).", hint="restore the models folder from a copy, or train again."
    )


def _files(artefact: Artefact, matrix: Floats, scores: Floats) -> dict[str, bytes]:
    about = {"kind": artefact.kind, **artefact.encoder.to_dict()}
    sample = io.BytesIO()
    np.save(sample, np.column_stack([matrix, scores]), allow_pickle=False)
    encoder = json.dumps(about, ensure_ascii=False, indent=1)
    return {_MODEL: artefact.text.encode(), _ENCODER: encoder.encode(), _SAMPLE: sample.getvalue()}


def _digest(files: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name in sorted(files):
        found.update(f"{name} {len(files[name])}\n".encode())
        found.update(files[name])
    return found.hexdigest()[:32]


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
