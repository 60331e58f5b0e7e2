"""What the service says of one stream of Kinesis: its shards, iterators, and records; each failure is one sentence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
_NOT_THERE, _IN_USE = "ResourceNotFoundException", "ResourceInUseException"
_RIGHTS = (
    "check the credentials, and that they allow kinesis:DescribeStreamSummary, ListShards, GetShardIterator and "
    "GetRecords; with a `consumer` also DescribeStreamConsumer, RegisterStreamConsumer and SubscribeToShard."
)
_HOUR = 3_600_000_000


class GoneShard(Exception):
    """A shard, or the stream it was of, is there no more."""


class StaleIterator(Exception):
    """An iterator has expired, or is none any more; another one is made of the same place."""


class UnknownPlace(Exception):
    """The shard has no such sequence number."""


class Invalid(Exception):
    """What was asked with is not valid, or not any more."""


class Described(NamedTuple):
    """A stream: when it was made, which tells it from another of its name, how long (µs) it keeps records, and its ARN."""

    made: int
    kept: int
    arn: str


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

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Record:
        """Take a record as the service gives it."""
        stamp = _micros(given["ApproximateArrivalTimestamp"])
        return cls(int(given["SequenceNumber"]), stamp, given["PartitionKey"], given["Data"])

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
    """What comes next in a shard.

    Attributes:
        records: records, in their order.
        following: what to go on with; None at the shard's end.
        behind: how far (ms) behind the shard's end that is; None where nobody has said.
    """

    records: list[Record]
    following: str | None
    behind: int | None


class Feed(Protocol):
    """A way to read shards on, each from where it was read to."""

    pausing: bool
    """Whether the service lets a shard be asked only so often."""

    def records(self, shard: str, after: int | None, limit: int) -> Answer:
        """Return records of a shard after a sequence number, or from its beginning, at most `limit`; maybe none yet.

        Raises:
            GoneShard: when the shard is not there.
            UnknownPlace: when the shard has no such sequence number.
            StaleIterator: when it is to be asked anew.
            SourceBusy: when the service is throttled.
            SourceError: when nobody answers.
        """
        ...

    def holds(self, shard: str, after: int | None) -> bool:
        """Return whether what comes after a place is here already, or on its way: then it cannot have expired."""
        ...

    def forget(self, shard: str) -> None:
        """Let go of what is open for a shard, which will hardly be read again."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


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
                found = self.ask("describe_stream_summary", StreamName=self.name)["StreamDescriptionSummary"]
            except GoneShard:
                raise self._unknown() from None
            made, hours = _micros(found["StreamCreationTimestamp"]), int(found["RetentionPeriodHours"])
            self._described = now, Described(made, hours * _HOUR, found["StreamARN"])
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
                page = self.ask("list_shards", **given)
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
            return str(self.ask("get_shard_iterator", StreamName=self.name, ShardId=shard, **kind)["ShardIterator"])
        except Invalid as error:
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
            given = self.ask("get_records", ShardIterator=iterator, Limit=limit)
        except Invalid as error:
            raise StaleIterator(iterator) from error
        records = [Record.of(one) for one in given["Records"]]
        return Answer(records, given.get("NextShardIterator"), int(given.get("MillisBehindLatest") or 0))

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def ask(self, what: str, **given: Any) -> Any:
        """Return what a call of the client's gives.

        Args:
            what: the name of the client's method.
            given: what it is given.

        Raises:
            GoneShard: when what it is about is not there.
            Invalid: when what is given is not valid, or not any more.
            SourceBusy: when it is throttled.
            SourceError: when nobody answers.
        """
        try:
            return getattr(self._client, what)(**given)
        except ClientError as error:
            raise self.failure(error) from None
        except (NoCredentialsError, PartialCredentialsError):
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `profile` in its section of millstream.toml."
            raise SourceError(f"{self.named}: no credentials were found.", hint) from None
        except BotoCoreError as error:
            hint = "check `region` and `endpoint`, and that this machine reaches it."
            raise SourceError(f"{self.named} cannot be reached: {first_line(error)}", hint) from None

    def failure(self, error: ClientError) -> Exception:
        """What an error of the service comes to here."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _THROTTLED:
            return SourceBusy(f"{self.named} is throttled: {code}.")
        if code == _IN_USE:
            return SourceBusy(f"{self.named} is in use by another reader, or is being changed: {code}.")
        if code == _NOT_THERE:
            return GoneShard(code)
        if code in ("ExpiredIteratorException", "InvalidArgumentException"):
            return Invalid(code)
        if code in _REFUSED:
            return SourceError(f"{self.named} is refused: {code}.", _RIGHTS)
        return SourceError(f"{self.named} cannot be read: {first_line(error)}")

    def _unknown(self) -> MillstreamError:
        self.forget()
        try:
            close = nearest(self.name, self.ask("list_streams")["StreamNames"])
        except (MillstreamError, GoneShard, Invalid):
            close = None
        return SourceError(
            f"{self.named} is not there.",
            f"did you mean '{close}'?" if close else "check its name, its region and its account.",
        )

    @property
    def named(self) -> str:
        """The stream, as errors call it."""
        return f"Kinesis stream '{self.name}' in {self._place}"


def _micros(instant: Any) -> int:
    """An instant of the service, which has milliseconds, in microseconds."""
    milliseconds: int = round(instant.timestamp() * 1_000)
    return milliseconds * 1_000


def own_id(shard: str) -> str:
    """The id that the service has for a shard, whose name says also of which stream it is."""
    return shard.rpartition("@")[0]
