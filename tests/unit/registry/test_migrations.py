"""A registry of an earlier format is brought to this one by whoever opens it first, once, and wholly or not at all."""

import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import millstream as ms
from millstream.errors import CorruptState, MillstreamError
from millstream.registry import database, migrate, tables
from millstream.registry.database import FORMAT, Database
from millstream.registry.definitions import Registry
from millstream.registry.tables import facts

#: By format, the tables that registries of it lacked, all or some of them.
LACKED = {
    1: ["registry_view_revisions", "registry_builds", "model_versions", "model_aliases", "model_alias_moves"],
    2: ["registry_operations", "registry_marks"],
}
user = ms.Entity("user", keys={"user_id": "int64"})


def made_before(url, found, lacked):
    """A registry with one definition, as an earlier format left it."""
    registry = Registry(url)
    registry.apply(registry.plan([user]))
    with Database(url).writing() as connection:
        for table in lacked:
            connection.exec_driver_sql(f"drop table {table}")
        connection.execute(facts.update().where(facts.c.name == "format").values(value=found))


def difference(url):
    engine = database._engine(sa.make_url(url))
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), tables.metadata)
        names = set(sa.inspect(connection).get_table_names())
        at = connection.execute(sa.select(facts.c.value).where(facts.c.name == "format")).scalar_one()
    engine.dispose()
    return found, names ^ set(tables.metadata.tables), at


@pytest.mark.parametrize(
    ("found", "lacked"),
    [
        (1, LACKED[1] + LACKED[2]),
        (1, ["registry_builds", *LACKED[2]]),
        (1, []),
        (2, LACKED[2]),
        (2, ["registry_marks"]),
    ],
)
def test_a_registry_of_an_earlier_format_becomes_what_a_new_one_is(url, found, lacked):
    made_before(url, found, lacked)
    registry = Registry(url)
    assert [one.name for one in registry.apply(registry.plan([ms.Entity("shop", keys={"id": "int64"})]))] == ["shop"]
    assert registry.plan([user]).changes == ()
    assert difference(url) == ([], set(), FORMAT)


def test_of_many_who_find_an_earlier_format_one_migrates(url, monkeypatch):
    made_before(url, 1, LACKED[1] + LACKED[2])
    done, real, failed = [], migrate.migrate, []
    monkeypatch.setattr(migrate, "migrate", lambda *given: (done.append(given[1]), real(*given)))

    def look() -> None:
        try:
            Registry(url).marks.move("start/pace@1", {}, {"clicks/0": 4})
        except MillstreamError as error:
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1]
    assert all("start/pace@1" in error.message for error in failed) and len(failed) == 5
    assert difference(url) == ([], set(), FORMAT)


def test_registries_are_migrated_side_by_side_in_one_process(tmp_path):
    urls = [f"sqlite:///{tmp_path / str(number)}.db" for number in range(6)]
    for url in urls:
        made_before(url, 1, LACKED[1] + LACKED[2])
    failed, start = [], threading.Barrier(len(urls))

    def look(url: str) -> None:
        start.wait()
        try:
            Registry(url).streams()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=look, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [difference(url) for url in urls] == [([], set(), FORMAT)] * len(urls)


def test_a_migration_that_fails_leaves_what_was_there(url, monkeypatch):
    made_before(url, 1, LACKED[1] + LACKED[2])
    (_, *before), real = difference(url), migrate.migrate

    def broken(connection, found):
        real(connection, found)
        raise ZeroDivisionError

    monkeypatch.setattr(migrate, "migrate", broken)
    with pytest.raises(ZeroDivisionError):
        Registry(url).streams()
    assert list(difference(url)[1:]) == before
    monkeypatch.undo()
    assert Registry(url).streams() == []
    assert difference(url) == ([], set(), FORMAT)


def test_whatever_asks_first_finds_a_newer_format(url):
    made_before(url, FORMAT + 1, [])
    for ask in (Registry(url).streams, Database(url).make):
        with pytest.raises(CorruptState, match=rf"its format {FORMAT + 1} is not the one read here, {FORMAT}\."):
            ask()


def test_a_registry_of_this_format_is_opened_without_alembic(tmp_path):
    code = (
        "import sys; from millstream.registry.definitions import Registry;"
        f"Registry('sqlite:///{tmp_path / 'registry.db'}').marks.move('a', {{}}, {{'b': 1}});"
        f"assert Registry('sqlite:///{tmp_path / 'registry.db'}').marks.read('a') == {{'b': 1}};"
        "print(*sys.modules)"
    )
    for _ in range(2):
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "sqlalchemy" in loaded and "alembic" not in loaded
        code = code.replace(".move('a', {}, {'b': 1})", ".read('a')")


def test_the_newest_migration_leads_to_this_format():
    folder = tables.__file__.removesuffix("tables.py")
    scripts = migrate.ScriptDirectory(folder, version_locations=[f"{folder}migrations"])
    assert scripts.get_heads() == [str(FORMAT)]
    assert {int(one.revision) for one in scripts.walk_revisions()} == {*database._BEFORE, FORMAT}
