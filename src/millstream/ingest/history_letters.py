"""The dead letters of history: written once, however often a backfill is begun again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from millstream.buffer.codec.events import DeadLetter, dead_batches, dead_letters
from millstream.buffer.log import OwnLog
from millstream.buffer.marks import Marks
from millstream.buffer.reading import still_kept
from millstream.buffer.topics import dead_topic, letters_mark
from millstream.buffer.writing import widen
from millstream.definitions.source import EventStream


class HistoryLetters:
    """Writes the dead letters of what came before a group version began; computing writes those of what came later.

    Letters are appended first and marked after it: by partition, the position of the last event that has one, and up
    to where the letters of the stream are counted in. What an attempt that died has not marked is found beyond that.

    Args:
        log: the project's log.
        marks: the project's marks.
        version: the group version.
        streams: the streams whose history is folded.
        markers: where computing of the version began, by "stream/partition".

    Raises:
        CorruptLog: when letters that are there cannot be read.
    """

    def __init__(
        self, log: OwnLog, marks: Marks, version: str, streams: Iterable[EventStream], markers: Mapping[str, int]
    ) -> None:
        self._log, self._marks, self._version, self._markers = log, marks, version, markers
        self._known = marks.read(letters_mark(version))
        self._last = dict(self._known)
        for stream in streams:
            widen(log, dead_topic(stream.name), len(log.ends(stream.name)))
            self._find(stream.name)

    def write(self, stream: str, letters: Sequence[DeadLetter]) -> None:
        """Write letters of a stream, except those that are written.

        Raises:
            Fenced: when another attempt has written some meanwhile.
        """
        fresh: dict[int, list[DeadLetter]] = {}
        for letter in letters:
            place = f"{stream}/{letter.partition}"
            last = self._last.get(place)
            if self._before_start(place, letter) and (last is None or letter.position > last):
                fresh.setdefault(letter.partition, []).append(letter)
        if not fresh:
            return
        topic, numbers = dead_topic(stream), dict[str, int]()
        with self._log.transaction() as work:
            for partition, some in fresh.items():
                for batch in dead_batches(some, self._log.largest):
                    work.append(topic, partition, batch)
                numbers[f"{stream}/{partition}"] = max(letter.position for letter in some)
        ends = self._log.ends(topic)
        numbers |= {f"{topic}/{partition}": ends[partition][1] for partition in fresh}
        self._marks.move(letters_mark(self._version), self._known, numbers)
        self._known |= numbers
        self._last |= numbers

    def _find(self, stream: str) -> None:
        """Look for letters of this version that an attempt wrote and has not marked."""
        topic = dead_topic(stream)
        for partition, (first, following) in enumerate(self._log.ends(topic)):
            place, counted = f"{stream}/{partition}", self._known.get(f"{topic}/{partition}", first)
            begin = max(first, counted) if counted <= following else first
            for records in still_kept(self._log, topic, partition, begin, following):
                found = [one.position for one in dead_letters([records]) if self._ours(place, one)]
                if found:
                    self._last[place] = max(*found, self._last.get(place, found[0]))

    def _ours(self, place: str, letter: DeadLetter) -> bool:
        return letter.reason.startswith(f"{self._version}: ") and self._before_start(place, letter)

    def _before_start(self, place: str, letter: DeadLetter) -> bool:
        """Whether an event is not computing's; a partition that its stream has got since the start is, all of it."""
        return letter.position < self._markers.get(place, 0)
