"""The statements of the store, each of which sees one state of the database, and changes all it changes or nothing.

A shard is a row of `shards`, with its position and what it has applied; its number there is a new one whenever it begins
anew. A key is a row of `held`. What is dropped goes from `shards` at once, and nobody reads or writes its keys any more;
they are removed afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

INT4, INT8, TEXT, BYTEA = 23, 20, 25, 17
"""PostgreSQL's numbers for types."""
_HEAD, _ROOM = struct.Struct("!iiIii"), struct.Struct("!i")


class Statement:
    """A statement, prepared once in each connection.

    Args:
        name: what a connection knows it by.
        text: in SQL, with the schema as {0}.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name.encode(), text

    def of(self, schema: str) -> bytes:
        """Return the statement in a schema."""
        return placed(self._text, schema)


def placed(text: str, schema: str) -> bytes:
    """Return SQL with the schema as {0}, and as a text of SQL as {1}."""
    name = quoted(schema)
    return text.replace("{1}", "'" + name.replace("'", "''") + "'").replace("{0}", name).encode()


def quoted(name: str) -> str:
    """Return a name as SQL writes it.

    >>> print(quoted("some states"))
    "some states"
    """
    return '"' + name.replace('"', '""') + '"'


def array(kind: int, values: Sequence[bytes]) -> bytes:
    """Return values of one type as the server takes an array.

    >>> len(array(BYTEA, [b"a", b"bc"]))
    31
    """
    pieces = [_HEAD.pack(1, 0, kind, len(values), 1)] if values else [struct.pack("!iiI", 0, 0, kind)]
    for value in values:
        pieces += (_ROOM.pack(len(value)), value)
    return b"".join(pieces)


def integer(number: int) -> bytes:
    """Return a number as the server takes one of eight bytes.

    >>> integer(1)
    b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01'
    """
    return number.to_bytes(8, "big", signed=True)


def small(number: int) -> bytes:
    """Return a number as the server takes one of four bytes.

    >>> small(-1)
    b'\\xff\\xff\\xff\\xff'
    """
    return number.to_bytes(4, "big", signed=True)


SETTINGS = """
set statement_timeout = {0};
set idle_in_transaction_session_timeout = {0};
set default_transaction_isolation = 'read committed';
set client_min_messages = error;
set jit = off;
set plan_cache_mode = force_generic_plan;
set enable_seqscan = off;
set enable_hashjoin = off;
set enable_mergejoin = off
"""
"""What is set in a connection. Plans are made when tables may be empty, and kept: so they are told to look keys up."""

TABLES = """
select pg_advisory_xact_lock(hashtext('millstream'));
do $$ begin
    if to_regnamespace({1}) is null then create schema {0}; end if;
end $$;
create table if not exists {0}.shards (
    states text collate "C", shard int4, number int8 generated always as identity, position int8 not null,
    meta bytea not null, primary key (states, shard)) with (fillfactor = 50);
create table if not exists {0}.held (
    number int8, key bytea, record bytea not null, primary key (number, key))
    with (fillfactor = 80, toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.05);
alter table {0}.held alter column record set storage external;
create table if not exists {0}.dropped (number int8 primary key);
create table if not exists {0}.damaged (states text collate "C" primary key)
"""

READ = Statement(
    "read",
    """
with asked as materialized (
    select place, number, meta
    from unnest($1::text[], $2::int4[]) with ordinality as asked (states, shard, place)
    left join lateral (
        select number, meta from {0}.shards where states = asked.states and shard = asked.shard offset 0
    ) as found on true
), numbers as materialized (
    select array_agg(number order by place) as of_place from asked
)
select wanted.at::int4, found.record
from numbers, unnest($3::int4[], $4::bytea[]) with ordinality as wanted (place, key, at),
lateral (
    select record from {0}.held where number = numbers.of_place[wanted.place] and key = wanted.key offset 0
) as found
union all
select -asked.place::int4, asked.meta from asked where asked.meta is not null
""",
)
"""By asks and keys with the asks that they are of: by place of a key its record, and by -place of an ask its meta.

Every `offset 0` keeps the plan to looking keys up one by one, however few there are when it is made.
"""

_PUT = """
put as (
    insert into {0}.held select moved.number, given.key, given.record from moved, GIVEN
    on conflict (number, key) do update set record = excluded.record
)
select number from moved
"""
_MOVED = """
with moved as (
    update {0}.shards set position = $3, meta = $4
    where states = $1 and shard = $2 and position = $5 returning number
),"""
_BEGUN = """
with moved as (
    insert into {0}.shards (states, shard, position, meta) values ($1, $2, $3, $4)
    on conflict do nothing returning number
),"""
_ARRAYS = "unnest($6::bytea[], $7::bytea[]) as given (key, record)"
_FIRST = "unnest($5::bytea[], $6::bytea[]) as given (key, record)"

WRITE = Statement("write", _MOVED + _PUT.replace("GIVEN", _ARRAYS))
"""Moves a shard from the position expected, and writes values; gives no row where the shard is elsewhere."""
BEGIN = Statement("begin", _BEGUN + _PUT.replace("GIVEN", _FIRST))
"""Begins a shard and writes values; gives no row where it has begun."""
LOAD = Statement("load", _MOVED + _PUT.replace("GIVEN", "pg_temp.given"))
"""As `WRITE`, with the values that were copied into the connection's own table before."""

FORGET = Statement(
    "forget",
    """
with here as (
    select number from {0}.shards where states = $1 and shard = $2 and position = $3 for update
), gone as (
    delete from {0}.held using here where held.number = here.number and held.key = any($4::bytea[])
)
select number from here
""",
)
"""Removes some keys of a shard, which nobody moves meanwhile; gives no row where the shard is not where it was expected."""

GIVEN = b"create temporary table if not exists given (key bytea, record bytea); truncate pg_temp.given"
COPY = b"copy pg_temp.given from stdin with (format binary)"
COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_END = struct.pack("!h", -1)
_ROW, _NEXT = struct.Struct("!hi"), _ROOM

POSITION = Statement("position", "select position from {0}.shards where states = $1 and shard = $2")

SCAN = Statement(
    "scan",
    """
select key, record from {0}.held
where number = (select number from {0}.shards where states = $1 and shard = $2) and key >= $3
order by key limit $4
""",
)

DROP = Statement(
    "drop",
    """
with gone as (delete from {0}.shards where states = $1 returning number),
mended as (delete from {0}.damaged where states = $1)
insert into {0}.dropped select number from gone
""",
)

SWEEP = Statement(
    "sweep",
    """
with swept as materialized (
    select held.number, held.key from {0}.dropped join {0}.held using (number) limit $1
)
delete from {0}.held using swept where held.number = swept.number and held.key = swept.key returning 1
""",
)
"""Removes some of the keys of what was dropped."""
SWEPT = Statement(
    "swept",
    "delete from {0}.dropped where not exists (select from {0}.held where held.number = dropped.number)",
)

STATES = Statement("states", "select distinct states from {0}.shards")
DAMAGED = Statement("damaged", "select states from {0}.damaged")
NOTE_DAMAGE = Statement("note_damage", "insert into {0}.damaged values ($1) on conflict do nothing")


def copied(changes: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return keys and records as `COPY` takes them."""
    pieces = list[bytes]()
    for key, record in changes:
        pieces += (_ROW.pack(2, len(key)), key, _NEXT.pack(len(record)), record)
    return b"".join(pieces)
