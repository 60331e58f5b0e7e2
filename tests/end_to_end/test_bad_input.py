"""What is wrong is refused in one clear sentence, by real commands and the real service, and harms nothing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.commands import millstream
from tests.disks import disk, fill
from tests.end_to_end import shop
from tests.end_to_end.running import Layer, ask, post, until

import millstream as ms
from millstream.testing.servers.ports import free_port

FAR = 4_102_444_800_000_000
"""The year 2100 (µs)."""
ROW = {"user_id": 1, "shop": "s", "amount": 5.0}


def refused(done: subprocess.CompletedProcess[str], *said: str, code: int = 1) -> str:
    """Hold a command to having failed in one sentence with a hint, without a traceback; returns what it said."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines[0].startswith("Error: "), done.stderr
    assert "Something unexpected" not in done.stderr, done.stderr
    assert len(lines) == 2, done.stderr
    assert lines[1].startswith("Hint: "), done.stderr
    for part in said:
        assert part in done.stderr, done.stderr
    return done.stderr


def order(number: int, **changes: Any) -> dict[str, Any]:
    """An order of the user 1 for 10, now."""
    return {"id": f"o{number}", "user_id": 1, "shop": "s", "amount": 10.0, "at": time.time_ns() // 1_000} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project that has been applied."""
    shop.write_project(tmp_path)
    assert millstream("apply", folder=tmp_path).returncode == 0
    return tmp_path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A project that is served, with what serves it."""
    folder = tmp_path_factory.mktemp("served")
    shop.write_project(folder)
    project = ms.Project(folder)
    project.apply()
    shop.deploy_model(project)
    port = free_port()
    layer = Layer(folder, "serve", port)

    def ready() -> bool:
        with contextlib.suppress(OSError):
            return ask(port, "GET", "/readyz")[0] == 200
        return False

    until(ready, "serving")
    yield folder, port
    layer.kill()


def test_an_unknown_column_names_the_nearest_one(tmp_path: Path) -> None:
    shop.write_project(tmp_path)
    text = (tmp_path / "features.py").read_text().replace('where="amount > 0"', 'where="amonut > 0"')
    (tmp_path / "features.py").write_text(text)
    for command in ("plan", "apply", "up"):
        said = refused(millstream(command, folder=tmp_path), "amonut", "amount", "features.py", "line")
        assert "turnover" in said
    assert not list(tmp_path.glob(".millstream/log/*"))


def test_what_would_be_removed_stays_where_nobody_can_be_asked(folder: Path) -> None:
    text = (folder / "features.py").read_text()
    (folder / "features.py").write_text("import millstream as ms\n")
    done = millstream("apply", folder=folder)
    assert done.returncode == 1
    assert "Error: Plan: it would remove " in done.stderr
    assert "[MS102]" in done.stderr and "millstream apply --yes" in done.stderr
    (folder / "features.py").write_text(text)
    assert "Nothing to change" in millstream("apply", folder=folder).stdout


@pytest.mark.parametrize(
    "command",
    [["plan"], ["apply"], ["up"], ["run", "compute"], ["send", "orders"], ["backfill"], ["train", "risk"],
     ["deploy", "risk"], ["rollback", "risk"], ["score", "risk", "{}"], ["verify"], ["parity", "risk"],
     ["explain", "r1"], ["status"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_a_folder_without_a_project_is_refused_and_stays_empty(command: list[str], tmp_path: Path) -> None:
    refused(millstream(*command, folder=tmp_path), "is not a Millstream project", "millstream.toml")
    assert list(tmp_path.iterdir()) == []


def test_as_json_an_error_is_one_object(tmp_path: Path) -> None:
    done = millstream("plan", "--json", folder=tmp_path)
    assert done.returncode == 1
    said = json.loads(done.stderr)["error"]
    assert said["type"] == "ProjectError"
    assert said["hint"]


def test_settings_and_names_that_are_wrong_are_refused_with_the_nearest(folder: Path) -> None:
    refused(millstream("run", "compte", folder=folder), "compte", "compute")
    refused(millstream("send", "order", folder=folder, seconds=60), "order", "orders")
    refused(millstream("train", "rsk", folder=folder), "rsk", "risk")
    refused(millstream("deploy", "risk", folder=folder), "no version")
    refused(millstream("score", "risk", '{"user_id": 1', folder=folder))
    refused(millstream("explain", "nobody", folder=folder), "nobody")
    refused(millstream("backfill", "spendng", folder=folder), "spending")
    (folder / "millstream.toml").write_text("partitons = 3\n")
    refused(millstream("status", folder=folder), "partitons", "partitions")
    (folder / "millstream.toml").write_text("partitions = \n")
    refused(millstream("status", folder=folder), "millstream.toml")


def test_definitions_that_do_not_run_are_refused_with_the_line(folder: Path) -> None:
    (folder / "features.py").write_text("import millstream as ms\n\nuser = ms.Entity('user'\n")
    refused(millstream("plan", folder=folder), "features.py")
    (folder / "features.py").write_text("import millstream as ms\n\nuser = ms.Entty('user')\n")
    refused(millstream("plan", folder=folder), "line 3", "Entty")
    (folder / "features.py").unlink()
    refused(millstream("plan", folder=folder), "features.py")


def test_events_that_fit_nothing_become_dead_letters_and_the_rest_goes_on(folder: Path) -> None:
    wrong = {
        "number as text": order(1, amount="10"),
        "fraction as key": order(2, user_id=1.5),
        "far future": order(3, at=FAR),
        "no time": order(4, at=None),
        "time as text": order(5, at="yesterday"),
        "not an object": [1, 2],
        "a number beyond": order(6, user_id=2**70),
    }
    lines = [json.dumps(one) for one in wrong.values()]
    lines += [json.dumps(order(8, user_id=[8])), '{"id": "o9", "user_id": 1']
    good = [json.dumps(order(n)) for n in range(20, 30)]
    project = ms.Project(folder)
    mixed = [line for pair in zip(lines, good, strict=False) for line in pair] + good[len(lines) :]
    port = free_port()
    layer = Layer(folder, "serve", port)
    try:
        until(lambda: _alive(port), "serving")
        status, answer = _lines(port, "\n".join(mixed))
        assert status == 202, answer
        assert answer["accepted"] == len(mixed)
    finally:
        layer.stop()
    project.drain()
    assert project.features("risk", [{"user_id": 1, "shop": "s"}])["spending__count"].to_pylist() == [10.0]
    letters = project.dead_letters("orders").to_pylist()
    assert len(letters) == len(lines), [letter["reason"] for letter in letters]
    assert all(letter["reason"] and letter["position"] >= 0 and letter["payload"] for letter in letters)
    assert any("Too far in the future" in letter["reason"] for letter in letters)
    assert len({(letter["partition"], letter["position"]) for letter in letters}) == len(letters)


def test_nan_in_a_key_is_a_null_key_in_a_table_too(folder: Path) -> None:
    project = ms.Project(folder)
    table = pa.Table.from_pylist([order(1), order(2)])
    project.send("orders", table.set_column(1, "user_id", pa.array([1.0, math.nan], from_pandas=False)))
    project.drain()
    assert project.features("risk", [{"user_id": 1, "shop": "s"}])["spending__count"].to_pylist() == [1.0]
    assert project.dead_letters("orders").num_rows == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user_id": 1, "shop": "s"}, "amount"),
        ({"user_id": 1, "amount": 5.0}, "shop"),
        ({**ROW, "user_id": "1"}, "user_id"),
        ({**ROW, "user_id": 1.5}, "user_id"),
        ({**ROW, "user_id": 2**70}, "user_id"),
        ({**ROW, "shop": 3}, "shop"),
        ({**ROW, "amount": "5"}, "amount"),
        ({**ROW, "amount": True}, "amount"),
        ({**ROW, "at": "noon"}, "at"),
        ({**ROW, "at": 2**63}, "at"),
        ({"rows": []}, "rows"),
        ({"rows": [3]}, "rows[0]"),
        ([], "rows"),
        (7, "rows"),
    ],
    ids=str,
)
def test_a_request_that_fits_no_view_says_which_field(service: tuple[Path, int], body: Any, field: str) -> None:
    status, answer = post(service[1], "/v1/models/risk/score", body)
    error = answer["error"]
    assert 400 <= status < 500
    assert error["field"] == field
    assert error["expected"]
    assert error["hint"]
    assert "given" in error
    assert error["message"].count("\n") == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "near"),
    [
        ("POST", "/v1/models/rsk/score", 404, "risk"),
        ("GET", "/v1/views/rik/features?user_id=1", 404, "risk"),
        ("POST", "/v1/streams/order/events", 404, "orders"),
        ("POST", "/v1/models/rsk/labels", 404, "risk"),
        ("GET", "/v1/models/risk/score", 405, "POST"),
        ("GET", "/v1/views/risk/features?user_id=1&shp=2", 400, "shop"),
        ("GET", "/v1/views/risk/features?user_id=x&shop=s", 400, "user_id"),
        ("GET", "/v1/model/risk/score", 404, "models"),
        ("GET", "/v1/views/risk/features?user_id=1", 400, "shop"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(
    service: tuple[Path, int], method: str, path: str, status: int, near: str
) -> None:
    found, answer = ask(service[1], method, path, b"{}" if method == "POST" else None)
    assert found == status
    error = answer["error"]
    assert near in json.dumps(error)
    assert error["hint"]
    assert error["expected"]
    assert error["field"]


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b"nope", b'{"user_id": 1,}', b"[" * 5_000, b'"text"'])
def test_a_body_that_is_no_json_is_refused(service: tuple[Path, int], body: bytes) -> None:
    for path in ("/v1/models/risk/score", "/v1/streams/orders/events"):
        status, answer = ask(service[1], "POST", path, body)
        assert 400 <= status < 500, (path, status, answer)
        assert answer["error"]["hint"]
    assert ask(service[1], "GET", "/livez")[0] == 200


def test_a_body_that_is_too_long_is_refused(service: tuple[Path, int]) -> None:
    status, answer = ask(service[1], "POST", "/v1/streams/orders/events", b" " * (17 * 2**20))
    assert status == 413
    assert answer["error"]["hint"]
    status, answer = post(service[1], "/v1/models/risk/score", {"rows": [{"user_id": 1}] * 10_001})
    assert status == 413


def test_a_taken_port_is_refused(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(millstream("up", "--port", port, folder=folder), f"Port {port}", "in use")
        refused(millstream("run", "serve", "--port", port, folder=folder), f"Port {port}", "in use")


def test_a_log_that_has_filled_its_map_takes_nothing_and_loses_nothing(folder: Path) -> None:
    settings = (folder / "millstream.toml").read_text().replace("log_gib = 4", "log_gib = 0.004")
    (folder / "millstream.toml").write_text(settings)
    project = ms.Project(folder)
    sent = 0
    (folder / "few.jsonl").write_text("".join(json.dumps(order(n)) + "\n" for n in range(10)))
    (folder / "many.jsonl").write_text("".join(json.dumps(order(n + 100, shop="x" * 900)) + "\n" for n in range(9_000)))
    assert millstream("send", "orders", "few.jsonl", folder=folder).returncode == 0
    sent += 10
    refused(millstream("send", "orders", "many.jsonl", folder=folder), "size it may grow to", "log_gib")
    assert sum(end for _, end in project.parts.log.ends("orders")) == sent
    project.drain()
    assert project.features("risk", [{"user_id": 1, "shop": "s"}])["spending__count"].to_pylist() == [10.0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 60 MiB of its own."""
    with disk(tmp_path / "disk", mebibytes=60) as place:
        yield place


def test_a_full_disk_is_said_so_and_what_was_taken_is_computed_once_there_is_room(small_disk: Path) -> None:
    shop.write_project(small_disk)
    assert millstream("apply", folder=small_disk).returncode == 0
    project = ms.Project(small_disk)
    project.send("orders", [order(n) for n in range(10)])
    ballast = fill(small_disk)
    (small_disk.parent / "many.jsonl").write_text("".join(json.dumps(order(n + 100)) + "\n" for n in range(9_000)))
    refused(millstream("send", "orders", str(small_disk.parent / "many.jsonl"), folder=small_disk), "MS701")
    ballast.unlink()
    again = ms.Project(small_disk)
    assert sum(end for _, end in again.parts.log.ends("orders")) == 10
    again.drain()
    assert again.features("risk", [{"user_id": 1, "shop": "s"}])["spending__count"].to_pylist() == [10.0]


def test_a_damaged_shard_is_said_so_and_backfill_mends_it(folder: Path) -> None:
    shards, first = _filled(folder)
    _damage(shards[0])
    with contextlib.suppress(FileNotFoundError):
        (shards[0].parent / "lock.mdb").unlink()
    done = millstream("score", "risk", json.dumps(ROW), folder=folder)
    assert "Traceback" not in done.stderr
    whole = shards[1].read_bytes()
    refused(_drained(folder), "does not read as what was written", "millstream backfill spending")
    assert shards[1].read_bytes() == whole
    assert sum(end for _, end in ms.Project(folder).parts.log.ends("orders")) == 40
    mended = millstream("backfill", "spending", folder=folder)
    assert mended.returncode == 0, mended.stderr
    keys = [{"user_id": user, "shop": "s"} for user in range(20)]
    assert ms.Project(folder).features("risk", keys)["spending__count"].to_pylist() == first


def test_a_shard_cut_short_is_said_so(folder: Path) -> None:
    shards, first = _filled(folder)
    os.truncate(shards[0], 8_192)
    refused(_drained(folder), "does not read as what was written")
    assert millstream("backfill", "spending", folder=folder).returncode == 0
    keys = [{"user_id": user, "shop": "s"} for user in range(20)]
    assert ms.Project(folder).features("risk", keys)["spending__count"].to_pylist() == first


@pytest.mark.parametrize(
    "command",
    [["plan"], ["apply"], ["status"], ["verify"], ["up"], ["send", "orders", "few.jsonl"]],
    ids=lambda c: c[0],
)
def test_a_damaged_registry_is_said_so_and_left_as_it_is(folder: Path, command: list[str]) -> None:
    (folder / "few.jsonl").write_text(json.dumps(order(1)) + "\n")
    registry = folder / ".millstream" / "registry.db"
    registry.write_bytes(b"\x13" * registry.stat().st_size)
    damaged = registry.read_bytes()
    refused(millstream(*command, folder=folder), "registry.db")
    assert registry.read_bytes() == damaged


def test_a_damaged_log_is_said_so_and_left_as_it_is(folder: Path) -> None:
    log = folder / ".millstream" / "log" / "data.mdb"
    log.write_bytes(b"\x13" * 65_536)
    (log.parent / "lock.mdb").unlink()
    refused(millstream("up", "--port", str(free_port()), folder=folder), "log")
    refused(millstream("apply", folder=folder), "log")
    assert log.read_bytes() == b"\x13" * 65_536


def test_a_data_folder_that_cannot_be_written_is_said_so(folder: Path) -> None:
    shutil.rmtree(folder / ".millstream")
    (folder / ".millstream").write_text("not a folder")
    for command in (["apply"], ["up", "--port", str(free_port())], ["run", "compute"]):
        refused(millstream(*command, folder=folder), ".millstream")


def _alive(port: int) -> bool:
    with contextlib.suppress(OSError):
        return ask(port, "GET", "/livez")[0] == 200
    return False


def _lines(port: int, body: str) -> tuple[int, Any]:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/streams/orders/events", body.encode(), {"content-type": "application/x-ndjson"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def _filled(folder: Path) -> tuple[list[Path], list[Any]]:
    """A project with some orders served: the files of a group's shards, and the counts of its users."""
    project = ms.Project(folder)
    project.send("orders", [order(n, user_id=n % 20) for n in range(40)])
    project.drain()
    counts = project.features("risk", [{"user_id": user, "shop": "s"} for user in range(20)])[
        "spending__count"
    ].to_pylist()
    assert counts == [2.0] * 20
    project.close()
    return [folder / ".millstream" / "online" / "spending@1" / str(shard) / "data.mdb" for shard in range(2)], counts


def _damage(file: Path) -> None:
    """Overwrite everything."""
    file.write_bytes(os.urandom(file.stat().st_size))


def _drained(folder: Path) -> subprocess.CompletedProcess[str]:
    """Drain in a process of its own, as a command does."""
    program = (
        "import sys, millstream as ms\n"
        "from millstream.cli.output import fail\n"
        "from millstream.errors import MillstreamError\n"
        "try:\n    ms.Project('.').drain()\nexcept MillstreamError as error:\n    fail(error, False)\n"
    )
    import sys

    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
