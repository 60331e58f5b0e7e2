"""One subscription of one shard: a thread that takes what the service pushes, until it is full or over."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, EventStreamError
from urllib3.exceptions import HTTPError

from millstream.errors import SourceError, first_line
from millstream.sources.kinesis.service import Answer, Record, Service

ROOM = 4 * 2**20
"""Bytes of records that are held before no more are taken: about two seconds of what the service pushes of a shard."""
_OVERHEAD = 200  # bytes, about, that a record takes beside its data


class From(NamedTuple):
    """Where a subscription begins.

    Attributes:
        after: the sequence number after which its reader wants records; None for the shard's beginning.
        asked: one that lies behind no record that the reader lacks, which the service is told.
    """

    after: int | None
    asked: int | None


class Subscription:
    """What one call of SubscribeToShard pushes, held until its reader has gone on beyond it.

    So a place that was just read may be read again without another call, of which the service takes one in 5 seconds.

    Args:
        pushed: the stream, by a client of its own whose answers may last.
        arn: whose subscription it is: the consumer's ARN.
        shard: the shard's own id.
        begin: where it begins.
    """

    def __init__(self, pushed: Service, arn: str, shard: str, begin: From) -> None:
        self._pushed, self._arn, self._shard, self.begin = pushed, arn, shard, begin
        self._floor, self.following = begin.after, begin.asked
        self._held: deque[Record] = deque()
        self._bytes = 0
        self._behind: int | None = None
        self._changed = threading.Condition()
        self._stopped = self._ended = False
        self._raw: Any = None
        self.heard = self.answered = self.closed = self.unsure = False
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"kinesis-{shard}", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it but what is held."""
        return self._ended

    def begun(self, seconds: float) -> bool:
        """Return whether an event has come, or it is over; waits for that a moment."""
        with self._changed:
            return self._changed.wait_for(lambda: self.heard or self._ended, seconds)

    def goes_on(self, after: int | None) -> bool:
        """Let go of what lies before a place; returns whether all that comes after it is held, or will be."""
        with self._changed:
            if after == self._floor:
                return True
            beyond = after is not None and (self._floor is None or after > self._floor)
            if after is None or not beyond or not self._held or after > self._held[-1].sequence:
                return False
            while self._held and self._held[0].sequence <= after:
                self._bytes -= _size(self._held.popleft())
            self._floor = after
            self._changed.notify_all()
            return True

    def answer(self, limit: int) -> Answer:
        """Return the oldest records that are held, at most `limit`; they stay until the reader goes on."""
        with self._changed:
            records = list(islice(self._held, limit))
            if len(records) < len(self._held):
                return Answer(records, str(self.following), max(1, self._behind or 0))
            return Answer(records, None if self.closed else str(self.following), self._behind)

    def stop(self) -> None:
        """Let it end, soon; what comes of it still is dropped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            if self._raw is not None:
                with suppress(OSError, ValueError, RuntimeError, AttributeError):
                    self._raw.shutdown()  # wakes a thread that waits for the next event; closing would wait for it

    def join(self, seconds: float) -> None:
        """Wait until its thread has ended."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._take()
        except EventStreamError as error:
            self.failure = self._pushed.failure(error)
        except (HTTPError, BotoCoreError, OSError):
            pass  # the connection has ended, as it does after 5 minutes at the latest; another one says why it cannot be
        except Exception as error:
            self.failure = error
        with self._changed:
            self._behind, self._ended = 0 if self.closed else None, True
            self._changed.notify_all()

    def _take(self) -> None:
        given = {"ConsumerARN": self._arn, "ShardId": self._shard, "StartingPosition": _starting(self.begin.asked)}
        stream = self._pushed.ask("subscribe_to_shard", **given)["EventStream"]
        try:
            with self._changed:
                self._raw = stream._raw_stream  # botocore has no other way to wake who reads it
            for event in stream if not self._stopped else ():
                if not self._took(event.get("SubscribeToShardEvent")):
                    return
        finally:
            with self._changed:
                self._raw = None
            stream.close()

    def _took(self, event: Any) -> bool:
        """Hold what an event has, as soon as there is room; returns whether another may follow."""
        if event is None:
            return not self._stopped
        records = [Record.of(one) for one in event["Records"]]
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._bytes < ROOM)
            if self._stopped:
                return False
            self._held.extend(records)
            self._bytes += sum(map(_size, records))
            self._behind, self.heard = int(event.get("MillisBehindLatest") or 0), True
            following = event.get("ContinuationSequenceNumber")
            self.closed = bool(event.get("ChildShards"))
            self.unsure = not following and not self.closed
            if following:
                self.following = int(following)
            elif records:
                self.following = records[-1].sequence
            self._changed.notify_all()
            return not self.closed and not self.unsure


def unforeseen(named: str, error: Exception) -> SourceError:
    """What a subscription ended by that nobody has foreseen."""
    return SourceError(f"{named}: a subscription has failed: {type(error).__name__}: {first_line(error)}.")


def _starting(after: int | None) -> dict[str, str]:
    if after is None:
        return {"Type": "TRIM_HORIZON"}
    return {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": str(after)}


def _size(record: Record) -> int:
    return len(record.data) + _OVERHEAD
