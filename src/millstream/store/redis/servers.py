"""Which server has which shard: one server, the one that sentinels name, or the nodes of a cluster; and asking them."""

from __future__ import annotations

import threading
import time
from binascii import crc_hqx
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hiredis import ReplyError

from millstream.errors import Forked, MillstreamError, StoreError
from millstream.forks import forks
from millstream.store.connections import Unreachable
from millstream.store.redis.access import Access, Address, ServerUrl
from millstream.store.redis.connection import Command, Connection, facts_of
from millstream.store.redis.errors import code_of, refusal, unreachable
from millstream.store.redis.node import Node

SLOTS = 16_384
_TURNS = 5  # how often a command is sent on to where its shard is said to be
_MOVED, _ASK = "MOVED", "ASK"
#: What tells that another server has the shard by now, or will have.
_STALE = {_MOVED, "READONLY", "CLUSTERDOWN", "MASTERDOWN"}

#: A command, and the key of the shard that it is about.
Request = tuple[bytes, Command]
Reply = Any


def slot_of(key: bytes) -> int:
    """Return the slot of a cluster that a key lies in.

    >>> slot_of(b"123456789")
    12739
    """
    return crc_hqx(key, 0) % SLOTS


@dataclass(frozen=True)
class Layout:
    """Which server has which shard.

    Args:
        primaries: the servers that are written to.
        slots: by slot, which of them has it; empty where the only one has all.
        copies: by primary, its replicas.
    """

    primaries: tuple[Address, ...]
    slots: Sequence[int] = ()
    copies: dict[Address, tuple[Address, ...]] = field(default_factory=dict)

    def primary(self, key: bytes) -> Address:
        """The server of a shard."""
        return self.primaries[self.slots[slot_of(key)]] if self.slots else self.primaries[0]


