"""A look at the pages of an LMDB file before it is trusted: numbers within the file, sizes within the page.

LMDB takes what its pages say about themselves and about each other as true. A bit that flips in such a number makes it
read or write beyond the page or the file, which ends the process by a signal. What the records hold is told by their
own checksums; here only the structure is looked at, as the snapshot of a reader sees it, so that writers go on.

A page has a header (its number, its kind, the bounds of its free space), the places of its nodes, and from its end on
the nodes: for a branch the number of a page below, for a leaf a key and a value, or the number of the pages that hold a
long value. All nodes of many pages are looked at at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray

SECONDS = 2.0  # after which no more leaves are looked at: about 2 GiB
_ROOT, _BRANCH, _LEAF, _LONG = 8, 1, 2, 4  # kinds of pages
_BIG, _TREE = 1, 2  # kinds of leaf nodes: with a long value elsewhere; with the record of a named tree
_HEAD, _NODE = 16, 8  # bytes of the header of a page, and of that of a node
_MAGIC, _VERSION, _NO_PAGE = 0xBEEFC0DE, 1, 2**64 - 1
_KEY = 511
_DEPTH = 32
_INTEGER_KEYS = 8  # the one flag of the tree of free pages
_AT_ONCE = 1024  # pages
_LOOKS = 100
_TREE_OF = np.dtype(
    [
        ("pad", "<u4"), ("flags", "<u2"), ("depth", "<u2"), ("branches", "<u8"), ("leaves", "<u8"), ("long", "<u8"),
        ("entries", "<u8"), ("root", "<u8"),
    ]
)  # fmt: skip
_ROOT_OF = np.dtype(
    [
        ("number", "<u8"), ("pad", "<u2"), ("kind", "<u2"), ("bounds", "<u4"), ("magic", "<u4"), ("version", "<u4"),
        ("address", "<u8"), ("map_size", "<u8"), ("free", _TREE_OF), ("main", _TREE_OF), ("last", "<u8"),
        ("transaction", "<u8"),
    ]
)  # fmt: skip
_Numbers = NDArray[np.int64]


class _Nodes(NamedTuple):
    """The nodes of some pages: which of the pages each is on, where, its flags and the sizes of its key and value."""

    page: _Numbers
    at: _Numbers
    low: _Numbers
    flags: _Numbers
    key: _Numbers


def refuse_broken_roots(path: Path) -> None:
    """Raise `lmdb.CorruptedError` when one of the two root pages of a file cannot be one; a new file may be empty."""
    if not path.exists() or not (length := path.stat().st_size):
        return
    with open(path, "rb") as file:
        roots = _roots(file.fileno(), length)
    sizes = {int(root["free"]["pad"]) for root in roots}
    for place, root in enumerate(roots):
        _expect(root["kind"] == _ROOT and root["number"] == place, "a root page is none")
        _expect(root["magic"] == _MAGIC and root["version"] == _VERSION, "a root page is of no LMDB file")
        _expect(root["free"]["flags"] == _INTEGER_KEYS and root["main"]["flags"] == 0, "a root page has wrong flags")
    _expect(len(sizes) == 1, "the root pages have pages of different sizes")
    first, second = (int(root["transaction"]) for root in roots)
    own = first % 2 == 0 and (second % 2 == 1 or not second)
    _expect(own or first == second, "a root page is another one's")  # after a loss of power both are the steady one


def refuse_broken_pages(env: lmdb.Environment, path: Path, seconds: float = SECONDS) -> None:
    """Raise where a page of a file, as it was last committed, says what cannot be true.

    All pages that lead to others are looked at, and leaves for some seconds.

    Args:
        env: the environment, open.
        path: its file, "data.mdb".
        seconds: how long to look at leaves.

    Raises:
        lmdb.CorruptedError: when there is one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_LOOKS):
            with env.begin() as snapshot:
                roots = _roots(descriptor, os.fstat(descriptor).st_size)
                mine = [root for root in roots if root["transaction"] == snapshot.id()]
                if mine:
                    return _Walk(path, mine[0], time.monotonic() + seconds).whole()
        # Others have committed twice between any two looks: it is in use, and was looked at when they opened it.
    finally:
        os.close(descriptor)


def _roots(descriptor: int, length: int) -> list[np.void]:
    first = os.pread(descriptor, _ROOT_OF.itemsize, 0)
    _expect(len(first) == _ROOT_OF.itemsize, "a root page is cut short")
    found = np.frombuffer(first, _ROOT_OF)[0]
    size = int(found["free"]["pad"])
    _expect(size in (1 << n for n in range(8, 17)) and 2 * size <= length, "a root page has an impossible page size")
    second = os.pread(descriptor, _ROOT_OF.itemsize, size)
    _expect(len(second) == _ROOT_OF.itemsize, "a root page is cut short")
    return [found, np.frombuffer(second, _ROOT_OF)[0]]


