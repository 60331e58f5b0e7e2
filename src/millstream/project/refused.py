"""Saying aloud that events are dead letters: how many of those just loaded, and the streams of which all are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from millstream.errors import TrainingError

if TYPE_CHECKING:
    from millstream.buffer.log import Batch
    from millstream.definitions.model import Model
    from millstream.definitions.source import EventStream
    from millstream.project.parts import Parts

_logger = logging.getLogger("millstream.project")
_ROWS = 1_000


class Appended(int):
    """How many events were appended; of those, `dead` will be dead letters.

    >>> appended = Appended(3, dead=1)
    >>> appended, appended.dead
    (3, 1)
    """

    dead: int

    def __new__(cls, count: int, *, dead: int = 0) -> Appended:
        found = super().__new__(cls, count)
        found.dead = dead
        return found


def looked_at(stream: EventStream, placed: Sequence[tuple[int, Batch]], now: int) -> Appended:
    """What was appended, with how many of it are dead letters, as computing will find; says so in the log of messages.

    Args:
        stream: the stream.
        placed: the batches, each with the partition that it was appended to.
        now: the clock's time (µs).
    """
    import numpy as np

    from millstream.buffer.codec.events import decode
    from millstream.buffer.log import Records

    count, dead, reason = 0, 0, ""
    for partition, batch in placed:
        record = Records.of(stream.name, partition, batch, np.arange(batch.count), now)
        letters = decode(stream, [record]).dead
        count, dead = count + batch.count, dead + len(letters)
        reason = reason or (letters[0].reason if letters else "")
    if dead:
        which = "all" if dead == count else f"{dead:,} of"
        _logger.warning("Stream '%s': %s %s events are dead letters; the first: %s", stream.name, which, count, reason)
    return Appended(count, dead=dead)


def barren(parts: Parts, streams: Iterable[EventStream]) -> list[str]:
    """A sentence for each stream that has events, every one of which is a dead letter."""
    return [said for stream in streams if (said := _barren(parts, stream))]


def warn(parts: Parts) -> None:
    """Log a warning for each stream that has events, every one of which is a dead letter."""
    for said in barren(parts, parts.registry.streams()):
        _logger.warning("%s", said)


def explained(parts: Parts, model: Model, error: TrainingError) -> TrainingError:
    """Why a model could not be trained, with what is wrong with the streams of its examples and its labels.

    Args:
        parts: the project.
        model: the model.
        error: what training said; it comes back as it is where nothing is wrong with the streams.
    """
    streams = {one.name: one for one in (model.examples, model.label.stream) if not isinstance(one, str)}
    said = " ".join(barren(parts, streams.values()))
    return TrainingError(f"{error.message} {said}", error.hint) if said else error


def _barren(parts: Parts, stream: EventStream) -> str | None:
    from millstream.buffer.lag import records_ever
    from millstream.buffer.topics import dead_topic

    topics = parts.log.topics()
    if stream.name not in topics or dead_topic(stream.name) not in topics:
        return None
    events, dead = (records_ever(parts.log, topic) for topic in (stream.name, dead_topic(stream.name)))
    if not events or dead < events:
        return None
    upto = {partition: following for partition, (_, following) in enumerate(parts.log.ends(stream.name))}
    if any(chunk.num_rows for chunk in parts.histories.events().chunks(stream, upto, rows=_ROWS)):
        return None  # it has more letters than events because several groups refuse one event
    [newest] = parts.histories.dead_letters(stream.name, 1)["reason"].to_pylist() or [""]
    return (
        f"Stream '{stream.name}': all of its {events:,} events are dead letters, and nothing is computed from it; the "
        f"newest: {newest} `millstream dead-letters {stream.name}` shows them."
    )
