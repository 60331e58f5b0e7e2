"""Reading a log on Kafka as its protocol says: from any position, by several readers, who may be at different ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import islice

from millstream.buffer.kafka.connection import Connection
from millstream.buffer.kafka.cursors import Cursor, Cursors, Place
from millstream.buffer.kafka.messages import Entry

CLIENTS = 4
"""Clients of one process: so many readers may be at different places of a partition before one disturbs another."""
WAIT = 0.25
"""Seconds that a read waits where there should be something."""
AT_THE_END = 0.005
"""Seconds that a read waits at the end of a partition, so that readers who ask again do not spin."""


class Reader:
    """Reads any partitions of a cluster from any offsets; any number of threads share it.

    Args:
        connection: the cluster.
        group: a group's name, which Kafka wants of every reader.
    """

    def __init__(self, connection: Connection, group: str) -> None:
        self._connection, self._group = connection, group
        self._clients: list[Cursors] = []
        self._seen: dict[Place, tuple[int, int]] = {}
        self._lock = threading.RLock()

    def read(self, place: Place, offset: int, limit: int) -> tuple[Sequence[Entry], int] | None:
        """Return some messages from an offset on, and the offset to go on from.

        Args:
            place: the topic, as Kafka calls it, and the partition.
            offset: where to begin.
            limit: about how many records to return.

        Returns:
            tuple[Sequence[Entry], int] | None: messages, or none yet; None where that offset is not there.
        """
        with self._lock:
            client, cursor = self._at(place, offset)
            cursor.pass_to(offset)
            if not cursor.held or self._count(cursor, limit) < limit:
                client.fetch(place, 0.0 if cursor.held else AT_THE_END if cursor.ended else WAIT)
                cursor = client.cursor(place) or cursor
            if cursor.lost and not cursor.held:
                client.forget(place)
                return None
            taken = list(islice(cursor.held, self._count_to(cursor, limit)))
            return taken, taken[-1].offset + 1 if taken else max(offset, cursor.next)

    def appended(self, place: Place, offset: int, end: int) -> int | None:
        """When the first message from an offset on was appended, in microseconds; None where it is not there any more.

        Args:
            place: the topic, as Kafka calls it, and the partition.
            offset: where to look from.
            end: where the partition ends, beyond that.

        Raises:
            LogError: when it does not come in time.
        """
        until = time.monotonic() + self._connection.seconds
        while time.monotonic() < until:
            found = self.read(place, offset, 1)
            if found is None or (found[1] >= end and not found[0]):
                return None
            if found[0]:
                return found[0][0].appended
            offset = found[1]
        raise self._connection.failure(f"Topic '{place[0]}', partition {place[1]}: offset {offset}", TimeoutError())

    def records_in(self, place: Place) -> float:
        """How many records a message of a partition has, on average of those that were read here; 1 where none was."""
        messages, records = self._seen.get(place, (0, 0))
        return records / messages if messages else 1.0

    def close(self) -> None:
        """Let go of all clients."""
        with self._lock:
            while self._clients:
                self._clients.pop().close()

    def _at(self, place: Place, offset: int) -> tuple[Cursors, Cursor]:
        """The cursor that can go on at an offset; else a new one, in the place of that which was read longest ago."""
        self._connection.check()
        found = [(client, client.cursor(place)) for client in self._clients]
        for client, cursor in found:
            if cursor is not None and cursor.covers(offset):
                return client, cursor
        free = [client for client, cursor in found if cursor is None]
        if free:
            chosen = free[0]
        elif len(found) < CLIENTS:
            chosen = Cursors(self._connection, self._group, self._note)
            self._clients.append(chosen)
        else:
            chosen = min(found, key=lambda one: one[1].read if one[1] is not None else 0.0)[0]
        return chosen, chosen.begin(place, offset)

    @staticmethod
    def _count(cursor: Cursor, limit: int) -> int:
        """How many records are held, as far as it matters."""
        records = 0
        for entry in cursor.held:
            records += entry.count
            if records >= limit:
                break
        return records

    @staticmethod
    def _count_to(cursor: Cursor, limit: int) -> int:
        """How many messages hold so many records."""
        records = 0
        for number, entry in enumerate(cursor.held, 1):
            records += entry.count
            if records >= limit:
                return number
        return len(cursor.held)

    def _note(self, place: Place, entry: Entry) -> None:
        messages, records = self._seen.get(place, (0, 0))
        self._seen[place] = (messages + 1, records + entry.count)
