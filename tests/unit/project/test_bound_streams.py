"""A stream that settings bind to a foreign source is as one to which the same events were sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import lightgbm
import msgspec
import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.cli.checks import Check, checked
from millstream.errors import ProjectError, RequestError, SourceError

BEGUN = datetime.now(UTC)
BINDING = '[streams.payments]\nkind = "files"\npath = "incoming/*.jsonl"\n'
USER = ms.Entity("user", keys={"user_id": "int64"})
PAYMENTS = ms.EventStream(
    "payments", time="at", deduplicate="id",
    schema={"id": "string", "user_id": "int64", "amount": "float64", "at": "timestamp"},
)  # fmt: skip
SPEND = ms.StreamFeatureGroup(
    "spend", entity=USER, source=PAYMENTS, features=[ms.Count(over="1h"), ms.Sum("amount", over="24h")]
)
VIEW = ms.FeatureView("fraud", features=[SPEND])
DISPUTES = ms.EventStream("disputes", time="at", schema={"id": "string", "bad": "bool", "at": "timestamp"})
LABEL = ms.Label(DISPUTES, "bad", on="id", absent=False, after="1h")


def project(folder: Path, settings: str = BINDING) -> ms.Project:
    folder.mkdir(exist_ok=True)
    (folder / "millstream.toml").write_text(settings)
    return ms.Project(folder)


def rows(first: int, count: int) -> list[dict[str, object]]:
    return [
        {"id": f"p{n}", "user_id": n % 5, "amount": n / 4, "at": (BEGUN - timedelta(seconds=n % 60)).isoformat()}
        for n in range(first, first + count)
    ]


def write(folder: Path, name: str, events: list[dict[str, object]]) -> None:
    (folder / "incoming").mkdir(exist_ok=True)
    with (folder / "incoming" / name).open("ab") as file:
        file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in events))


def values(one: ms.Project) -> object:
    return one.features("fraud", [{"user_id": user} for user in range(5)])


def test_a_bound_stream_gives_what_sent_events_give(tmp_path: Path):
    with project(tmp_path / "bound") as bound, project(tmp_path / "sent", "") as sent:
        for one in (bound, sent):
            one.apply(VIEW)
        for first in (0, 30):
            write(tmp_path / "bound", "a.jsonl", rows(first, 20))
            write(tmp_path / "bound", "b.jsonl", rows(first, 10))  # repeats
            sent.send("payments", rows(first, 20))
            assert bound.drain()["taken"] == 30
            assert "taken" not in sent.drain()
            assert values(bound) == values(sent)
            assert sum(values(bound)["spend__count_1h"].to_pylist()) == first // 3 * 2 + 20
        assert bound.drain()["taken"] == 0
        bound.sync()
        assert values(bound) == values(sent)


def test_a_stream_of_another_project_gives_what_it_gives_there(tmp_path: Path):
    with (
        project(tmp_path / "there", "") as there,
        project(tmp_path / "here", '[streams.payments]\nkind = "project"\npath = "../there"\n') as here,
    ):
        for one in (there, here):
            one.apply(VIEW)
        for first in (0, 20):
            there.send("payments", rows(first, 20))
            there.send("payments", pa.Table.from_pylist(rows(first, 30)))
            there.drain()
            assert here.drain()["taken"] == 50
            assert values(here) == values(there)
        arrivals = [one.parts.histories.events().read("payments").sort_by("id")["_arrival"] for one in (there, here)]
        assert arrivals[0] == arrivals[1]


@pytest.mark.parametrize("kind", ["files", "project"])
def test_what_is_served_of_a_bound_stream_is_verified_and_has_parity(tmp_path: Path, kind: str):
    with project(tmp_path / "there", "") as there:
        there.apply(PAYMENTS)
        binding = BINDING if kind == "files" else '[streams.payments]\nkind = "project"\npath = "../there"\n'
        with project(tmp_path / "here", binding) as here:
            here.apply(ms.Model("fraud", view=VIEW, examples=PAYMENTS, label=LABEL))
            drawn = np.random.default_rng(3).random((200, 2))
            drawn = lightgbm.Dataset(drawn, [0, 1] * 100, feature_name=list(VIEW.columns))
            here.register("fraud", lightgbm.train({"objective": "binary", "verbose": -1}, drawn, num_boost_round=2))
            here.deploy("fraud")
            asked = [{"user_id": user} for user in range(5)]
            for first in (0, 20, 40):
                if kind == "files":
                    write(tmp_path / "here", "a.jsonl", rows(first, 30))  # and repeats
                else:
                    there.send("payments", rows(first, 30))
                here.drain()
                here.score("fraud", asked)
            here.sync()
            verified, parity = here.verify("fraud"), here.parity("fraud")
    assert (verified.requests, verified.mismatches, verified.degraded) == (15, 0, 0)
    assert (parity.requests, parity.unexplained) == (15, 0)


def test_another_process_goes_on_where_one_has_stopped(tmp_path: Path):
    for count in (10, 20):
        with project(tmp_path) as bound:
            bound.apply(VIEW)
            write(tmp_path, "a.jsonl", rows(count, 10))
            assert bound.drain()["taken"] == 10


def test_nothing_is_sent_to_a_bound_stream_and_history_is_loaded(tmp_path: Path):
    (tmp_path / "incoming").mkdir()
    with project(tmp_path) as bound:
        bound.apply(VIEW)
        with pytest.raises(RequestError, match="Stream 'payments' takes its events from the source") as raised:
            bound.send("payments", rows(0, 1))
        assert raised.value.status == 409
        assert bound.load("payments", rows(0, 3)) == 3


def test_what_does_not_parse_is_a_dead_letter_as_it_is(tmp_path: Path):
    with project(tmp_path) as bound:
        bound.apply(VIEW)
        write(tmp_path, "a.jsonl", rows(0, 2))
        with (tmp_path / "incoming" / "a.jsonl").open("ab") as file:
            file.write(b"no JSON at all\n")
        bound.drain()
        assert bound.dead_letters("payments")["payload"].to_pylist() == ["no JSON at all"]


def test_a_source_that_cannot_be_read_keeps_back_nothing_else(tmp_path: Path):
    with project(tmp_path) as bound:
        bound.apply(VIEW)
        bound.load("payments", rows(0, 4))
        with pytest.raises(SourceError, match=r"the folder '.*incoming' is not there"):
            bound.drain()
        assert sum(values(bound)["spend__count_1h"].to_pylist()) == 4


def test_where_a_stream_is_changes_nothing_that_is_declared(tmp_path: Path):
    (tmp_path / "incoming").mkdir()
    with project(tmp_path, "") as free:
        free.apply(VIEW)
        free.send("payments", rows(0, 4))
        free.drain()
    with project(tmp_path) as bound:
        assert not bound.plan(VIEW).changes
        write(tmp_path, "a.jsonl", rows(4, 4))
        assert bound.drain()["taken"] == 4
        assert sum(values(bound)["spend__count_1h"].to_pylist()) == 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('[streams.a]\npath = "x"', r"'streams\.a\.kind' is missing; it must be one of files, kafka, kinesis, project"),
        (
            '[streams.a]\nkind = "file"',
            r"'streams\.a\.kind' is 'file'; it must be one of files, kafka, kinesis, project",
        ),
        ('[streams.a]\nkind = "files"\npaths = "x"', r"'streams\.a\.paths' is not a setting"),
        ('[streams.a]\nkind = "files"', r"'streams\.a\.path' is missing"),
        ('[streams.a]\nkind = "files"\npath = ""', r"'streams\.a\.path' is ''"),
        ("[streams.a]\nkind = 3", r"'streams\.a\.kind' is 3"),
        ("streams = 3", r"'streams' is 3; it must be tables such as \[streams.payments\]"),
        ("[streams]\na = 3", r"'streams' is .*; it must be tables such as \[streams.payments\]"),
    ],
)
def test_a_binding_that_is_wrong_is_said_when_the_project_is_opened(tmp_path: Path, settings: str, said: str):
    with pytest.raises(ProjectError, match=said):
        project(tmp_path, settings)


def test_doctor_says_what_is_bound_what_is_not_declared_and_what_was_lost(tmp_path: Path):
    (tmp_path / "incoming").mkdir()
    with project(tmp_path) as bound:
        assert not looked_at(tmp_path).fine
        assert "no stream is declared for [streams.payments]" in looked_at(tmp_path).found
        bound.apply(VIEW)
        write(tmp_path, "a.jsonl", rows(0, 2))
        assert looked_at(tmp_path).found == "1 bound, 2 events behind"
        with (tmp_path / "incoming" / "a.jsonl").open("ab") as file:
            file.write(b"half a line")
        bound.drain()
        assert looked_at(tmp_path).found == "1 bound, 0 events behind"
        (tmp_path / "incoming" / "a.jsonl").write_bytes(b"{}\n")
        bound.drain()
        assert "with 11 bytes unread" in looked_at(tmp_path).found


def looked_at(folder: Path) -> Check:
    return next(one for one in checked(folder) if one.name == "sources")
