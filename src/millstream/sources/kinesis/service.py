"""What the service says of one stream of Kinesis: its shards, iterators, and records; each failure is one sentence."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from millstream.errors import MillstreamError, SourceBusy, SourceError, first_line, nearest

KNOWN = 10.0
"""Seconds for which it is known which stream has the name, and how long it keeps records."""
_THROTTLED = frozenset(
    {
        "ProvisionedThroughputExceededException", "LimitExceededException", "ThrottlingException", "Throttling",
        "KMSThrottlingException", "RequestLimitExceeded",
    }
)  # fmt: skip
_REFUSED = frozenset(
    {
        "AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch",
        "InvalidClientTokenId", "ExpiredTokenException", "ExpiredToken", "IncompleteSignature", "AccessDenied",
        "MissingAuthenticationToken", "KMSAccessDeniedException",
    }
)  # fmt: skip
_NOT_THERE = "ResourceNotFoundException"
_HOUR = 3_600_000_000


class GoneShard(Exception):
    """A shard, or the stream it was of, is there no more."""


class StaleIterator(Exception):
    """An iterator has expired, or is none any more; another one is made of the same place."""


class UnknownPlace(Exception):
    """The shard has no such sequence number."""


class _Invalid(Exception):
    """What was asked with is not valid, or not any more."""


class Described(NamedTuple):
    """A stream: when it was made, which tells it from another of its name, and for how long (µs) it keeps records."""

    made: int
    kept: int


@dataclass(slots=True)
class Record:
    """One record, as `formats.Message`; see `Events` for stamps.

    Attributes:
        sequence: its sequence number, which grows within a shard.
        stamp: when the service took it, in microseconds.
        partition_key: the key by which its producer chose a shard.
        data: its bytes.
    """

    sequence: int
    stamp: int
    partition_key: str
    data: bytes

    def value(self) -> bytes:
        """Return its bytes."""
        return self.data

    def key(self) -> bytes:
        """Return its partition key."""
        return self.partition_key.encode()

    def headers(self) -> None:
        """Return nothing: Kinesis has no headers."""
        return


class Answer(NamedTuple):
    """What an iterator gives: records, the iterator to go on with (None at a shard's end), and how far behind it is (ms)."""

    records: list[Record]
    following: str | None
    behind: int


class Service:
    """Asks about one stream of Kinesis.

    Args:
        client: a client of boto3.
        name: the name of the stream in Kinesis.
        place: where it is, for messages.
    """

    def __init__(self, client: Any, name: str, place: str) -> None:
        self._client, self.name, self._place = client, name, place
        self._described: tuple[float, Described] | None = None

    def described(self) -> Described:
        """Return which stream it is, as it was some seconds ago at most.

        Raises:
            SourceError: when it is not there, or nobody answers.
        """
        now = time.monotonic()
        if self._described is None or now - self._described[0] > KNOWN:
            try:
                found = self._asked("describe_stream_summary", StreamName=self.name)["StreamDescriptionSummary"]
            except GoneShard:
                raise self._unknown() from None
            made, hours = _micros(found["StreamCreationTimestamp"]), int(found["RetentionPeriodHours"])
            self._described = now, Described(made, hours * _HOUR)
        return self._described[1]

    def forget(self) -> None:
        """Ask anew, the next time, which stream has the name."""
        self._described = None

    def shards(self) -> list[dict[str, Any]]:
        """Return all shards that are kept, closed ones too, as the service lists them.

        Raises:
            SourceBusy: when it is throttled.
            SourceError: when nobody answers.
        """
        found: list[dict[str, Any]] = []
        given: dict[str, str] = {"StreamName": self.name}
        while True:
            try:
                page = self._asked("list_shards", **given)
            except GoneShard:
                raise self._unknown() from None
            found += page["Shards"]
            if not page.get("NextToken"):
                return found
            given = {"NextToken": page["NextToken"]}

    def iterator(self, shard: str, after: int | None) -> str:
        """Return an iterator over a shard's records after a sequence number; over all that are kept without one.

        Raises:
            GoneShard: when the shard is not there.
            UnknownPlace: when the shard has no such sequence number.
            SourceError: when nobody answers.
        """
        kind = {"ShardIteratorType": "TRIM_HORIZON"}
        if after is not None:
            kind = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": str(after)}
        try:
            return str(self._asked("get_shard_iterator", StreamName=self.name, ShardId=shard, **kind)["ShardIterator"])
        except _Invalid as error:
            raise UnknownPlace(str(after)) from error

    def records(self, iterator: str, limit: int) -> Answer:
        """Return what an iterator gives, at most `limit` records; it may give none though there are more.

        Raises:
            GoneShard: when the shard is not there.
            StaleIterator: when the iterator has expired.
            SourceBusy: when the shard is read too often.
            SourceError: when nobody answers.
        """
        try:
            given = self._asked("get_records", ShardIterator=iterator, Limit=limit)
        except _Invalid as error:
            raise StaleIterator(iterator) from error
        records = [
            Record(
                int(one["SequenceNumber"]),
                _micros(one["ApproximateArrivalTimestamp"]),
                one["PartitionKey"],
                one["Data"],
            )
            for one in given["Records"]
        ]
        return Answer(records, given.get("NextShardIterator"), int(given.get("MillisBehindLatest") or 0))

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _asked(self, what: str, **given: Any) -> Any:
        try:
            return getattr(self._client, what)(**given)
        except ClientError as error:
            raise self._failure(str(error.response.get("Error", {}).get("Code", "")), error) from None
        except (NoCredentialsError, PartialCredentialsError):
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `profile` in its section of millstream.toml."
            raise SourceError(f"{self._named}: no credentials were found.", hint) from None
        except BotoCoreError as error:
            hint = "check `region` and `endpoint`, and that this machine reaches it."
            raise SourceError(f"{self._named} cannot be reached: {first_line(error)}", hint) from None

    def _failure(self, code: str, error: ClientError) -> Exception:
        if code in _THROTTLED:
            return SourceBusy(f"{self._named} is throttled: {code}.")
        if code == _NOT_THERE:
            return GoneShard(code)
        if code in ("ExpiredIteratorException", "InvalidArgumentException"):
            return _Invalid(code)
        if code in _REFUSED:
            hint = (
                "check the credentials, and that they allow kinesis:DescribeStreamSummary, ListShards and GetRecords."
            )
            return SourceError(f"{self._named} is refused: {code}.", hint)
        return SourceError(f"{self._named} cannot be read: {first_line(error)}")

    def _unknown(self) -> MillstreamError:
        self.forget()
        try:
            close = nearest(self.name, self._asked("list_streams")["StreamNames"])
        except (MillstreamError, GoneShard, _Invalid):
            close = None
        return SourceError(
            f"{self._named} is not there.",
            f"did you mean '{close}'?" if close else "check its name, its region and its account.",
        )

    @property
    def _named(self) -> str:
        return f"Kinesis stream '{self.name}' in {self._place}"


def _micros(instant: Any) -> int:
    """An instant of the service, which has milliseconds, in microseconds."""
    milliseconds: int = round(instant.timestamp() * 1_000)
    return milliseconds * 1_000
