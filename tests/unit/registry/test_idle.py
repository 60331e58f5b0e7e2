"""Connections that are kept between uses: they see what is there now, and stay with the process that opened them."""

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from millstream import Entity
from millstream.errors import CorruptState
from millstream.registry import tables
from millstream.registry.database import FORMAT, Database
from millstream.registry.definitions import Registry
from millstream.registry.idle import Idle

REVISION = sa.select(tables.facts.c.value).where(tables.facts.c.name == "revision")
ONE, TWO = Entity("one", keys={"a": "int64"}), Entity("two", keys={"b": "int64"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


def begun(file: Path) -> Registry:
    registry = Registry(f"sqlite:///{file}")
    registry.apply(registry.plan([ONE]))
    assert registry.revision() == 1  # a connection is kept from here on
    return registry


def opened(database: Database) -> list[str]:
    """The files of a registry that this process has open."""
    return [found for one in psutil.Process().open_files() if (found := one.path).startswith(database.name)]


def test_reads_see_what_others_wrote(file: Path) -> None:
    here, other = begun(file), Registry(f"sqlite:///{file}")
    for number, entity in enumerate((TWO, ONE), start=2):
        other.apply(other.plan([entity], complete=True))
        assert here.revision() == number
        assert [change.name for change in here.plan([entity], complete=True).changes] == []


def test_a_file_put_back_in_place_is_read_as_it_is(file: Path) -> None:
    here = begun(file)
    shutil.copyfile(file, file.with_suffix(".before"))
    here.apply(here.plan([TWO]))
    assert here.revision() == 2
    shutil.copyfile(file.with_suffix(".before"), file)  # the same file, other bytes
    assert here.revision() == 1


def test_a_file_that_is_replaced_is_opened_anew(file: Path, tmp_path: Path) -> None:
    here = begun(file)
    other = Registry(f"sqlite:///{tmp_path / 'other.db'}")
    for entity in (ONE, TWO):
        other.apply(other.plan([entity]))
    other.close()
    (tmp_path / "other.db").rename(file)
    assert here.revision() == 2


def test_a_damaged_file_is_told_of_by_who_read_it_before(file: Path) -> None:
    here = begun(file)
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptState, match="does not read as what was written"):
        here.revision()


def test_what_was_written_lies_in_the_file_alone(file: Path, tmp_path: Path) -> None:
    begun(file)
    shutil.copyfile(file, tmp_path / "copy.db")
    assert Registry(f"sqlite:///{tmp_path / 'copy.db'}").revision() == 1


def test_a_forked_process_opens_its_own(file: Path) -> None:
    here = begun(file)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            here.apply(here.plan([TWO]))
            os.write(writing, str(here.revision()).encode())
            here.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 9) == b"2"
    assert here.revision() == 2


def test_close_lets_go_of_the_file_and_the_next_read_opens_it(file: Path) -> None:
    here = begun(file)
    assert opened(Database(f"sqlite:///{file}"))
    here.close()
    assert not opened(Database(f"sqlite:///{file}"))
    assert here.revision() == 1


def test_threads_read_at_once_and_no_more_is_kept_however_often_they_do(file: Path) -> None:
    begun(file)
    database = Database(f"sqlite:///{file}")
    here, found = Registry(f"sqlite:///{file}"), list[int]()

    def read() -> None:
        for _ in range(20):
            found.append(here.revision())

    for _ in range(3):
        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [1] * 480
    assert here.revision() == 1  # what was given back at the same instant is let go
    # SQLite keeps the files of what it closed for what it opens next, as many as were ever open at once.
    assert len([name for name in opened(database) if name.endswith(".db")]) <= 10


def test_what_nobody_has_written_since_is_not_asked_for_again(file: Path) -> None:
    here, other, asked = begun(file).database, Registry(f"sqlite:///{file}"), list[int]()

    def revision(connection: sa.Connection) -> int:
        asked.append(connection.execute(REVISION).scalar_one())
        return asked[-1]

    assert [here.read(revision) for _ in range(3)] == [1, 1, 1]
    assert asked == [1]
    other.apply(other.plan([TWO]))
    assert [here.read(revision) for _ in range(3)] == [2, 2, 2]
    assert asked == [1, 2]
    with here.writing():
        pass
    assert [here.read(revision) for _ in range(3)] == [3, 3, 3]
    assert asked == [1, 2, 3]


def test_another_question_is_asked_and_another_parameter_too(file: Path) -> None:
    database = begun(file).database
    found = sa.select(tables.facts.c.value).where(tables.facts.c.name == sa.bindparam("fact"))
    assert [row.value for row in database.rows(found, fact="revision")] == [1]
    assert [row.value for row in database.rows(found, fact="format")] == [FORMAT]
    assert [row.value for row in database.rows(REVISION)] == [1]


def test_a_write_that_is_undone_changes_nothing_that_is_read(file: Path) -> None:
    database = begun(file).database
    with pytest.raises(KeyError), database.writing() as connection:
        connection.execute(sa.update(tables.facts).values(value=7))
        raise KeyError
    assert [row.value for row in database.rows(REVISION)] == [1]


def test_what_others_write_to_the_file_without_a_checkpoint_is_read(file: Path) -> None:
    database = begun(file).database
    assert [row.value for row in database.rows(REVISION)] == [1]
    before = file.stat()
    with closing(sqlite3.connect(file)) as other:
        other.execute("update registry_facts set value = 8 where name = 'revision'")
        other.commit()
        assert file.stat().st_mtime_ns == before.st_mtime_ns  # it lies in the log of writes alone
        assert [row.value for row in database.rows(REVISION)] == [8]


def test_a_write_is_made_on_the_connection_that_is_kept_and_the_next_one_waits_for_others_too(file: Path) -> None:
    database = begun(file).database
    with database.reading() as reading:
        kept = reading
    for _ in range(2):
        with database.writing() as writing:
            assert writing is kept
    with database.reading() as reading:
        assert reading is kept
        assert reading.exec_driver_sql("pragma busy_timeout").scalar() == 30_000


def test_a_failed_read_keeps_nothing(file: Path) -> None:
    begun(file)
    database = Database(f"sqlite:///{file}")
    with pytest.raises(KeyError), database.reading():
        raise KeyError
    assert isinstance(database._idle, Idle)
    assert not database._idle._kept
