"""A registry that moves to another database, and what a copy of it forgets."""

from __future__ import annotations

import sqlalchemy as sa

import millstream as ms
from millstream.registry import tables
from millstream.registry.database import Database
from millstream.registry.definitions import Registry
from millstream.registry.moving import begin_anew, copy_rows, rows_in, sum_of


def filled(url: str) -> Registry:
    registry = Registry(url)
    user = ms.Entity("user", keys={"user_id": "int64"})
    clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
    pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1h")])
    registry.apply(registry.plan([pace]))
    registry.marks.move("start/pace@1", {}, {"clicks/0": 2**40})
    with Database(url).writing() as connection:
        moved = {"model": "m", "alias": "champion", "version": 1, "previous": None, "at": 5, "reason": "a 'reason' – Ω"}
        connection.execute(tables.model_moves.insert(), [{"id": 7, **moved}])
    return registry


def test_all_rows_are_the_same_in_another_database_and_numbers_go_on(url, tmp_path):
    source = f"sqlite:///{tmp_path}/source.db"
    registry = filled(source)
    assert rows_in(url) == {}
    copied = copy_rows(source, url)
    assert copied == rows_in(url) == rows_in(source)
    assert sum_of(url) == sum_of(source)
    assert (Registry(url).identity(), Registry(url).revision()) == (registry.identity(), registry.revision())
    assert Registry(url).marks.read("start/pace@1") == {"clicks/0": 2**40}
    with Database(url).writing() as connection:
        given = {"model": "m", "alias": "champion", "version": 2, "at": 6, "reason": ""}
        connection.execute(tables.model_moves.insert().values(**given))
        assert connection.execute(sa.select(sa.func.max(tables.model_moves.c.id))).scalar_one() == 8
    assert sum_of(url) != sum_of(source)
    copy_rows(source, url)
    assert sum_of(url) == sum_of(source)


def test_a_copy_that_begins_anew_keeps_versions_and_forgets_where_they_were(tmp_path):
    source, copy = (f"sqlite:///{tmp_path}/{name}.db" for name in ("source", "copy"))
    registry = filled(source)
    copy_rows(source, copy)
    begin_anew(copy)
    again = Registry(copy)
    assert [one.id for one in again.groups()] == ["pace@1"]
    assert again.marks.read("start/pace@1") == {}
    assert again.operations.unfinished() == []
    assert again.identity() != registry.identity()
