"""A sum that several threads count up in a store, each position once, while others look on: whatever happens meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from millstream.errors import Fenced, StoreError
from millstream.store.online import BEGUN, Ask, OnlineStore

STATES, OTHERS, KEYS, ROUNDS = "velocity@1", "other@1", [b"key-%d" % number for number in range(20)], 25


def step(store: OnlineStore) -> int:
    """Add the position of the shard to every value, once, whoever else does; returns the position."""
    [answer] = store.read([Ask(STATES, 0, KEYS)])
    meta = answer.sound().meta
    assert meta is not None
    added, ahead = meta.position, answer.ahead(meta.position)
    after = msgspec.structs.replace(meta, position=added + 1, pending=None)
    changes = [
        (key, b"%d" % (int(value or 0) + added))
        for place, (key, value) in enumerate(zip(KEYS, answer.values, strict=True))
        if place not in ahead
    ]
    store.write(STATES, 0, changes, after, added)
    return added


def apply_all(store: OnlineStore, enough: Callable[[int], bool], failed: list[BaseException]) -> None:
    while True:
        try:
            if enough(step(store)):
                return
        except (StoreError, Fenced):
            time.sleep(0.001)
        except BaseException as error:
            failed.append(error)
            return


def look_on(store: OnlineStore, over: threading.Event, failed: list[object]) -> None:
    """Read while others write: every value is the sum of the positions that its meta says it holds."""
    while not over.is_set():
        try:
            [answer, other] = store.read([Ask(STATES, 0, KEYS[::-1]), Ask(OTHERS, 0, KEYS)])
        except StoreError:
            time.sleep(0.001)
            continue
        held = [meta.position if meta else BEGUN for meta in answer.metas()]
        sums = [None if value is None else int(value) for value in answer.values]
        if answer.failure is None and sums != [sum(range(at)) for at in held]:
            failed.append((sums, held))
        if other.failure is None and set(other.values) != {b"theirs"}:
            failed.append(other)


def count_up(store: OnlineStore, meanwhile: Callable[[], None] | None = None) -> None:
    """Count in two threads, and look on in two, for some rounds and until something else is done.

    What is not as it should be is raised.
    """
    failed: list[BaseException] = []
    wrong: list[object] = []
    done, over = threading.Event(), threading.Event()
    given = (store, lambda position: position >= ROUNDS and done.is_set(), failed)
    writers = [threading.Thread(target=apply_all, args=given) for _ in range(2)]
    readers = [threading.Thread(target=look_on, args=(store, over, wrong)) for _ in range(2)]
    for thread in writers + readers:
        thread.start()
    try:
        if meanwhile is not None:
            meanwhile()
    finally:
        done.set()
        for thread in writers:
            thread.join()
        over.set()
        for thread in readers:
            thread.join()
    assert failed == [] and wrong == []


def check(store: OnlineStore) -> None:
    """Every value is the sum of all positions."""
    [answer] = store.read([Ask(STATES, 0, KEYS)])
    assert answer.meta is not None and answer.meta.position > ROUNDS and answer.meta.pending is None
    assert answer.values == [b"%d" % sum(range(answer.meta.position))] * len(KEYS)
