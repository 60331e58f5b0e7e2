"""Marks move by compare-and-set, all places of one or none, whoever else moves them."""

import threading

import pytest

from millstream.errors import CorruptState, Fenced
from millstream.registry.database import FORMAT, Database
from millstream.registry.definitions import Registry
from millstream.registry.tables import facts


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture
def marks(url):
    return Registry(url).marks


def test_a_mark_that_was_never_set_has_no_numbers(marks):
    assert marks.read("start/pace@1") == {}


def test_a_mark_moves_from_what_was_read(marks):
    marks.move("start/pace@1", {}, {"clicks/0": 4, "clicks/1": 2**62})
    marks.move("start/pace@1", {"clicks/0": 4}, {"clicks/0": 9})
    assert marks.read("start/pace@1") == {"clicks/0": 9, "clicks/1": 2**62}
    marks.move("start/pace@1", {"clicks/0": 9}, {"clicks/0": None})
    assert marks.read("start/pace@1") == {"clicks/1": 2**62}


@pytest.mark.parametrize("known", [{}, {"clicks/0": 5}, {"clicks/0": 4, "clicks/1": 1}])
def test_a_mark_that_somebody_else_has_moved_stays_as_it_is(marks, known):
    marks.move("start/pace@1", {}, {"clicks/0": 4})
    with pytest.raises(Fenced, match=r"mark 'start/pace@1' at 'clicks/\d'"):
        marks.move("start/pace@1", known, {"clicks/1": 7, "clicks/0": 8})
    assert marks.read("start/pace@1") == {"clicks/0": 4}


def test_of_many_who_move_a_mark_at_once_each_step_is_made_by_one(url):
    def count():
        marks = Registry(url).marks
        done = 0
        while done < 10:
            known = marks.read("backfill/pace@1")
            try:
                marks.move("backfill/pace@1", known, {"attempts": known.get("attempts", 0) + 1})
            except Fenced:
                continue
            done += 1

    workers = [threading.Thread(target=count) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert Registry(url).marks.read("backfill/pace@1") == {"attempts": 40}


def test_marks_that_move_make_nobody_read_the_definitions_again(url):
    registry = Registry(url)
    registry.marks.move("start/pace@1", {}, {"clicks/0": 4})
    assert registry.revision() == 0


def test_marks_are_dropped_by_name_and_moved_by_place(marks):
    for mark in ("start/pace@1", "goal/pace@1", "start/pace@2"):
        marks.move(mark, {}, {"clicks/0": 4, "visits/0": 4})
    marks.drop(["start/pace@1", "batch/pace@1"])
    marks.rebase({"clicks/0": 90, "nobody/0": 1})
    assert marks.read("start/pace@1") == {}
    assert marks.read("goal/pace@1") == marks.read("start/pace@2") == {"clicks/0": 90, "visits/0": 4}


def test_what_was_kept_elsewhere_is_taken_over_once(marks):
    assert not marks.adopted
    marks.move("start/pace@1", {}, {"clicks/0": 4})
    marks.adopt({"start/pace@1": {"clicks/0": 1}, "start/pace@2": {"clicks/0": 2}})
    marks.adopt({"start/pace@2": {"clicks/0": 3}, "start/pace@3": {"clicks/0": 3}})
    assert marks.adopted
    assert [marks.read(f"start/pace@{number}") for number in (1, 2, 3)] == [{"clicks/0": 4}, {"clicks/0": 2}, {}]


@pytest.mark.parametrize("before", [1, 2])
def test_a_registry_without_marks_is_given_them(url, before):
    with Database(url).writing() as connection:
        connection.exec_driver_sql("drop table registry_marks")
        connection.execute(facts.update().where(facts.c.name == "format").values(value=before))
    marks = Registry(url).marks
    marks.move("start/pace@1", {}, {"clicks/0": 4})
    assert marks.read("start/pace@1") == {"clicks/0": 4}


def test_a_registry_of_a_newer_version_is_refused_in_one_sentence(url):
    with Database(url).writing() as connection:
        connection.execute(facts.update().where(facts.c.name == "format").values(value=FORMAT + 1))
    with pytest.raises(CorruptState, match=rf"its format {FORMAT + 1} is not the one read here, {FORMAT}\."):
        Registry(url).marks.read("start/pace@1")
