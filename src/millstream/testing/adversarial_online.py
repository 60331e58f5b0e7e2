"""An online store that keeps the text of the protocol and nothing more, to find who relies on more than that."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from xxhash import xxh3_64_digest

from millstream.buffer.embedded.environment import exclusive
from millstream.errors import Fenced
from millstream.ingest.writing import TRIES
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import BEGUN, Answer, Ask, Fact, Page, ShardMeta, pages, shard_metas

_HEAD = 8  # bytes of a value's position, before the value


class AdversarialOnlineStore:
    """Any protocol of an online store over the embedded one, as badly as it may be: for the tests of whatever uses one.

    A write is announced, and comes chunk by chunk in an order of its own; keys are refused at random, and sometimes so
    often in a row that the writer gives up, so that the write stays pending. Answers come late: what they say was so
    before others went on. A scan keeps no order, gives keys twice, and pages that are empty.

    Args:
        store: the store that holds the values.
        seed: what it draws from: the same seed refuses the same keys.
        meanwhile: is called between the chunks of a write, and before an answer is given: what others do meanwhile.

    Example:
        >>> import tempfile
        >>> store = AdversarialOnlineStore(LmdbOnlineStore(tempfile.mkdtemp()), seed=6)
        >>> changes, meta = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], ShardMeta(position=4)
        >>> store.write("velocity@1", 0, [], ShardMeta(position=3), None)
        ()
        >>> store.write("velocity@1", 0, changes, meta, 3)
        [b'c']
        >>> [answer] = store.read([Ask("velocity@1", 0, [b"a", b"c"])])
        >>> answer.values, answer.positions[0], answer.meta.position, answer.meta.pending.position
        ([b'1', None], 4, 3, 4)
        >>> from millstream.ingest.writing import write_all
        >>> write_all(store, "velocity@1", 0, changes[2:], meta, 3)
        >>> store.facts({"velocity@1": 1})["velocity@1"][0].position
        4
    """

    def __init__(self, store: LmdbOnlineStore, seed: int, meanwhile: Callable[[], None] | None = None) -> None:
        self.embedded, self.meanwhile = store, meanwhile
        self._chance, self._salt = random.Random(seed), seed
        self._stubborn = 0

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        """Return what each shard answers, every value with the position that it was written with."""
        answers = [self._apart(answer) for answer in self.embedded.read(asks)]
        self._others()
        return answers

    def _apart(self, answer: Answer) -> Answer:
        heads = [b"" if value is None else value[:_HEAD] for value in answer.values]
        positions = [int.from_bytes(head, "big", signed=True) if head else self._chance.randrange(99) for head in heads]
        values = [None if value is None else value[_HEAD:] for value in answer.values]
        return Answer(values, answer.meta, positions, answer.failure)

    def write(
        self, states: str, shard: int, changes: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int | None
    ) -> Sequence[bytes]:
        """Write values chunk by chunk, then the meta, unless a key was refused; see `OnlineStore.write`."""
        if not changes:
            with self._alone():
                self._refuse_moved(states, shard, meta, expected)
                return self.embedded.write(states, shard, [], meta, expected)
        self._announce(states, shard, meta, expected)
        if not self._stubborn and self._chance.random() < 0.1:
            self._stubborn = self._chance.randint(1, 2 * TRIES)
        self._stubborn = max(0, self._stubborn - 1)
        left, refused = self._chance.sample(changes, len(changes)), list[bytes]()
        while left:
            count = self._chance.randint(1, max(1, len(changes) // 2))
            chunk, left = left[:count], left[count:]
            refused += self._chunk(states, shard, chunk, meta, BEGUN if expected is None else expected)
            self._others()
        if not refused:
            with self._alone():
                self._refuse_moved(states, shard, meta, BEGUN if expected is None else expected)
                self.embedded.write(states, shard, [], meta, BEGUN if expected is None else expected)
        return refused

    def _announce(self, states: str, shard: int, meta: ShardMeta, expected: int | None) -> None:
        with self._alone():
            known = self._refuse_moved(states, shard, meta, expected)
            announced = msgspec.structs.replace(known or ShardMeta(position=BEGUN), pending=meta)
            self.embedded.write(states, shard, [], announced, expected)

    def _refuse_moved(self, states: str, shard: int, meta: ShardMeta, expected: int | None) -> ShardMeta | None:
        """Raise `Fenced` unless a shard is where its writer expects it, with nothing else pending; return its meta."""
        known = shard_metas(self.embedded, states, shard + 1)[shard]
        found = None if known is None else known.position
        if found != expected:
            raise Fenced.moved(f"shard {shard} of '{states}'", expected, found)
        if known is not None and known.pending is not None and known.pending.position != meta.position:
            raise Fenced.moved(f"shard {shard} of '{states}'", meta.position, known.pending.position)
        return known

    def _chunk(
        self, states: str, shard: int, chunk: Sequence[tuple[bytes, bytes]], meta: ShardMeta, expected: int
    ) -> list[bytes]:
        """Write some values; the keys that are refused, by chance or because another writer was faster."""
        with self._alone():
            known = self._refuse_moved(states, shard, meta, expected)
            if known is None or known.pending is None:
                raise Fenced.moved(f"shard {shard} of '{states}'", meta.position, None)
            keys = [key for key, _ in chunk]
            [answer] = self.embedded.read([Ask(states, shard, keys)])
            ahead = self._apart(answer.sound()).ahead(expected)
            refused = {
                key for place, key in enumerate(keys) if place in ahead or self._stubborn or self._chance.random() < 0.1
            }
            head = meta.position.to_bytes(_HEAD, "big", signed=True)
            taken = [(key, head + value) for key, value in chunk if key not in refused]
            self.embedded.write(states, shard, taken, known, expected)
            return sorted(refused)

    def forget(self, states: str, shard: int, keys: Sequence[bytes], expected: int) -> None:
        """Remove keys one after another, and stop half way when others write; see `Forgets.forget`."""
        for key in self._chance.sample(keys, len(keys)):
            with self._alone():
                known = shard_metas(self.embedded, states, shard + 1)[shard]
                if known is None or known.position != expected or known.pending is not None:
                    raise Fenced.moved(
                        f"shard {shard} of '{states}'", expected, None if known is None else known.position
                    )
                self.embedded.forget(states, shard, [key], expected)
            self._others()

    def scan(self, states: str, shard: int, cursor: bytes | None = None, limit: int = 10_000) -> Page:
        """Return some pairs in no order, none at times, and one of before now and then; see `OnlineStore.scan`."""
        every = {key: value for page in pages(self.embedded, states, shard) for key, value in page.items}
        order = sorted((self._place(key), key) for key in every)
        following = [key for place, key in order if cursor is None or place > cursor]
        count = self._chance.randint(0, min(limit, len(following)))
        keys, more = following[:count], count < len(following)
        passed = order[: len(order) - len(following) + count]
        if passed and self._chance.random() < 0.3:
            keys = [*keys, self._chance.choice(passed)[1]]
        answer = self._apart(Answer([every[key] for key in keys]))
        values = [value for value in answer.values if value is not None]
        following_cursor = self._place(following[count - 1]) if count else cursor or b""
        return Page(list(zip(keys, values, strict=True)), following_cursor if more else None, answer.positions)

    def _place(self, key: bytes) -> bytes:
        return xxh3_64_digest(key, self._salt)

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        """Return what the shards have applied."""
        found = self.embedded.facts(shards)
        self._others()
        return found

    def drop(self, states: str) -> None:
        """Remove every shard of a group version."""
        self.embedded.drop(states)

    def states(self) -> list[str]:
        """Return the names of all states that there are."""
        return self.embedded.states()

    def damaged(self) -> list[str]:
        """Return the group versions of which somebody has read damage."""
        return self.embedded.damaged()

    def examine(self, states: str, shard: int) -> int:
        """Look at every page and every record of a shard."""
        return self.embedded.examine(states, shard)

    def close(self) -> None:
        """Let go of the store."""
        self.embedded.close()

    def _others(self) -> None:
        if self.meanwhile is not None:
            self.meanwhile()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One step of a write at a time, in whatever process."""
        place = self.embedded.path / "writing"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        with exclusive(place):
            yield
