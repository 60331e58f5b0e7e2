"""The online store in Redis or Valkey: one hash per group version and shard, written by scripts that compare first.

Values and what they hold are read by one command, of one instant. A write of up to a chunk is one script; a larger one is
announced, comes in chunks, and is finished, so that no script keeps other requests waiting for long. Whatever the server
loses, with its last second or in a failover, it goes back to what it was at some moment before, positions included, from
which ingestion goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from millstream.errors import CorruptState, Fenced, MillstreamError, StoreError
from millstream.store.online import BEGUN, Answer, Ask, Fact, Memory, Page, ShardMeta, pages
from millstream.store.redis.connection import facts_of
from millstream.store.redis.records import HEAD, KEY, Place, asked, head_of, position_of
from millstream.store.redis.scripts import ANNOUNCE, CHUNK, FINISH, FORGET, LOAD, SCRIPTS, WRITE
from millstream.store.redis.servers import Request, Servers

CHUNK_KEYS, CHUNK_BYTES = 1_000, 1 << 19
"""The most that one script writes: about a millisecond, in which the server answers nobody else."""
WINDOW = 16
"""Chunks that are under way at once."""
READ_KEYS = 2_000
"""The most keys that one command reads."""
_LOOKS = 3
_SHARDS = 4096  # the most that a group may have, by `millstream.settings`
_SAMPLES = b"200"


class RedisOnlineStore:
    """The online store in a Redis or Valkey server, a primary that sentinels name, or a cluster.

    Args:
        servers: where it is.
        prefix: what its keys in the server begin with; of one project alone.
        seconds: how long a call may take; one that comes in several round trips, each of them.
        copies: whether replicas may answer reads.
        chunk: the most keys that one script writes.

    Raises:
        StoreError: when the server cannot be reached, does not let us in, or is not fit to be a store.
        DiskFull: when the server has no memory left, or cannot write to its disk.
        CorruptState: when what was read is not what was written.
        Forked: when it is used in a process forked from the one that opened it.

    >>> from millstream.store.redis.access import Access, ServerUrl
    >>> url = ServerUrl.of("redis://127.0.0.1:1/0")
    >>> store = RedisOnlineStore(Servers(url, Access()), "fraud", 1.0)
    >>> store.facts({"velocity@1": 1})
    Traceback (most recent call last):
    millstream.errors.StoreError: Online store 'redis://127.0.0.1:1' cannot be reached: connection refused.
    ...
    """

    def __init__(
        self, servers: Servers, prefix: str, seconds: float, copies: bool = False, *, chunk: int = CHUNK_KEYS
    ) -> None:
        self._servers, self._prefix, self._seconds, self._copies = servers, prefix, seconds, copies
        self._chunk = chunk
        self._places: dict[tuple[str, int], Place] = {}

    def served(self, seconds: float) -> RedisOnlineStore:
        """The store as scoring reads it: in so many seconds, from replicas where the settings allow it."""
        return RedisOnlineStore(self._servers, self._prefix, seconds, self._servers.copies)

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        """What each shard answers, every ask of one instant, by one round trip; see `OnlineStore.read`."""
        places = [self._place(ask.states, ask.shard) for ask in asks]
        few = [len(ask.keys) <= READ_KEYS for ask in asks]
        requests = [
            (place.key, asked(place, ask.keys)) for place, ask, short in zip(places, asks, few, strict=True) if short
        ]
        replies = iter(self._exchange(requests, self._copies) if requests else ())
        return [
            self._answer(ask, place, next(replies)) if short else self._long_answer(ask, place)
            for ask, place, short in zip(asks, places, few, strict=True)
        ]

    def _answer(self, ask: Ask, place: Place, reply: Any) -> Answer:
        if isinstance(reply, StoreError):
            return Answer([None] * len(ask.keys), failure=reply)
        if isinstance(reply, Exception):
            raise reply
        try:
            return place.answer(ask.keys, reply)
        except CorruptState as error:
            self._note_damage(ask.states)
            return Answer([None] * len(ask.keys), failure=error)

    def _long_answer(self, ask: Ask, place: Place) -> Answer:
        """Many keys by commands that others get between; of one instant where none of them finds another meta."""
        pieces = [ask.keys[start : start + READ_KEYS] for start in range(0, len(ask.keys), READ_KEYS)]
        for _ in range(_LOOKS):
            replies = self._exchange([(place.key, asked(place, piece)) for piece in pieces], self._copies)
            failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if failed is not None:
                return self._answer(ask, place, failed)
            if all(reply[:2] == replies[0][:2] for reply in replies):
                records = [record for reply in replies for record in reply[2:]]
                return self._answer(ask, place, [*replies[0][:2], *records])
        [reply] = self._exchange([(place.key, asked(place, ask.keys))], self._copies)
        return self._answer(ask, place, reply)

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        """By states, what each of their shards has applied, by one round trip; see `OnlineStore.facts`."""
        asks = [Ask(states, shard) for states, count in shards.items() for shard in range(count)]
        answers = self.read(asks)
        if answers and all(isinstance(answer.failure, StoreError) for answer in answers):
            for answer in answers:
                if not isinstance(answer.failure, CorruptState):
                    answer.sound()
        found = iter(answer.failure or answer.meta for answer in answers)
        return {states: [next(found) for _ in range(count)] for states, count in shards.items()}

    def write(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write values and meta by one script, or in announced chunks where they are many; see `OnlineStore.write`."""
        place = self._place(states, shard)
        head, record = head_of(meta.position), place.meta_record(meta)
        chunks = list(_chunks(place, changes, head, self._chunk))
        if len(chunks) > 1:
            return self._write_in_chunks(place, chunks, meta.position, record, expected)
        [(keys, fields)] = chunks or [([], [])]
        call = WRITE.call(place.key, _digits(expected), record, _digits(meta.position), head, *fields)
        [reply] = self._run(place, [call])
        return [keys[at] for at in _refused(place, reply, expected)]

    def _write_in_chunks(
        self, place: Place, chunks: list[_Chunk], position: int, record: bytes, expected: int | None
    ) -> Sequence[bytes]:
        writer, after = os.urandom(8).hex().encode(), _digits(position)
        at = BEGUN if expected is None else expected
        own = (place.key, _digits(at), writer, after)
        calls = [CHUNK.call(*own, head_of(position), *fields) for _, fields in chunks]
        announcement = ANNOUNCE.call(place.key, _digits(expected), record, after, writer)
        reply, *replies = self._run(place, [announcement, *calls[:WINDOW]])
        _refused(place, reply, expected)
        for start in range(WINDOW, len(calls), WINDOW):
            replies += self._run(place, calls[start : start + WINDOW])
        told = zip(chunks, replies, strict=True)
        refused = [keys[one] for (keys, _), reply in told for one in _refused(place, reply, at)]
        if not refused:
            [reply] = self._run(place, [FINISH.call(*own, record)])
            _refused(place, reply, at)
        return refused

    def load(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int
    ) -> None:
        """Write values that nobody reads yet in chunks, then the meta; see `BulkLoad.load`."""
        place = self._place(states, shard)
        calls = [
            LOAD.call(place.key, _digits(expected), *fields)
            for _, fields in _chunks(place, changes, head_of(meta.position), self._chunk)
        ]
        for start in range(0, len(calls), WINDOW):
            for reply in self._run(place, calls[start : start + WINDOW]):
                _refused(place, reply, expected)
        self.write(states, shard, [], meta, expected)

    def forget(self, states: str, shard: int, keys: Sequence[bytes], expected: int) -> None:
        """Remove keys of a shard, some by each script; see `Forgets.forget`."""
        place = self._place(states, shard)
        pieces = [keys[start : start + self._chunk] for start in range(0, len(keys), self._chunk)]
        calls = [FORGET.call(place.key, _digits(expected), *(KEY + key for key in piece)) for piece in pieces]
        for start in range(0, len(calls), WINDOW):
            for reply in self._run(place, calls[start : start + WINDOW]):
                _refused(place, reply, expected)

    def scan(self, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000) -> Page:
        """Some of the keys of a shard with their values; see `OnlineStore.scan`.

        The cursor is the server's own, which means nothing to another one, nor to this one after a restart: from there on
        the scan begins anew.
        """
        place = self._place(states, shard)
        process, _, at = (cursor or b":0").rpartition(b":")
        for _ in range(_LOOKS):
            command = (b"HSCAN", place.key, at, b"COUNT", b"%d" % limit)
            info, (at_next, found) = _sound(self._exchange([(place.key, (b"INFO", b"server")), (place.key, command)]))
            now = _process(info)
            if at == b"0" or now == process:
                break
            process, at = now, b"0"
        pairs = [(field[1:], record) for field, record in _in_pairs(found) if field.startswith(KEY)]
        keys, records = [key for key, _ in pairs], [record for _, record in pairs]
        values = self._opened(states, place, keys, records)
        more = None if at_next == b"0" else now + b":" + at_next
        return Page(list(zip(keys, values, strict=True)), more, [position_of(record) for record in records])

    def _opened(self, states: str, place: Place, keys: Sequence[bytes], records: Sequence[bytes]) -> list[bytes]:
        try:
            return [value for value in place.opened(keys, records, HEAD) if value is not None]
        except CorruptState:
            self._note_damage(states)
            raise

    def drop(self, states: str) -> None:
        """Remove every shard of a group version, how many ever there are; the server frees them beside its work."""
        keys = [self._place(states, shard, kept=False).key for shard in range(_SHARDS)]
        _sound(self._exchange([(key, (b"UNLINK", key)) for key in keys]))
        mark = self._damage_key
        _sound(self._exchange([(mark, (b"SREM", mark, states.encode()))]))
        self._places = {at: place for at, place in list(self._places.items()) if at[0] != states}

    def close(self) -> None:
        """Hang up; what is asked next connects again."""
        self._servers.close()

    def states(self) -> list[str]:
        """The names of all states that there are, whether anybody knows them or not."""
        begin, found = f"{self._prefix}:".encode(), set[str]()
        pattern = b"".join(b"\\" + bytes([one]) if one in b"*?[]\\" else bytes([one]) for one in begin) + b"*"
        for keys in self._servers.walk(pattern, self._seconds):
            found |= {key[len(begin) :].decode().rpartition("/")[0] for key in keys if b"/" in key[len(begin) :]}
        return sorted(found)

    def damaged(self) -> list[str]:
        """The states of which somebody has read damage, until they are dropped."""
        [found] = _sound(self._exchange([(self._damage_key, (b"SMEMBERS", self._damage_key))]))
        return sorted(states.decode() for states in found)

    def examine(self, states: str, shard: int) -> int:
        """Look at every value of a shard, and return how many there are; see `Examined.examine`."""
        self.read([Ask(states, shard)])[0].sound()
        return len({key for page in pages(self, states, shard) for key, _ in page.items})

    def memory(self, states: str, shard: int) -> Memory:
        """How many keys a shard has, and about how many bytes of the server's memory it takes."""
        key = self._place(states, shard).key
        commands = [(b"HLEN", key), (b"MEMORY", b"USAGE", key, b"SAMPLES", _SAMPLES), (b"HSTRLEN", key, b"w")]
        fields, size, writing = _sound(self._exchange([(key, command) for command in commands]))
        return Memory(max(0, fields - (4 if writing else 2)), size or 0)

    @property
    def _damage_key(self) -> bytes:
        return f"{self._prefix}#damaged".encode()

    def _note_damage(self, states: str) -> None:
        """Leave a mark by which ingestion, in whatever process, learns of it."""
        with suppress(MillstreamError):
            self._exchange([(self._damage_key, (b"SADD", self._damage_key, states.encode()))])

    def _place(self, states: str, shard: int, kept: bool = True) -> Place:
        place = self._places.get((states, shard))
        if place is None:
            place = Place(self._prefix, states, shard)
            if kept:
                self._places[states, shard] = place
        return place

    def _exchange(self, requests: Sequence[Request], copies: bool = False) -> list[Any]:
        return self._servers.exchange(requests, time.monotonic() + self._seconds, copies)

    def _run(self, place: Place, calls: Sequence[tuple[bytes, ...]]) -> list[Any]:
        """Run scripts on a shard; a server that somebody made forget them is given them again."""
        end = time.monotonic() + self._seconds
        replies = self._servers.exchange([(place.key, call) for call in calls], end)
        unknown = [at for at, reply in enumerate(replies) if _forgotten(reply)]
        if unknown:
            known = [(place.key, (b"SCRIPT", b"LOAD", script.text)) for script in SCRIPTS]
            again = self._servers.exchange([*known, *[(place.key, calls[at]) for at in unknown]], end)
            for at, reply in zip(unknown, again[len(known) :], strict=True):
                replies[at] = reply
        return _sound(replies)


