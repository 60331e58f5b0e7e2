"""Dropping what nobody reads any more: builds that were replaced, and all that retired group versions have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millstream.errors import MillstreamError

if TYPE_CHECKING:
    from millstream.project.parts import Parts
    from millstream.registry.builds import Unused


def drop_unused(parts: Parts) -> int:
    """Drop the states, topics and synced values of what no default, model version or build needs; returns how many.

    What is found unused for the first time is only noted: a process that reads it looks at the registry once a second.
    It goes at the next call. The rows of a query in the offline store stay: they are history, which nothing else has,
    and by which what was served from them is verified.

    Args:
        parts: the project.

    Raises:
        MillstreamError: the first failure, after all others had their turn; what failed is tried again the next time.
    """
    dropped, failed = 0, list[MillstreamError]()
    for one in parts.registry.builds.unused():
        try:
            dropped += _drop(parts, one)
        except MillstreamError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return dropped


def _drop(parts: Parts, unused: Unused) -> bool:
    from millstream.buffer.topics import feature_table, feature_topic, staging_topic, version_marks

    if not unused.leaving:
        parts.registry.builds.let_go(unused)
        return False
    if unused.whole:
        for topic in (feature_topic(unused.gv), staging_topic(unused.gv)):
            if topic in parts.log.topics():
                parts.log.drop(topic)
        parts.offline.drop(feature_table(unused.gv))
        parts.registry.marks.drop(version_marks(unused.gv))
    for states in unused.states:
        parts.online.drop(states)
    parts.registry.builds.dropped(unused)
    return True