class Servers:
    """The servers behind a URL; safe for any number of threads.

    Args:
        url: the server, some nodes of the cluster, or the sentinels.
        access: what lets us in.
        service: the name by which sentinels know the primary; without it the URL names servers.
        copies: whether replicas are looked for.
    """

    def __init__(self, url: ServerUrl, access: Access, service: str = "", copies: bool = False) -> None:
        self._url, self._access, self._service, self.copies = url, access, service, copies
        self._nodes: dict[tuple[Address, bool], Node] = {}
        self._layout: Layout | None = None
        self._stale, self._looking = False, threading.Lock()
        self._turn, self._forks = count(), forks()

    @property
    def where(self) -> str:
        """The servers as messages name them."""
        return self._url.shown

    def exchange(self, requests: Sequence[Request], end: float, copies: bool = False) -> list[Reply]:
        """Send commands to where their shards are, all at once, and return the replies in their order.

        Args:
            requests: commands with the keys of their shards.
            end: the moment, by `time.monotonic`, until which the replies are waited for.
            copies: whether replicas may answer, which may be behind.

        Returns:
            list: the replies; where there is none, the `MillstreamError` that says why.

        Raises:
            MillstreamError: when nobody can say where anything is.
        """
        layout = self._found(end)
        replies: list[Reply] = [None] * len(requests)
        to = {place: (self._place(layout, key, copies), False) for place, (key, _) in enumerate(requests)}
        for _ in range(_TURNS):
            self._ask(requests, to, replies, end)
            to = self._sent_on(layout, requests, to, replies)
            if not to:
                break
        return [refusal(self.where, one) if isinstance(one, ReplyError) else one for one in replies]

    def walk(self, pattern: bytes, seconds: float) -> Iterator[list[bytes]]:
        """Go through the keys of every primary that match a pattern, some at a time, each within so many seconds."""
        for address in self._found(time.monotonic() + seconds).primaries:
            node, cursor = self._node(address), b"0"
            while True:
                command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")
                cursor, keys = self._told(node, command, time.monotonic() + seconds)
                yield keys
                if cursor == b"0":
                    break

    def close(self) -> None:
        """Hang up what is idle."""
        for node in list(self._nodes.values()):
            node.close()

    def _place(self, layout: Layout, key: bytes, copies: bool) -> Node:
        primary = layout.primary(key)
        others = layout.copies.get(primary, ()) if copies else ()
        return self._node(others[next(self._turn) % len(others)], True) if others else self._node(primary)

    def _ask(
        self, requests: Sequence[Request], to: dict[int, tuple[Node, bool]], replies: list[Reply], end: float
    ) -> None:
        """Put the replies to some requests in their places; `to` says where to ask, and whether to ask for leave before."""
        by_node: dict[Node, list[int]] = {}
        for place, (node, _) in to.items():
            by_node.setdefault(node, []).append(place)
        sent = [(node, _with_leave(requests, to, places)) for node, places in by_node.items()]
        for places, got in zip(by_node.values(), _exchanged(sent, end), strict=True):
            if isinstance(got, list):
                found = iter(got)
                for place in places:
                    if to[place][1]:
                        next(found)  # that it has leave
                    replies[place] = next(found)
            else:
                self._stale = True
                for place in places:
                    replies[place] = got

    def _sent_on(
        self, layout: Layout, requests: Sequence[Request], to: dict[int, tuple[Node, bool]], replies: Sequence[Reply]
    ) -> dict[int, tuple[Node, bool]]:
        """Where to ask again, by what was replied."""
        again = {}
        for place, (node, _) in to.items():
            reply = replies[place]
            code = code_of(reply) if isinstance(reply, ReplyError) else ""
            self._stale = self._stale or code in _STALE
            if code in (_MOVED, _ASK):
                again[place] = (self._node(_said_address(str(reply), node.address)), code == _ASK)
            elif node.copy and isinstance(reply, Exception):
                again[place] = (self._node(layout.primary(requests[place][0])), False)
        return again

    def _node(self, address: Address, copy: bool = False) -> Node:
        node = self._nodes.get((address, copy))
        if node is None:
            node = self._nodes.setdefault((address, copy), Node(address, self._access, copy))
        return node

    def _found(self, end: float) -> Layout:
        """Which server has what, looked up anew when something said that it has changed; by one thread at a time."""
        if self._forks != forks():
            raise Forked.opened_before(self.where)
        known = self._layout
        if known is not None and not self._stale:
            return known
        if not self._looking.acquire(timeout=0 if known else max(0.0, end - time.monotonic())):
            if known is None:
                raise unreachable(self.where, "it has not answered in time")
            return known
        try:
            self._stale = False
            self._layout = self._looked_up(end)
        except MillstreamError:
            self._stale = True
            if known is None:
                raise
            return known
        finally:
            self._looking.release()
        return self._layout

    def _looked_up(self, end: float) -> Layout:
        """Ask the servers that are known, one after the other, until one tells."""
        known = self._layout.primaries if self._layout and not self._service else ()
        failure: MillstreamError | None = None
        for address in dict.fromkeys((*self._url.addresses, *known)):
            node = Node(address, Access(tls=self._access.tls)) if self._service else self._node(address)
            try:
                return self._told_by(node, end)
            except MillstreamError as error:
                failure = failure or error
        assert failure is not None  # a URL names a server at least
        raise failure

    def _told_by(self, node: Node, end: float) -> Layout:
        def ask(*command: bytes) -> Reply:
            return self._told(node, command, end)

        if self._service:
            return self._named(node, ask)
        facts = facts_of(ask(b"INFO", b"server"))
        mode = facts.get("redis_mode") or facts.get("server_mode")
        if mode == "cluster":
            return _clustered(ask(b"CLUSTER", b"SLOTS"), node.address)
        if mode == "sentinel":
            raise StoreError(
                f"Online store '{node.where}' is a sentinel, and knows servers by name.",
                "set `service` in [online] to the name of yours.",
            )
        copies = _copies(facts_of(ask(b"INFO", b"replication"))) if self.copies else ()
        return Layout((node.address,), copies={node.address: copies})

    @staticmethod
    def _told(node: Node, command: Command, end: float) -> Reply:
        """The reply of a server. Raises `MillstreamError` when there is none, or it is an error."""
        [got] = _exchanged([(node, [command])], end)
        reply = got[0] if isinstance(got, list) else got
        if isinstance(reply, Exception):
            raise refusal(node.where, reply) if isinstance(reply, ReplyError) else reply
        return reply

    def _named(self, node: Node, ask: Callable[..., Reply]) -> Layout:
        """The server that a sentinel names."""
        name = self._service.encode()
        told = ask(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name)
        if told is None:
            raise StoreError(
                f"Online store '{node.where}' is a sentinel that knows no server '{self._service}'.",
                "set `service` in [online] to a name that `SENTINEL MASTERS` lists.",
            )
        address = (told[0].decode(), int(told[1]))
        copies = [_pairs(one) for one in ask(b"SENTINEL", b"REPLICAS", name)] if self.copies else []
        sound = [one for one in copies if not {"s_down", "disconnected"} & set(one["flags"].split(","))]
        return Layout((address,), copies={address: tuple((one["ip"], int(one["port"])) for one in sound)})


