"""A server of Redis, as a primary or a replica, and the connections to it."""

from __future__ import annotations

from hiredis import ReplyError

from millstream.store.connections import Connections
from millstream.store.redis.access import Access, Address
from millstream.store.redis.connection import Connection
from millstream.store.redis.errors import refusal, refuse_unfit


class Node(Connections[Connection]):
    """A server; safe for any number of threads.

    Args:
        address: the server.
        access: what lets us in.
        copy: whether it is read from as a replica.
    """

    def __init__(self, address: Address, access: Access, copy: bool = False) -> None:
        super().__init__()
        self.address, self._access, self.copy = address, access, copy

    @property
    def where(self) -> str:
        """The server as messages name it."""
        host, port = self.address
        return f"redis://{host}:{port}" if port else f"unix://{host}"

    def opened(self, end: float) -> Connection:
        """Return a new connection, let in."""
        try:
            connection = Connection(self.address, self._access, end)
            if self.copy:
                connection.exchange([(b"READONLY",)], end)
        except ReplyError as error:
            raise refusal(self.where, error) from error
        try:
            refuse_unfit(self.where, connection.facts)
        except BaseException:
            connection.close()
            raise
        return connection
