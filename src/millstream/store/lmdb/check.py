"""What tells damage in a file of the online store: a checksum in each record, and the structure of the file.

LMDB trusts its file. A bit that flips in a record, in its key or in a page's own numbers gives another value, no value or
the end of the process. So a record carries a checksum of itself and its key, what is not found is looked for between
two sound neighbours in their order, and a small file is walked through before LMDB is given it.
"""

from __future__ import annotations

import os
from pathlib import Path

import lmdb
from xxhash import xxh3_64_digest, xxh3_64_intdigest

CHECK = 8  # bytes of a checksum, before what it is of
_WALKED = 4 << 20  # bytes up to which a file is walked through when it is opened: about 50 ms
_LOOKS = 3
_walked: dict[Path, tuple[tuple[int, ...], str | None]] = {}  # files walked through, as they were then, and the damage
_LEAK = "neither reachable nor in the freeDB"  # pages that are lost to the file harm nobody


def sealed(key: bytes, value: bytes) -> bytes:
    """Return a record as it is stored under a key: its checksum, then its value.

    >>> opened(b"user-1", sealed(b"user-1", b"state"))
    b'state'
    """
    return xxh3_64_digest(value, xxh3_64_intdigest(key)) + value


def opened(key: bytes, record: bytes) -> bytes:
    """Return the value of a record found under a key. Raises `lmdb.CorruptedError` when it is not what was stored."""
    value = record[CHECK:]
    if record[:CHECK] != xxh3_64_digest(value, xxh3_64_intdigest(key)):
        raise lmdb.CorruptedError(f"the record of key {key!r} does not match its checksum")
    return value


def refuse_hidden(cursor: lmdb.Cursor[bytes], key: bytes, checked: bool) -> None:
    """Raise when a key that was not found may be there: where it belongs, something is damaged.

    Args:
        cursor: a cursor of the shard's states, wherever it stands; it is moved.
        key: the key, as it is stored.
        checked: whether records have checksums, so that the key's two neighbours are held to theirs.

    Raises:
        lmdb.CorruptedError: naming what is wrong.
    """
    found = cursor.set_range(key)
    if found:
        _refuse_misplaced(cursor, key < cursor.key(), checked)
    if cursor.prev() if found else cursor.last():
        _refuse_misplaced(cursor, cursor.key() < key, checked)


def _refuse_misplaced(cursor: lmdb.Cursor[bytes], placed: bool, checked: bool) -> None:
    if not placed:
        raise lmdb.CorruptedError("its keys are out of order")
    if checked:
        opened(cursor.key(), cursor.value())


def refuse_damaged(folder: Path, *, most: int | None = _WALKED) -> None:
    """Walk through the file in a folder, unless it is longer than `most` bytes, without giving it to LMDB.

    Others may write to it meanwhile: what they made of it then is not taken for damage.
    Raises `lmdb.CorruptedError`, naming the first of what is wrong.
    """
    path = folder / "data.mdb"
    facts = os.stat(path)
    size, seen = facts.st_size, (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if not size or (most is not None and size > most):
        return
    before, damage = _walked.get(path, ((), None))
    if before != seen or most is None:
        damage = _damage(folder, path)
        _walked[path] = (seen, damage)
    if damage:
        raise lmdb.CorruptedError(damage)


def _damage(folder: Path, path: Path) -> str | None:
    """The first of what is wrong with a file, if anything is."""
    from lmdb.verify import VerifyError, verify

    for _ in range(_LOOKS):
        before = _metas(path)
        try:
            problems = [str(one) for one in verify(str(folder)) if _LEAK not in str(one)]
        except VerifyError as error:
            problems = [str(error)]
        if not problems or before == _metas(path):
            return problems[0] if problems else None
    return None


def _metas(path: Path) -> bytes:
    """The two pages that say what was committed; every commit changes one."""
    with open(path, "rb") as file:
        return file.read(2 << 12)
