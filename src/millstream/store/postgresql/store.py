"""The online store in PostgreSQL: a row per key, written by statements that move the shard's position or change nothing.

A request is one statement, of one state of the database; so is a write, however many keys it has, so nobody ever finds one
half done. A client that is stopped at any moment keeps nothing locked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from millstream.errors import CorruptState, Fenced, MillstreamError
from millstream.store.online import Answer, Ask, Fact, Page, ShardMeta, pages
from millstream.store.postgresql.keys import LONGEST, stored, whole, with_keys, without_key
from millstream.store.postgresql.server import Server
from millstream.store.postgresql.statements import (
    BEGIN,
    BYTEA,
    DAMAGED,
    DROP,
    FORGET,
    INT4,
    NOTE_DAMAGE,
    POSITION,
    READ,
    SCAN,
    STATES,
    SWEEP,
    SWEPT,
    TEXT,
    WRITE,
    array,
    copied,
    integer,
    small,
)  # fmt: skip
from millstream.store.records import SUM, ShardRecords

COPIED_BYTES = 8 << 20
"""What a write may have that is not copied first."""
_PIECE = 2_000  # keys
_SWEPT = 5_000  # keys that are removed at once
_Changes = Sequence[tuple[bytes, bytes]]


class PostgresqlOnlineStore:
    """The online store in a PostgreSQL server.

    Args:
        server: where it is.
        seconds: how long a call may take; one that comes in several statements, each of them.
        copied: a write of more bytes is copied first.

    Raises:
        StoreError: when the server cannot be reached, does not let us in, or is not fit to be a store.
        DiskFull: when the server has no room left.
        CorruptState: when what was read is not what was written.
        Forked: when it is used in a process forked from the one that opened it.

    >>> from millstream.store.postgresql.access import Access
    >>> store = PostgresqlOnlineStore(Server(Access.of("postgresql://127.0.0.1:1/features"), "fraud", 1.0), 1.0)
    >>> store.facts({"velocity@1": 1})
    Traceback (most recent call last):
    millstream.errors.StoreError: Online store 'postgresql://127.0.0.1:1/features' cannot be reached: Connection refused.
    ...
    """

    def __init__(self, server: Server, seconds: float, *, copied: int = COPIED_BYTES) -> None:
        self._server, self._seconds, self._most = server, seconds, copied
        self._known: dict[tuple[str, int], ShardRecords] = {}

    def served(self, seconds: float) -> PostgresqlOnlineStore:
        """The store as scoring reads it, in so many seconds."""
        return PostgresqlOnlineStore(self._server, seconds)

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        """What each shard answers, all of one instant, by one statement; see `OnlineStore.read`."""
        if not asks:
            return []
        names = array(TEXT, [ask.states.encode() for ask in asks])
        shards = array(INT4, [small(ask.shard) for ask in asks])
        places = array(INT4, [small(place) for place, ask in enumerate(asks, 1) for _ in ask.keys])
        keys = array(BYTEA, [stored(key) for ask in asks for key in ask.keys])
        rows = self._server.ask(READ, [names, shards, places, keys], self._end)
        found = {int.from_bytes(at or b"", "big", signed=True): record for at, record in rows}
        answers, begin = list[Answer](), 1
        for place, ask in enumerate(asks, 1):
            held = [found.get(at) for at in range(begin, begin + len(ask.keys))]
            answers.append(self._answer(ask, found.get(-place), held))
            begin += len(ask.keys)
        return answers

    def _answer(self, ask: Ask, meta: bytes | None, held: Sequence[bytes | None]) -> Answer:
        records = self._records(ask.states, ask.shard)
        try:
            values = records.opened(ask.keys, held)
            if max(map(len, ask.keys), default=0) > LONGEST:
                values = [v if v is None else without_key(k, v) for k, v in zip(ask.keys, values, strict=True)]
            return Answer(values, records.meta(meta))
        except CorruptState as error:
            self._note_damage(ask.states)
            return Answer([None] * len(ask.keys), failure=error)

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        """By states, what each of their shards has applied, by one statement; see `OnlineStore.facts`."""
        answers = self.read([Ask(states, shard) for states, count in shards.items() for shard in range(count)])
        found = iter(answer.failure or answer.meta for answer in answers)
        return {states: [next(found) for _ in range(count)] for states, count in shards.items()}

    def write(
        self, states: str, shard: int, changes: _Changes, meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write values and meta by one statement; nobody is refused; see `OnlineStore.write`."""
        records = self._records(states, shard)
        head = _head(states, shard, meta.position, records.meta_record(meta))
        sealed = self._sealed(records, changes)
        if expected is not None and sum(len(record) for _, record in sealed) > self._most:
            self._copied(head, states, shard, sealed, expected)
            return ()
        values = [array(BYTEA, [key for key, _ in sealed]), array(BYTEA, [record for _, record in sealed])]
        if expected is None:
            moved = self._server.change(BEGIN, [*head, *values], self._end)
        else:
            moved = self._server.change(WRITE, [*head, integer(expected), *values], self._end)
        self._refuse_elsewhere(bool(moved), states, shard, expected)
        return ()

    def load(self, states: str, shard: int, changes: _Changes, meta: ShardMeta, expected: int) -> None:
        """Copy values that nobody reads yet to the server, and write them; see `BulkLoad.load`."""
        records = self._records(states, shard)
        head = _head(states, shard, meta.position, records.meta_record(meta))
        self._copied(head, states, shard, self._sealed(records, changes), expected)

    def _copied(self, head: Sequence[bytes], states: str, shard: int, sealed: _Changes, expected: int) -> None:
        pieces = [copied(sealed[start : start + _PIECE]) for start in range(0, len(sealed), _PIECE)]
        moved = self._server.load(pieces, [*head, integer(expected)], self._end)
        self._refuse_elsewhere(bool(moved), states, shard, expected)

    def _sealed(self, records: ShardRecords, changes: _Changes) -> _Changes:
        """Keys and records as they are stored, each key once."""
        once = list(dict(changes).items())
        keys = [stored(key) for key, _ in once]
        return list(zip(keys, records.sealed(with_keys(once)), strict=True))

    def _refuse_elsewhere(self, moved: bool, states: str, shard: int, expected: int | None) -> None:
        """Raise `Fenced` when a statement has not moved a shard, as it was not where it was expected."""
        if moved:
            return
        rows = self._server.ask(POSITION, [states.encode(), small(shard)], self._end)
        found = int.from_bytes(rows[0][0] or b"", "big", signed=True) if rows else None
        raise Fenced.moved(f"shard {shard} of '{states}'", expected, found)

    def forget(self, states: str, shard: int, keys: Sequence[bytes], expected: int) -> None:
        """Remove keys of a shard by one statement; see `Forgets.forget`."""
        given = [states.encode(), small(shard), integer(expected), array(BYTEA, [stored(key) for key in keys])]
        moved = self._server.change(FORGET, given, self._end)
        self._refuse_elsewhere(bool(moved), states, shard, expected)

    def scan(self, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000) -> Page:
        """Some of the keys of a shard with their values, in the order of the index; see `OnlineStore.scan`."""
        given = [states.encode(), small(shard), cursor or b"", integer(limit)]
        rows = [(key or b"", record or b"") for key, record in self._server.ask(SCAN, given, self._end)]
        records = self._records(states, shard)
        keys = [whole(key, record, SUM) for key, record in rows]
        try:
            values = records.opened(keys, [record for _, record in rows])
        except CorruptState:
            self._note_damage(states)
            raise
        more = rows[-1][0] + b"\0" if len(rows) == limit else None
        return Page([(key, without_key(key, value or b"")) for key, value in zip(keys, values, strict=True)], more)

    def drop(self, states: str) -> None:
        """Remove every shard of a group version: at once for whoever reads, then the rows of its keys."""
        self._server.ask(DROP, [states.encode()], self._end)
        while self._server.ask(SWEEP, [integer(_SWEPT)], self._end):
            pass
        self._server.ask(SWEPT, [], self._end)
        self._known = {at: records for at, records in list(self._known.items()) if at[0] != states}

    def close(self) -> None:
        """Hang up; what is asked next connects again."""
        self._server.close()

    def states(self) -> list[str]:
        """The names of all states that there are, whether anybody knows them or not."""
        return sorted((name or b"").decode() for (name,) in self._server.ask(STATES, [], self._end))

    def damaged(self) -> list[str]:
        """The states of which somebody has read damage, until they are dropped."""
        return sorted((name or b"").decode() for (name,) in self._server.ask(DAMAGED, [], self._end))

    def examine(self, states: str, shard: int) -> int:
        """Look at every value of a shard, and return how many there are; see `Examined.examine`."""
        self.read([Ask(states, shard)])[0].sound()
        return sum(len(page.items) for page in pages(self, states, shard))

    def _note_damage(self, states: str) -> None:
        """Leave a mark by which ingestion, in whatever process, learns of it."""
        with suppress(MillstreamError):
            self._server.ask(NOTE_DAMAGE, [states.encode()], self._end)

    def _records(self, states: str, shard: int) -> ShardRecords:
        records = self._known.get((states, shard))
        if records is None:
            records = self._known[states, shard] = ShardRecords(states, shard)
        return records

    @property
    def _end(self) -> float:
        return time.monotonic() + self._seconds


def _head(states: str, shard: int, position: int, meta: bytes) -> list[bytes]:
    return [states.encode(), small(shard), integer(position), meta]
