"""Dead letters are read back whole: from the log, from the archive, and while one becomes the other."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.buffer.codec.events import DeadLetter, dead_batches
from millstream.cli.app import main
from millstream.clock import FileClock, to_micros
from millstream.errors import LogError, NotFound
from millstream.ingest.retention import WEEK, trim

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"}, partitions=2)
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1h")])
START = to_micros("2026-01-01T12:00:00Z")
SECRET = "hunter2"


@pytest.fixture
def project(tmp_path: Path) -> ms.Project:
    data = tmp_path / ".millstream"
    data.mkdir()
    FileClock(data / "clock.json").set(START, rate=0.0)
    project = ms.Project(tmp_path, create=True)
    project.apply(pace)
    return project


def send(project: ms.Project, *wrong: int) -> None:
    """Send a wrong event, and a right one, for each number; the clock goes on by a second after each."""
    clock = project.clock
    assert isinstance(clock, FileClock)
    for number in wrong:
        at = f"2026-01-01T11:00:{number:02}Z"
        project.send("clicks", [{"user_id": f"{SECRET} {number}", "at": at}, {"user_id": number, "at": at}])
        clock.advance(1_000_000)
    project.drain()


def numbers(found: pa.Table) -> list[int]:
    return [int(payload.split(SECRET)[1].split('"')[0]) for payload in found["payload"].to_pylist()]


def test_a_dead_letter_says_where_when_why_and_what(project: ms.Project) -> None:
    send(project, 7)
    (letter,) = project.dead_letters(clicks).to_pylist()
    assert letter["arrived"] == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert letter["reason"] == "Wrong type: column 'user_id' does not hold a whole number of 64 bits."
    assert letter["payload"] == '{"user_id":"hunter2 7","at":"2026-01-01T11:00:07Z"}'
    found = project.parts.log.read("clicks", letter["partition"], letter["position"], 1)
    assert SECRET.encode() in found.payloads[0].split(b"\n")[found.skip]


def test_rows_of_a_table_on_which_a_query_fails_are_read_by_its_name(project: ms.Project) -> None:
    table = pa.table({"user_id": [1, 2, 3], "tier": ["1", "oops", "3"]})
    pq.write_table(table, project.settings.folder / "accounts.parquet")
    accounts = ms.Table("accounts", path="accounts.parquet", schema={"user_id": "int64", "tier": "string"})
    query = "select user_id, tier::double as tier from accounts"
    project.apply(ms.BatchFeatureGroup("kyc", entity=user, sources=[accounts], every="1h", query=query))
    project.drain()
    (letter,) = project.dead_letters(accounts).to_pylist()
    assert letter["position"] == 1
    assert "kyc@1" in letter["reason"]
    assert "oops" in letter["payload"]


def test_a_stream_without_dead_letters_gives_none(project: ms.Project) -> None:
    columns = {"partition": "int32", "position": "int64", "arrived": "timestamp[us, tz=UTC]", "reason": "string",
               "payload": "string"}  # fmt: skip
    for _ in range(2):  # before and after its topic is made
        found = project.dead_letters("clicks", newest=3)
        assert (found.num_rows, {field.name: str(field.type) for field in found.schema}) == (0, columns)
        project.drain()
    with pytest.raises(NotFound, match="No stream is named 'click'") as told:
        project.dead_letters("click")
    assert told.value.hint == "did you mean 'clicks'?"


def test_each_is_read_once_wherever_it_lies(project: ms.Project) -> None:
    send(project, *range(5))
    assert numbers(project.dead_letters("clicks")) == [0, 1, 2, 3, 4]
    project.sync()
    assert numbers(project.dead_letters("clicks")) == [0, 1, 2, 3, 4]
    send(project, 5, 6)
    assert numbers(project.dead_letters("clicks")) == [0, 1, 2, 3, 4, 5, 6]
    clock = project.clock
    assert isinstance(clock, FileClock)
    clock.advance(WEEK + 1)
    assert trim(project.parts) > 0
    assert numbers(project.dead_letters("clicks")) == [0, 1, 2, 3, 4, 5, 6]
    assert [numbers(project.dead_letters("clicks", newest=n)) for n in (0, 1, 2, 3, 99)] == [
        [], [6], [5, 6], [4, 5, 6], [0, 1, 2, 3, 4, 5, 6],
    ]  # fmt: skip


def test_the_newest_may_be_archived_while_the_log_holds_older_ones(project: ms.Project) -> None:
    send(project, 1, 2)
    project.sync()
    found = DeadLetter("clicks", 0, 0, "pace@1: a backfill cannot fold it", f"{SECRET} 0", START - 1)
    project.parts.log.append("dead.clicks", 0, *dead_batches([found]))
    assert numbers(project.dead_letters("clicks")) == [0, 1, 2]
    assert [numbers(project.dead_letters("clicks", newest=n)) for n in (1, 2)] == [[2], [1, 2]]


def test_letters_archived_and_trimmed_while_they_are_read_are_read_from_the_archive(
    project: ms.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(project, 1, 2)
    log = project.parts.log
    reads = log.read

    def too_late(topic: str, *place: int) -> object:
        monkeypatch.undo()
        project.sync()
        raise LogError(f"Topic '{topic}': position {place[1]} has been trimmed.")

    monkeypatch.setattr(log, "read", too_late)
    assert numbers(project.dead_letters("clicks")) == [1, 2]
    assert log.read == reads


def test_the_command_shows_the_start_of_each_and_logs_none(
    project: ms.Project, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    call = command(project, capsys)
    assert call("clicks") == (0, "No dead letters in 'clicks'.\n")
    send(project, 3)
    project.send("clicks", [{"user_id": "\x1b[31mred\n" + "x" * 500, "at": "2026-01-01T11:00:00Z"}])
    project.drain()
    code, said = call("clicks")
    assert code == 0
    assert "Wrong type: column 'user_id'" in said
    assert '{"user_id":"hunter2 3","at"' in said
    assert "\x1b" not in said
    assert "x" * 100 not in said
    assert '"user_id":"hunter2 3"' not in call("clicks", "--newest", "1")[1]
    code, said = call("clicks", "--json")
    assert '"arrived": "2026-01-01T12:00:00+00:00"' in said
    assert "x" * 500 in said
    assert SECRET not in caplog.text


def test_the_command_names_the_nearest_stream(project: ms.Project, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = command(project, capsys)("click")
    assert code == 1


def command(project: ms.Project, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def called(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["dead-letters", *arguments, "--project", str(project.settings.folder)])
        return int(ended.value.code or 0), capsys.readouterr().out

    return called
