"""The topics of the embedded log: made, widened, trimmed and dropped."""

from __future__ import annotations

from millstream.buffer.embedded import rows as stored
from millstream.buffer.embedded.opened import AT_ONCE, OpenLog
from millstream.buffer.embedded.partitions import ends_of, find_topic, name_of, put_ends, topic_of
from millstream.errors import LogError

_OF_A_TOPIC = (b"p", b"r", b"s", b"b", b"c", b"w")
"""The kinds of rows that a topic has beside its own."""


class EmbeddedTopics(OpenLog):
    """A log that makes, widens, trims and drops its own topics; see the protocol `TopicAdmin`."""

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic unless it is there with as many partitions; see `TopicAdmin.create`."""
        key = b"t" + name_of(topic, "Topic")
        with self._begin() as rows:  # most often it is there, and nobody has to wait
            there = find_topic(rows, topic)
        if there is not None:
            _same_partitions(topic, there[1], partitions)
            return
        with self._begin(write=True) as rows:
            there = find_topic(rows, topic)
            if there is not None:
                _same_partitions(topic, there[1], partitions)
                return
            if partitions < 1:
                raise LogError(
                    f"Topic '{topic}': {partitions} partitions; expected at least 1.", "use 4 unless you know better."
                )
            next_ = rows.get(b"n")
            number = 0 if next_ is None else stored.NUMBER.unpack(stored.opened(b"n", next_, 4, "its topics"))[0]
            # numbers are never used again, so nothing of a dropped topic revives
            rows.put(b"n", stored.seal(b"n", stored.NUMBER.pack(number + 1)))
            rows.put(key, stored.seal(key, stored.TOPIC.pack(number, partitions)))
            for partition in range(partitions):
                put_ends(rows, number, partition, 0, 0)

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic until it has so many; see `TopicAdmin.grow`."""
        with self._begin(write=True) as rows:
            number, there = topic_of(rows, topic)
            if there < partitions:
                key = b"t" + name_of(topic, "Topic")
                rows.put(key, stored.seal(key, stored.TOPIC.pack(number, partitions)))
                for partition in range(there, partitions):
                    put_ends(rows, number, partition, 0, 0)

    def topics(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        with self._begin() as rows:
            return {name: partitions for name, (_, partitions) in stored.topic_rows(rows)}

    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop whole batches that end at or before a position, some at a time; see `TopicAdmin.trim`."""
        while True:
            with self._begin(write=True, wait=False) as rows:
                number, partitions = topic_of(rows, topic)
                first, following = ends_of(rows, topic, number, partitions, partition)
                place = topic, number, partition
                kept, more = stored.trim_batches(rows, place, (first, following), before, AT_ONCE)
                if kept != first:
                    put_ends(rows, number, partition, kept, following)
            if not more:
                break
        self._settle()
        return kept

    def drop(self, topic: str) -> None:
        """Drop a topic, its records and the positions committed in it."""
        with self._begin(write=True) as rows:
            there = find_topic(rows, topic)
            if there is not None:
                rows.put(b"d" + stored.NUMBER.pack(there[0]), b"")
                rows.delete(b"t" + name_of(topic, "Topic"))
        self._remove_dropped()

    def _remove_dropped(self) -> None:
        """Remove the rows of dropped topics, those too whose dropper died; their numbers are never used again."""
        while True:
            with self._begin() as rows:
                if not stored.prefixed(rows, b"d", 1):
                    break
            with self._begin(write=True, wait=False) as rows:
                for key in stored.prefixed(rows, b"d", 1):
                    if not any(stored.delete_some(rows, kind + key[1:], AT_ONCE) for kind in _OF_A_TOPIC):
                        rows.delete(key)
        self._settle()


def _same_partitions(topic: str, stored: int, wanted: int) -> None:
    if stored != wanted:
        raise LogError(
            f"Topic '{topic}' has {stored} partitions, not {wanted}.",
            f"keep partitions={stored}; the topic of a stream grows where its definition says more.",
        )
