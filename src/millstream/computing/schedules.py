"""How far the schedules of batch group versions are: their marks, and what their topics hold beyond them.

A run is appended first and its mark is moved after it. Whoever finds records beyond the place up to which the mark
counts them takes what they say: each names the interval that it covers. So a worker that dies between the two repeats
nothing, and a mark that is older than the log is none the worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from millstream.buffer.log import OwnLog
from millstream.buffer.marks import Marks
from millstream.buffer.parts import Assembly
from millstream.buffer.reading import through
from millstream.buffer.staging import decode_run
from millstream.buffer.topics import feature_topic, schedule_mark, staging_topic
from millstream.definitions.group_version import BatchGroupVersion
from millstream.definitions.source import EventStream
from millstream.errors import Fenced

_END = "end"  # the place of the mark whose number is an instant


@dataclass(frozen=True)
class Standing:
    """How far a schedule is.

    Attributes:
        end: the end of the last scheduled interval that ran (µs), None before the first.
        positions: of a fold of a stream, by "stream/partition", up to where it has been folded.
        counted: up to where records of the topic are counted in; None without a topic.
    """

    end: int | None = None
    positions: Mapping[str, int] = field(default_factory=dict)
    counted: int | None = None


class Schedules:
    """The schedules of batch group versions, as the marks and the log have them.

    Args:
        log: the project's log.
        marks: the project's marks.
    """

    def __init__(self, log: OwnLog, marks: Marks) -> None:
        self._log, self._marks = log, marks

    def standing(self, version: BatchGroupVersion) -> Standing:
        """How far the schedule of a version is now; what the log knows beyond the mark is marked too."""
        topic = topic_of(version)
        if topic not in self._log.topics():
            return Standing()
        first, following = self._log.ends(topic)[0]
        known = self._marks.read(schedule_mark(version.id))
        counted = known.get(f"{topic}/0")
        if counted is None or counted > following:  # never marked, or in a log that is not the one there is
            found, counted = dict[str, int](), first
        else:
            found = {place: number for place, number in known.items() if place != f"{topic}/0"}
        assembly = Assembly()  # a record of which parts are missing is none: its interval runs again
        payloads = (
            one for some in through(self._log, topic, 0, max(first, counted), following, 1) for one in some.payloads
        )
        for whole in filter(None, map(assembly.add, payloads)):
            moved = _moved(version, whole.record)
            if version.group.query is None:  # a fold goes on only; a record that comes late takes nothing back
                moved = {place: max(to, found.get(place, to)) for place, to in moved.items()}
            found.update(moved)
        standing = _standing(found, following)
        if known != _numbers(topic, standing):
            self._move(version, known, standing)
        return standing

    def move(self, version: BatchGroupVersion, known: Standing, end: int, positions: Mapping[str, int]) -> None:
        """Mark that an interval ran whose record has been appended; the record says so too if this comes too late.

        Args:
            version: the version.
            known: how far the schedule was before.
            end: the end of the interval (µs).
            positions: of a fold of a stream, by "stream/partition", up to where it has been folded now.
        """
        topic = topic_of(version)
        now = Standing(end, {**known.positions, **positions}, self._log.ends(topic)[0][1])
        self._move(version, _numbers(topic, known), now)

    def _move(self, version: BatchGroupVersion, known: Mapping[str, int], now: Standing) -> None:
        to = {**dict.fromkeys(known), **_numbers(topic_of(version), now)}
        with suppress(Fenced):  # another worker has counted the same record in
            self._marks.move(schedule_mark(version.id), known, to)


def topic_of(version: BatchGroupVersion) -> str:
    """The topic to which the runs of a batch group version go."""
    return feature_topic(version.id) if version.group.query is None else staging_topic(version.id)


def _moved(version: BatchGroupVersion, record: bytes) -> dict[str, int]:
    """Where a record moves the schedule, and the positions of a fold; a run of a past interval moves nothing."""
    if version.group.query is not None:
        run = decode_run(record)
        return {_END: run.end} if run.scheduled else {}
    from millstream.fold import decode_deltas

    ends = {place: to for place, (_, to) in decode_deltas(record).ranges.items()}
    return ends if isinstance(version.group.sources[0], EventStream) else {_END: max(ends.values())}


def _standing(found: Mapping[str, int], counted: int) -> Standing:
    return Standing(found.get(_END), {place: at for place, at in found.items() if place != _END}, counted)


def _numbers(topic: str, standing: Standing) -> dict[str, int]:
    """A standing as the numbers of its mark."""
    end = {} if standing.end is None else {_END: standing.end}
    counted = {} if standing.counted is None else {f"{topic}/0": standing.counted}
    return {**end, **standing.positions, **counted}
