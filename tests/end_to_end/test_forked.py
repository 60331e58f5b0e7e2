"""A process forked from one that has a project open: a clear error or the right values, never nulls, never for ever."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.clock import FileClock

fork = multiprocessing.get_context("fork")
AT = "2026-01-01T16:40:00Z"
PATIENCE = 30

user = ms.Entity("user", keys={"user_id": "int64"})
payments = ms.EventStream(
    "payments", time="at", schema={"id": "string", "user_id": "int64", "amount": "float64", "at": "timestamp"}
)
disputes = ms.EventStream("disputes", time="at", schema={"id": "string", "bad": "int64", "at": "timestamp"})
pace = ms.StreamFeatureGroup(
    "pace", entity=user, source=payments, where="amount > 0", features=[ms.Count(), ms.Sum("amount", over="1h")]
)
spent = ms.BatchFeatureGroup(
    "spent", entity=user, sources=[payments], every="1d",
    query="select user_id, sum(amount) as spent from payments group by user_id",
)  # fmt: skip
view = ms.FeatureView("fraud", request={"amount": "float64"}, features=[pace])
fraud = ms.Model(
    "fraud", view=view, trainer=ms.LightGBM(min_rows=2, rounds=5), examples=payments,
    label=ms.Label(disputes, "bad", on="id", absent=False, after="1h"),
)  # fmt: skip
EVENTS = [
    {"id": f"{i}", "user_id": i % 7, "amount": 1.0 + i % 5, "at": f"2026-01-01T{10 + i // 60:02d}:{i % 60:02d}:00Z"}
    for i in range(400)
]
ROW = {"user_id": 1, "amount": 3.0, "at": AT}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ms.Project]:
    folder = tmp_path_factory.mktemp("forked")
    made = ms.Project(folder, create=True)
    made.settings.data.mkdir()
    FileClock(made.settings.data / "clock.json").set("2026-01-03T00:00:00Z")
    made.apply(view, fraud, spent)
    made.load(payments, EVENTS)
    made.load(disputes, [{"id": f"{i}", "bad": 1, "at": "2026-01-02T00:00:00Z"} for i in range(0, 400, 3)])
    made.drain()
    made.backfill()
    made.sync()
    made.train(fraud)
    made.deploy(fraud)
    made.score(fraud, [ROW])
    yield made
    made.close()


CALLS: dict[str, Callable[[ms.Project], Any]] = {
    "features": lambda p: p.features(view, [{"user_id": 1}], at=AT).to_pylist(),
    "score": lambda p: p.score(fraud, [ROW]).select(["score", "degraded"]).to_pylist(),
    "history": lambda p: p.history(pace).sort_by("user_id").to_pylist(),
    "training_set": lambda p: len(p.training_set(fraud).to_pandas()),
    "dead_letters": lambda p: p.dead_letters(payments).num_rows,
    "status": lambda p: sorted(p.status()),
    "verify": lambda p: p.verify().mismatches,
    "plan": lambda p: p.plan(view).text(),
    "apply": lambda p: len(p.apply(view)),
    "send": lambda p: p.send(payments, [{"id": "9", "user_id": 99, "amount": 0.0, "at": AT}]),
    "drain": lambda p: sorted(p.drain()),
    "sync": lambda p: sorted(p.sync()),
    "backfill": lambda p: p.backfill("spent") and None,
    "train": lambda p: p.train(fraud, p.training_set(fraud)).version and None,
    "compute": lambda p: ms.compute(pace, {payments: EVENTS}, [{"user_id": 1, "at": AT}]).to_pylist(),
    "close": lambda p: p.close(),
}


def in_child(work: Callable[[], Any]) -> tuple[str, Any]:
    """What work done in a forked process gave: ("value", it), ("clear", an error of ours) or ("raw", another's)."""

    def answer(pipe: Connection) -> None:
        try:
            pipe.send(("value", work()))
        except ms.MillstreamError as error:
            pipe.send(("clear", error.message))
        except BaseException as error:
            pipe.send(("raw", repr(error)))

    here, there = fork.Pipe()
    child = fork.Process(target=answer, args=(there,))
    child.start()
    there.close()
    try:
        assert here.poll(PATIENCE), "the forked process waits for ever"
        kind, said = here.recv()
        return kind, said
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("again", [False, True], ids=["the same object", "opened again"])
@pytest.mark.parametrize("name", CALLS)
def test_each_call_gives_what_it_gives_in_the_parent_or_says_that_it_was_forked(
    project: ms.Project, name: str, again: bool
) -> None:
    right = CALLS[name](project)
    kind, got = in_child(lambda: CALLS[name](ms.Project(project.settings.folder) if again else project))
    assert (kind, got) == ("value", right) or (kind == "clear" and "forked" in got)


def test_the_parent_goes_on_after_its_children(project: ms.Project) -> None:
    right, scored = CALLS["features"](project), CALLS["score"](project)
    for name in ("features", "score", "verify", "close"):
        in_child(lambda name=name: CALLS[name](project))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert CALLS["features"](project) == right
    assert CALLS["score"](project) == scored
    assert project.verify().mismatches == 0


def test_a_child_that_ends_by_itself_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from millstream.store.lmdb.store import LmdbOnlineStore\n"
        "from millstream.store.online import ShardMeta\n"
        "from millstream.testing.shards import held\n"
        "store = LmdbOnlineStore(sys.argv[1])\n"
        "store.write('pace@1', 0, [(b'a', b'1')], ShardMeta(position=1), None)\n"
        "held(store, 'pace@1', 0, [b'a'])\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit()\n"
        "os.waitpid(child, 0)\n"
        "readers = store._handle('pace@1', 0).env.readers()\n"
        "assert str(os.getpid()) in readers, readers\n"
        "assert held(store, 'pace@1', 0, [b'a'])[0] == [b'1']\n"
    )
    process = fork.Process(target=os.execv, args=(sys.executable, [sys.executable, "-c", program, str(tmp_path)]))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0


def test_a_project_that_nobody_has_used_yet_is_used_in_children_as_anywhere(project: ms.Project) -> None:
    unused = ms.Project(project.settings.folder)
    kind, got = in_child(lambda: CALLS["history"](unused))
    assert (kind, got) == ("value", CALLS["history"](project))