class _Walk:
    """A walk from a root over all pages that it reaches."""

    def __init__(self, path: Path, root: np.void, end: float) -> None:
        self._size, self._root, self._end = int(root["free"]["pad"]), root, end
        content = np.memmap(path, np.uint8, "r")
        held = len(content) // self._size
        self._pages = content[: held * self._size].reshape(held, self._size)
        self._following = int(root["last"]) + 1
        # Pages at the end that nothing has been written to may not be in the file.
        _expect(2 <= self._following <= 2 * held + (1 << 20), "the file has fewer pages than its root says")
        self._used = np.zeros(self._following, np.bool_)
        self._long_pages = 0
        self._free: list[bytes] = []

    def whole(self) -> None:
        """Walk over the tree of free pages, the main tree and those that it names."""
        self._tree(self._root["free"], free=True)
        trees = [self._root["main"]]
        for tree in trees:
            _expect(tree["flags"] == 0, "a tree has impossible flags")
            trees += self._tree(tree)
        self._refuse_used()

    def _refuse_used(self) -> None:
        """Pages that are said to be free are in no tree, and said so once: they are the next that are written to."""
        for told in self._free:
            pages = np.frombuffer(told, "<u8")
            _expect(
                len(pages) > 0 and pages[0] == len(pages) - 1, "a list of free pages has another length than it says"
            )
            self._take(pages[1:].astype(np.int64), "a list of free pages", read=False)

    def _tree(self, tree: np.void, *, free: bool = False) -> list[np.void]:
        """Look at all pages of a tree, level by level, and return the records of the trees that it names."""
        root, depth = int(tree["root"]), int(tree["depth"])
        if root == _NO_PAGE:
            _expect(not depth and not tree["entries"], "a tree without a root has entries")
            return []
        _expect(0 < depth <= _DEPTH and root < self._following, "a tree has an impossible root")
        level, named, entries, branches = np.array([root], np.int64), list[np.void](), 0, 0
        for _ in range(depth - 1):
            branches += len(level)
            level = np.concatenate([self._below(some, 1 if free else 2) for some in _parts(level)])
        self._long_pages = 0
        for some in _parts(level):
            if not free and time.monotonic() > self._end:
                return named
            entries += self._leaves(some, named, free)
        _expect(entries == tree["entries"], "a tree has another number of entries than it says")
        counted = tree[["branches", "leaves", "long"]].item()
        _expect(counted == (branches, len(level), self._long_pages), "a tree has another number of pages than it says")
        return named

    def _below(self, numbers: _Numbers, least: int) -> _Numbers:
        """The numbers of the pages below some branches."""
        pages, nodes = self._nodes(numbers, _BRANCH, least)
        self._refuse_overlaps(pages, nodes, _NODE + nodes.key)
        return nodes.low | nodes.flags << 32

    def _leaves(self, numbers: _Numbers, named: list[np.void], free: bool) -> int:
        """Look at some leaves; returns how many entries they have."""
        pages, nodes = self._nodes(numbers, _LEAF, 1)
        big = nodes.flags == _BIG
        _expect((big | (nodes.flags == 0) | (nodes.flags == _TREE)).all(), "a node has impossible flags")
        self._refuse_overlaps(pages, nodes, _NODE + nodes.key + np.where(big, 8, nodes.low))
        _expect((nodes.key > 0).all(), "a node has no key")
        values = nodes.at + _NODE + nodes.key
        firsts = self._long(pages, nodes, values, np.flatnonzero(big))
        for place in np.flatnonzero(nodes.flags == _TREE).tolist():
            record = pages[nodes.page[place], values[place] : values[place] + nodes.low[place]]
            _expect(len(record) == _TREE_OF.itemsize and not free, "the record of a tree has another size")
            named.append(np.frombuffer(record.tobytes(), _TREE_OF)[0])
        if free:
            _expect((nodes.key == 8).all(), "a list of free pages has no transaction")
            for place in range(len(values)):
                self._free.append(self._value(pages, nodes, values, firsts, place))
        return len(values)

    def _value(
        self, pages: NDArray[np.uint8], nodes: _Nodes, values: _Numbers, firsts: dict[int, int], at: int
    ) -> bytes:
        size = int(nodes.low[at])
        if at in firsts:
            begin = firsts[at] * self._size + _HEAD
            return self._pages.reshape(-1)[begin : begin + size].tobytes()
        return pages[nodes.page[at], values[at] : values[at] + size].tobytes()

    def _long(self, pages: NDArray[np.uint8], nodes: _Nodes, values: _Numbers, places: _Numbers) -> dict[int, int]:
        """Look at the pages of long values; returns where they begin, by the places of their nodes."""
        if not len(places):
            return {}
        bytes_of = pages[nodes.page[places][:, None], values[places][:, None] + np.arange(8)]
        firsts = np.ascontiguousarray(bytes_of).view("<u8").ravel()
        counts = (_HEAD - 1 + nodes.low[places]) // self._size + 1
        _expect((firsts < self._following).all(), "a long value lies beyond the file")
        firsts = firsts.astype(np.int64)
        ends = np.cumsum(counts)
        _expect(int(ends[-1]) <= self._following, "long values are longer than the file")
        all_of = np.arange(int(ends[-1])) + np.repeat(firsts - (ends - counts), counts)
        self._take(all_of, "a long value")
        self._long_pages += len(all_of)
        heads = self._pages[firsts, :_HEAD]
        _expect((_numbers(heads, "<u8", 0) == firsts).all(), "a page has another number than its place")
        _expect((_numbers(heads, "<u2", 5) == _LONG).all(), "a long value lies on a page of another kind")
        _expect((_numbers(heads, "<u4", 3) == counts).all(), "a long value has another length than its pages")
        return dict(zip(places.tolist(), firsts.tolist(), strict=True))

    def _nodes(self, numbers: _Numbers, kind: int, least: int) -> tuple[NDArray[np.uint8], _Nodes]:
        """The nodes of some pages, of which those headers are looked at."""
        self._take(numbers, "a page of a tree")
        pages = self._pages[numbers]
        words = pages.view("<u2")
        _expect((_numbers(pages, "<u8", 0) == numbers).all(), "a page has another number than its place")
        _expect((words[:, 5] == kind).all(), "a page is of another kind than its place")
        lower, upper = words[:, 6].astype(np.int64), words[:, 7].astype(np.int64)
        sound = (lower >= _HEAD) & (lower % 2 == 0) & (lower <= upper) & (upper <= self._size)
        _expect(sound.all(), "a page has impossible bounds")
        counts = (lower - _HEAD) // 2
        _expect((counts >= least).all(), "a page has no entries")
        page = np.repeat(np.arange(len(numbers)), counts)
        order = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = words[page, _HEAD // 2 + order].astype(np.int64)
        inside = (at % 2 == 0) & (at >= upper[page]) & (at <= self._size - _NODE)
        _expect(inside.all(), "a node lies outside its page")
        low, high, flags, key = (words[page, at // 2 + word].astype(np.int64) for word in range(4))
        return pages, _Nodes(page, at, low | high << 16, flags, key)

    def _refuse_overlaps(self, pages: NDArray[np.uint8], nodes: _Nodes, sizes: _Numbers) -> None:
        _expect((nodes.key <= _KEY).all(), "a key is longer than keys may be")
        _expect((nodes.at + sizes <= self._size).all(), "a node reaches beyond its page")
        room = self._size - pages.view("<u2")[:, 7].astype(np.int64)
        taken = np.bincount(nodes.page, (sizes + 1) // 2 * 2, len(pages))
        _expect((taken <= room).all(), "the nodes of a page overlap")

    def _take(self, numbers: _Numbers, what: str, *, read: bool = True) -> None:
        """Note that pages are reached, each once, and none beyond the file."""
        bound = min(self._following, len(self._pages)) if read else self._following
        _expect(((numbers >= 2) & (numbers < bound)).all(), f"{what} lies beyond the file")
        _expect(not self._used[numbers].any(), f"{what} is in use elsewhere")
        self._used[numbers] = True
        _expect(len(np.unique(numbers)) == len(numbers), f"{what} is in use elsewhere")


def _numbers(pages: NDArray[np.uint8], kind: str, place: int) -> NDArray[np.int64]:
    """A number of each page's header, as the place-th of its kind."""
    return np.ascontiguousarray(pages[:, :_HEAD]).view(kind)[:, place].astype(np.int64)


def _parts(numbers: _Numbers) -> Iterator[_Numbers]:
    for begin in range(0, len(numbers), _AT_ONCE):
        yield numbers[begin : begin + _AT_ONCE]


def _expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise lmdb.CorruptedError(otherwise)
