"""What every log must do whose topics are made by those who use it: a part of `LogConformance`."""

from __future__ import annotations

import pytest

from millstream.buffer.log import Batch, OwnLog
from millstream.buffer.reading import ends_of
from millstream.errors import LogError
from millstream.testing.log_processes import payloads, positions, text


class TopicConformance:
    """The tests of the protocol `TopicAdmin`; `LogConformance` says what they are given."""

    def test_creating_a_topic_twice_is_harmless_unless_partitions_differ(self, log: OwnLog) -> None:
        """A topic does not become another one."""
        log.create("events", 3)
        log.append("events", 2, text("a"))
        log.create("events", 3)
        assert payloads(log, "events", 2) == [b"a"]
        assert log.topics() == {"events": 3}
        with pytest.raises(LogError, match="3 partitions"):
            log.create("events", 4)

    def test_a_topic_grows_and_keeps_what_it_has(self, log: OwnLog) -> None:
        """The partitions that come are empty, and begin at 0; nobody has committed in them."""
        log.create("events", 1)
        log.create("kept", 1)
        log.append("events", 0, text("a"))
        with log.transaction() as work:
            work.commit("c", "events", 0, None, 5)
        told, places = log.committed("c", "events"), positions(log, "events", 0)
        log.grow("events", 3)
        log.grow("events", 3)
        assert log.topics() == {"events": 3, "kept": 1}
        assert log.ends("events")[1:] == [(0, 0), (0, 0)]
        assert log.committed("c", "events") == [*told, None, None]
        log.append("events", 2, text("b", "c"))
        log.append("events", 0, text("d"))
        assert [payloads(log, "events", partition) for partition in range(3)] == [[b"a", b"d"], [], [b"b\nc"]]
        assert positions(log, "events", 0)[: len(places)] == places
        assert log.behind("events", 2, 0).records == 2
        with pytest.raises(LogError, match="no partition 3"):
            log.append("events", 3, text("e"))

    def test_a_topic_never_shrinks(self, log: OwnLog) -> None:
        """Whoever asks for fewer partitions than there are gets what there is, so two may ask at once."""
        log.create("events", 3)
        log.append("events", 2, text("a"))
        log.grow("events", 2)
        assert log.topics() == {"events": 3}
        assert payloads(log, "events", 2) == [b"a"]
        with pytest.raises(LogError, match="'evnts'"):
            log.grow("evnts", 4)

    def test_trimming_drops_whole_batches_and_keeps_positions(self, log: OwnLog) -> None:
        """What is trimmed cannot be read; what is kept has the places it had."""
        log.create("events", 2)
        for partition in (0, 1):
            for _ in range(4):
                log.append("events", partition, text("a", "b", "c"))
        places, end = positions(log, "events", 0), log.ends("events")[0][1]
        kept = log.trim("events", 0, places[8])
        assert kept <= places[8]
        assert places[5] < kept <= places[6]
        assert log.ends("events") == [(kept, end), log.ends("events")[1]]
        assert positions(log, "events", 0) == places[6:]
        with pytest.raises(LogError, match="trimmed"):
            log.read("events", 0, places[5], 1)
        assert log.trim("events", 0, places[2]) == kept
        assert len(positions(log, "events", 1)) == 12
        assert log.trim("events", 0, end) == log.ends("events")[0][0] > places[-1]
        assert positions(log, "events", 0) == []
        assert log.append("events", 0, text("d")) > places[-1]

    def test_a_dropped_topic_takes_its_positions_with_it(self, log: OwnLog) -> None:
        """A new topic of its name begins anew."""
        log.create("events", 1)
        log.create("kept", 1)
        log.append("kept", 0, text("k"))
        log.append("events", 0, text("a"))
        with log.transaction() as work:
            work.commit("c", "events", 0, None, 1)
        log.drop("events")
        log.drop("events")
        assert log.topics() == {"kept": 1}
        log.create("events", 2)
        assert log.committed("c", "events") == [None, None]
        assert payloads(log, "events", 0) == []
        assert payloads(log, "kept", 0) == [b"k"]

    def test_where_many_topics_end_is_where_each_does(self, log: OwnLog) -> None:
        """By one request or by several, whatever was trimmed; of a topic that is not there an error tells."""
        for count, topic in enumerate(("b", "a", "c"), 1):
            log.create(topic, count)
            for _ in range(count):
                log.append(topic, count - 1, text("x", "y"))
        log.trim("c", 2, positions(log, "c", 2)[2])
        assert ends_of(log, ["c", "a", "b", "a"]) == {topic: log.ends(topic) for topic in ("c", "a", "b")}
        assert ends_of(log, ["c"])["c"][2][0] > 0
        assert ends_of(log, []) == {}
        with pytest.raises(LogError, match="'nowhere'"):
            ends_of(log, ["a", "nowhere"])

    def test_neighbouring_topics_do_not_mix(self, log: OwnLog) -> None:
        """Neither topics whose names share a beginning, nor partitions."""
        for topic in ("a", "ab", "a.b"):
            log.create(topic, 12)
            for partition in range(12):
                log.append(topic, partition, Batch(f"{topic}/{partition}".encode(), "bytes", 1))
        for topic in ("a", "ab", "a.b"):
            for partition in range(12):
                assert payloads(log, topic, partition) == [f"{topic}/{partition}".encode()]