def _with_leave(requests: Sequence[Request], to: dict[int, tuple[Node, bool]], places: Sequence[int]) -> list[Command]:
    commands: list[Command] = []
    for place in places:
        if to[place][1]:
            commands.append((b"ASKING",))
        commands.append(requests[place][1])
    return commands


def _exchanged(sent: Sequence[tuple[Node, list[Command]]], end: float) -> list[list[Reply] | MillstreamError]:
    """Send to every server before waiting for any; a connection that is not read to its end is never used again."""
    under_way: list[Connection | MillstreamError] = []
    for node, commands in sent:
        try:
            connection = node.take(end)
        except Unreachable as error:
            under_way.append(unreachable(node.where, str(error)))
        except MillstreamError as error:
            under_way.append(error)
        else:
            under_way.append(_sent(node, connection, commands, end))
    return [_received(node, one, end) for (node, _), one in zip(sent, under_way, strict=True)]


def _sent(node: Node, connection: Connection, commands: list[Command], end: float) -> Connection | MillstreamError:
    try:
        connection.send(commands, end)
    except Unreachable as error:
        return _failed(node, connection, error)
    return connection


def _received(node: Node, connection: Connection | MillstreamError, end: float) -> list[Reply] | MillstreamError:
    if not isinstance(connection, Connection):
        return connection
    try:
        replies = connection.receive(end)
    except Unreachable as error:
        return _failed(node, connection, error)
    node.give(connection)
    return replies


def _failed(node: Node, connection: Connection, error: Unreachable) -> MillstreamError:
    connection.close()
    node.failed()
    return unreachable(node.where, str(error))


def _said_address(reply: str, asked: Address) -> Address:
    """The address in "MOVED 7 host:port"; without a host it is that of who says so."""
    host, _, port = reply.split(" ")[2].rpartition(":")
    return host or asked[0], int(port)


def _clustered(told: Sequence[Any], asked: Address) -> Layout:
    """The layout that CLUSTER SLOTS tells. Raises `StoreError` where a slot has no server."""
    slots, primaries, copies = [-1] * SLOTS, list[Address](), dict[Address, tuple[Address, ...]]()
    for first, last, *nodes in told:
        primary, *others = [((node[0] or asked[0].encode()).decode(), int(node[1])) for node in nodes]
        if primary not in copies:
            primaries.append(primary)
            copies[primary] = tuple(others)
        slots[first : last + 1] = [primaries.index(primary)] * (last + 1 - first)
    if -1 in slots:
        raise StoreError(
            f"Online store 'redis://{asked[0]}:{asked[1]}' is a cluster of which slot {slots.index(-1)} has no server.",
            "look at its nodes: `CLUSTER INFO` and `CLUSTER NODES` tell.",
        )
    return Layout(tuple(primaries), slots, copies)


def _copies(facts: dict[str, str]) -> tuple[Address, ...]:
    """The replicas that a primary tells of, those that are in step."""
    told = [dict(part.split("=", 1) for part in value.split(",")) for name, value in facts.items() if _is_copy(name)]
    return tuple((one["ip"], int(one["port"])) for one in told if one.get("state") == "online")


def _is_copy(name: str) -> bool:
    return name.startswith("slave") and name[5:].isdecimal()


def _pairs(told: Sequence[bytes]) -> dict[str, str]:
    words = [word.decode(errors="replace") for word in told]
    return dict(zip(words[::2], words[1::2], strict=False))