_Chunk = tuple[list[bytes], list[bytes]]


def _chunks(place: Place, changes: Sequence[tuple[bytes, bytes]], head: bytes, most: int) -> Iterator[_Chunk]:
    """Some keys after the others, and as a script takes them."""
    start = 0
    while start < len(changes):
        taken = size = 0
        for key, value in changes[start : start + most]:
            size += len(key) + len(value)
            if taken and size > CHUNK_BYTES:
                break
            taken += 1
        chunk = changes[start : start + taken]
        yield [key for key, _ in chunk], place.fields(chunk, head)
        start += taken


def _digits(position: int | None) -> bytes:
    return b"" if position is None else b"%d" % position


def _refused(place: Place, reply: Any, expected: int | None) -> list[int]:
    """The places of the keys that a script refused. Raises `Fenced` when it refused them all."""
    if isinstance(reply, bytes):
        at = reply.removeprefix(b"at ")
        raise Fenced.moved(place.name, expected, int(at) if at else None)
    return list(reply)


def _sound(replies: list[Any]) -> list[Any]:
    """The replies. Raises the first error among them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _process(info: bytes) -> bytes:
    """What tells a process of a server from any other."""
    return facts_of(info).get("run_id", "").encode()


def _in_pairs(found: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(found[::2], found[1::2], strict=True)


def _forgotten(reply: Any) -> bool:
    return isinstance(reply, Exception) and "NOSCRIPT" in str(reply)
