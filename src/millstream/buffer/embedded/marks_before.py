"""The marks of a project made before there were marks: they were the positions of consumers of its embedded log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from millstream.buffer.topics import (
    attempts_mark,
    feature_topic,
    goal_mark,
    letters_mark,
    schedule_mark,
    staging_topic,
    start_mark,
)

if TYPE_CHECKING:
    from millstream.buffer.log import OwnLog


def marks_before(log: OwnLog, versions: Mapping[str, Iterable[str]]) -> dict[str, dict[str, int]]:
    """By name, the marks that a log has as positions of consumers, each by place; none where there are none.

    Args:
        log: the project's log.
        versions: by the id of each group version, the names of its sources.
    """
    found: dict[str, dict[str, int]] = {}
    for gv, sources in versions.items():
        found |= _of_version(log, gv, list(sources))
    return {mark: numbers for mark, numbers in found.items() if numbers}


def _of_version(log: OwnLog, gv: str, streams: list[str]) -> dict[str, dict[str, int]]:
    topics = log.topics()
    known = [stream for stream in streams if stream in topics]
    found = {mark: _places(log, mark, known) for mark in (start_mark(gv), goal_mark(gv), schedule_mark(gv))}
    wanted = _places(log, letters_mark(gv), known)
    found[letters_mark(gv)] = {place: following - 1 for place, following in wanted.items()}  # they were dense
    for topic in (name for name in (feature_topic(gv), staging_topic(gv)) if name in topics):
        for number in _places(log, attempts_mark(gv), [topic]).values():
            found[attempts_mark(gv)] = {"attempts": number}
        for end in _places(log, schedule_mark(gv), [topic]).values():
            found[schedule_mark(gv)] |= {"end": end, f"{topic}/0": log.ends(topic)[0][0]}
    return found


def _places(log: OwnLog, consumer: str, topics: list[str]) -> dict[str, int]:
    """What a consumer has committed in some topics, by place."""
    return {
        f"{topic}/{partition}": position
        for topic in topics
        for partition, position in enumerate(log.committed(consumer, topic))
        if position is not None
    }
