"""A project's connection to a cluster: what each client is told, how long it is waited for, and what its errors mean."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from millstream.errors import Forked, LogError
from millstream.forks import forks, leave_alone

T = TypeVar("T")
PAUSE = 0.05
"""Seconds between two attempts of what may succeed soon."""
SURE = 30.0
"""Seconds without news after which a client is asked whether there is none: some have stayed deaf after a server's death."""
_SILENT = logging.getLogger("millstream.kafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_SOON = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._DESTROY,  # another thread has given the client up
        KafkaError._NOENT,  # no leader is known yet
        KafkaError._TIMED_OUT,
        KafkaError._WAIT_COORD,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""What a server says for a moment when it has started, or a topic has been made or moved."""
UNKNOWN = frozenset({KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC})
"""What a client says of a partition that has come since it looked."""
_REFUSED = frozenset(
    {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL, KafkaError.ILLEGAL_SASL_STATE}
)
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)


class Connection:
    """What the clients of one log in one process have in common.

    Args:
        servers: where the cluster is, "host:port" with commas between them.
        options: what every client is told beside that: how to encrypt, and who asks.
        seconds: how long an answer is waited for.
        section: the section of the settings that says so, for errors.
    """

    def __init__(self, servers: str, options: Mapping[str, Any], seconds: float, section: str = "log") -> None:
        self.servers, self.seconds, self._section = servers, seconds, section
        self._options, self._forks = dict(options), forks()
        self._heard: tuple[float, KafkaError] | None = None
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None

    def client(self, kind: Callable[[dict[str, Any]], T], **settings: Any) -> T:
        """Make a client.

        Args:
            kind: its class.
            **settings: what only this one is told; what Kafka spells with dots has underscores.

        Raises:
            LogError: when it cannot be made so.
            Forked: in a child of the process that opened the log.
        """
        self.check()
        told = {name.replace("_", "."): value for name, value in settings.items()}
        common = {
            "bootstrap.servers": self.servers,
            "client.id": "millstream",
            # The other strategy has let clients hang for ever after a lost answer.
            "metadata.recovery.strategy": "none",
            "socket.timeout.ms": int(self.seconds * 1_000),
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 1_000,
            "allow.auto.create.topics": False,
            "error_cb": self._hear,
            "logger": _SILENT,
        }
        try:
            return kind({**common, **self._options, **told})
        except (KafkaException, TypeError, ValueError) as error:
            raise LogError(
                f"Kafka at '{self.servers}': its client cannot be made: {_text(error)}.",
                f"look at [{self._section}] in millstream.toml.",
            ) from None

    @property
    def admin(self) -> AdminClient:
        """The client that asks about topics and groups."""
        self.check()
        with self._lock:
            if self._admin is None:
                self._admin = self.client(AdminClient)
            return self._admin

    def give_up(self) -> None:
        """Ask the next time by a new client: one that a server has not answered may wait for it for ever."""
        with self._lock:
            old, self._admin = self._admin, None
        if old is not None:
            threading.Thread(target=_let_go, args=(old,), name="kafka-call", daemon=True).start()

    def check(self) -> None:
        """Refuse a log that a parent process opened.

        Raises:
            Forked: when it did.
        """
        if self._forks != forks():
            if self._admin is not None:
                leave_alone(self._admin)
            raise Forked.opened_before(f"kafka://{self.servers}")

    def ask(self, what: str, request: Callable[[], Iterable[Future[T]]]) -> list[T]:
        """Return what all parts of a request gave; asked again while that may help, and as long as is waited.

        Args:
            what: what is asked, for an error to say.
            request: begins it.

        Raises:
            LogError: when it is refused, or not answered in time.
        """
        end = time.monotonic() + self.seconds
        while True:
            try:
                return [part.result(max(PAUSE, end - time.monotonic())) for part in request()]
            except (KafkaException, NotInTime) as error:
                if time.monotonic() >= end or not may_pass(error):
                    failure = self.failure(what, error)
                    self.give_up()
                    raise failure from None
            threading.Event().wait(PAUSE)

    def within(self, what: str, call: Callable[[], T]) -> T:
        """Return what a call of the client's gives that has no deadline one could trust.

        Args:
            what: what is asked, for an error to say.
            call: the call; it goes on in a thread of its own where it is not over in time.

        Raises:
            LogError: when it fails, or is not over in time.
        """
        done: Future[T] = Future()

        def carry_out() -> None:
            try:
                done.set_result(call())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=carry_out, name="kafka-call", daemon=True).start()
        try:
            return done.result(self.seconds + 1)
        except (KafkaException, NotInTime, RuntimeError) as error:
            failure = self.failure(what, error)
            self.give_up()
            raise failure from None

    def failure(self, what: str, error: BaseException | KafkaError) -> LogError:
        """What went wrong, as an error of ours.

        Args:
            what: what was asked.
            error: what the client said.
        """
        admin = self._admin
        if admin is not None:
            admin.poll(0)  # it says only then what it has met
        found = kafka_error(error)
        heard = self._heard_lately()
        if found is not None and found.code() in _FORBIDDEN:
            return LogError(
                f"{what}: Kafka at '{self.servers}' does not allow it: {_text(found)}.",
                "give this user the right to it (ACLs), or use another.",
            )
        for one in (found, heard):
            if one is not None and one.code() in _REFUSED:
                return LogError(
                    f"{what}: Kafka at '{self.servers}' does not let us in: {_text(one)}.",
                    f"check 'security', 'user' and the password below [{self._section}] in millstream.toml, and certificates.",
                )
        if found is not None and not may_pass(error):
            return LogError(f"{what}: Kafka at '{self.servers}' said: {_text(found)}.", "look at its server's log.")
        said = heard or found
        why = "" if said is None else f" ({_text(said)})"
        return LogError(
            f"{what}: Kafka at '{self.servers}' has not answered within {self.seconds:g} s{why}.",
            "check that it runs and can be reached from here; what was asked is tried again when this is.",
        )

    def _hear(self, error: KafkaError) -> None:
        """Keep what a client says of its connections: those who wait learn of nothing but that they wait."""
        kept = self._heard_lately()
        if kept is None or kept.code() not in _REFUSED:
            self._heard = (time.monotonic(), error)

    def _heard_lately(self) -> KafkaError | None:
        heard = self._heard
        return heard[1] if heard is not None and time.monotonic() - heard[0] < 2 * self.seconds else None


def kafka_error(error: BaseException | KafkaError) -> KafkaError | None:
    """Return what Kafka's client says in an error; None where it says nothing."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    return error if isinstance(error, KafkaError) else None


def may_pass(error: BaseException | KafkaError) -> bool:
    """Whether the same may succeed soon."""
    found = kafka_error(error)
    return isinstance(error, NotInTime) if found is None else found.code() in _SOON or found.retriable()


def _let_go(client: AdminClient) -> None:
    """Hold a client until this is over, so that whoever gives it up does not wait for its end."""


def _text(error: BaseException | KafkaError) -> str:
    found = kafka_error(error)
    return (found.str() if found is not None else str(error)).rstrip(".")
