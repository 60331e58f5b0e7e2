"""Serving processes, really started, loaded, killed and stopped."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.commands import Program
from tests.unit.serve.world import SHARDS, artefact, disputes, fill, model, payments

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SystemClock
from millstream.errors import ServeError
from millstream.registry.definitions import Registry
from millstream.running.starter import Process
from millstream.serve.capture import CaptureJournal, CaptureShipper
from millstream.serve.server import listen
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.train.versions import ModelVersions

SERVING = "import sys\nfrom pathlib import Path\nfrom tests.unit.serve.serving import main\nmain(Path(sys.argv[1]))"
ROW = {"user_id": 4, "payee_id": 2, "device_id": "d1", "amount": 12.5, "country": "de"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project folder with states, definitions and one deployed model."""
    clock = SystemClock()
    fill(LmdbOnlineStore(tmp_path / "online"))
    log = EmbeddedLog(tmp_path / "log", clock, map_gib=1)
    for stream in (payments, disputes):
        log.create(stream.name, 2)
    log.close()
    registry = Registry(f"sqlite:///{tmp_path}/registry.db", shards=SHARDS)
    registry.apply(registry.plan([model, payments, disputes]))
    deploy(tmp_path, 0)
    return tmp_path


def deploy(folder: Path, seed: int) -> None:
    versions = ModelVersions(f"sqlite:///{folder}/registry.db", folder / "models", SystemClock())
    pins = ("velocity@1", "habits@1", "together@1", "kyc@1")
    versions.alias("fraud", "champion", versions.register("fraud", artefact(seed), pins=pins).version)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Process, int]]:
    program = Program(SERVING, str(folder))
    try:
        yield program.process, int(program.stdout.readline())
    finally:
        program.kill()


def score(connection: http.client.HTTPConnection) -> dict[str, object]:
    connection.request("POST", "/v1/models/fraud/score", json.dumps(ROW))
    answer = connection.getresponse()
    said: dict[str, object] = json.loads(answer.read())
    assert answer.status == 200, said
    return said


class Asking(threading.Thread):
    """Scores over one connection until the server goes or `over` is set; what else ends it, its `join` raises."""

    def __init__(self, port: int, seen: Callable[[dict[str, object]], None], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port, self._seen, self._over = port, seen, over
        self._failed: BaseException | None = None
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            while not self._over.is_set():
                self._seen(score(connection))
        except (OSError, http.client.HTTPException):
            return
        except BaseException as error:
            self._failed = error

    def join(self, timeout: float | None = 60) -> None:
        super().join(timeout)
        if self._failed is not None:
            raise self._failed
        assert not self.is_alive(), "no answer, and no end of the connection, for a minute"


def loaded(port: int, seen: Callable[[dict[str, object]], None], over: threading.Event) -> Asking:
    """Score over one connection until the server goes or `over` is set."""
    return Asking(port, seen, over)


def wait_for(many: list[Any], count: int, *threads: Asking) -> None:
    """Return when a list is that long; fail when nobody is left who would make it so, or a minute has passed."""
    end = time.monotonic() + 60
    while len(many) < count:
        alive = [thread.is_alive() for thread in threads]
        if not any(alive):
            for thread in threads:
                thread.join()
        assert any(alive), f"nobody asks any more, after {len(many)} answers"
        assert time.monotonic() < end, f"{len(many)} answers in a minute"
        time.sleep(0.01)


def test_a_killed_server_has_captured_every_request_that_it_answered(folder: Path) -> None:
    answered: list[str] = []
    with serving(folder) as (process, port):
        threads = [
            loaded(port, lambda said: answered.append(str(said["request_id"])), threading.Event()) for _ in range(3)
        ]
        wait_for(answered, 600, *threads)
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    log = EmbeddedLog(folder / "log", SystemClock(), map_gib=1)
    CaptureShipper(CaptureJournal(folder / "journal"), log).step()
    records = log.read("captures.fraud", 0, 0, 10**6)
    kept = pa.concat_tables([pa.ipc.open_stream(payload).read_all() for payload in records.payloads])[
        "_request_id"
    ].to_pylist()
    assert set(answered) <= set(kept)
    assert len(set(kept)) - len(set(answered)) <= 3  # at most one on each connection was not answered any more
    log.close()


def test_a_new_champion_takes_over_under_load_and_no_request_fails(folder: Path) -> None:
    versions: list[object] = []
    over = threading.Event()
    with serving(folder) as (_, port):
        thread = loaded(port, lambda said: versions.append(said["version"]), over)
        wait_for(versions, 50, thread)
        deploy(folder, 1)
        end = time.monotonic() + 20
        while versions[-1] != 2 and time.monotonic() < end:
            time.sleep(0.05)
        over.set()
        thread.join()
    assert versions[0] == 1
    assert versions[-1] == 2
    assert versions == sorted(versions, key=str)


def test_a_server_that_is_told_to_stop_finishes_and_ships(folder: Path) -> None:
    answered: list[str] = []
    over = threading.Event()
    with serving(folder) as (process, port):
        thread = loaded(port, lambda said: answered.append(str(said["request_id"])), over)
        wait_for(answered, 50, thread)
        process.terminate()
        thread.join()
        assert process.wait(20) == 0
    log = EmbeddedLog(folder / "log", SystemClock(), map_gib=1)
    records = log.read("captures.fraud", 0, 0, 10**6)
    kept = pa.concat_tables([pa.ipc.open_stream(payload).read_all() for payload in records.payloads])[
        "_request_id"
    ].to_pylist()
    assert set(answered) <= set(kept)
    assert (
        list((folder / "journal").iterdir()) == []
        or CaptureShipper(CaptureJournal(folder / "journal"), log).step() == 0
    )
    log.close()


def test_a_client_that_died_fails_a_test_that_waits_for_it() -> None:
    server = listen("127.0.0.1", 0)
    with pytest.raises(AssertionError, match="nobody asks any more, after 0 answers"), server:
        thread = loaded(server.getsockname()[1], lambda said: None, threading.Event())
        server.accept()[0].close()
        wait_for([], 1, thread)


def test_a_taken_port_is_one_clear_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=f"Port {port} on 127.0.0.1 cannot be served: address already in use"):
            listen("127.0.0.1", port)


def opened(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    return connection


def closed_after(connection: socket.socket) -> float:
    """Seconds until the service lets a connection go."""
    begun = time.monotonic()
    while connection.recv(4096):
        pass
    return time.monotonic() - begun


HEAD = b"POST /v1/streams/payments/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"


def test_requests_that_do_not_come_are_let_go_within_seconds_and_others_go_on(folder: Path) -> None:
    with serving(folder) as (_, port):
        halves = [opened(port), opened(port, HEAD[:60]), opened(port, HEAD + b'{"user')]
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        score(kept)
        with ThreadPoolExecutor(len(halves)) as pool:
            waited = list(pool.map(closed_after, halves))
        assert max(waited) < 10
        assert score(http.client.HTTPConnection("127.0.0.1", port, timeout=20))["version"] == 1


def test_half_open_requests_never_take_the_last_descriptors(folder: Path) -> None:
    program = Program(
        f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))\n{SERVING}", str(folder)
    )
    halves: list[socket.socket] = []
    try:
        port = int(program.stdout.readline())
        for _ in range(600):
            halves.append(opened(port, HEAD[:60]))
        for _ in range(5):
            assert score(http.client.HTTPConnection("127.0.0.1", port, timeout=20))["version"] == 1
    finally:
        for half in halves:
            half.close()
        program.kill()


def test_a_large_body_of_one_producer_keeps_no_score_waiting(folder: Path) -> None:
    event = {"payment_id": "p", "user_id": 4, "amount": 12.5, "country": "de", "paid_at": "2026-01-01T10:00:00Z"}
    count = 13 * 2**20 // len(json.dumps(event))
    events = json.dumps([event] * count).encode()
    waits: list[float] = []
    took: list[float] = []
    with serving(folder) as (_, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(20):
            score(connection)

        def produce() -> None:
            begun = time.perf_counter()
            large = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            large.request("POST", "/v1/streams/payments/events", events)
            answer = json.loads(large.getresponse().read())
            took.append(time.perf_counter() - begun)
            assert answer["accepted"] == count

        with ThreadPoolExecutor(1) as pool:
            producer = pool.submit(produce)
            while not producer.done():
                begun = time.perf_counter()
                score(connection)
                waits.append(time.perf_counter() - begun)
            producer.result(0)
    assert len(waits) > 10
    assert sorted(waits)[len(waits) // 2] < took[0] / 10
    assert max(waits) < took[0] / 2  # read on the event loop, one score waits for nearly all of it


def test_a_page_of_another_site_reaches_nothing(folder: Path) -> None:
    def asked(method: str, path: str, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request(method, path, b"{}" if method == "POST" else None, headers)
        return connection.getresponse().status

    with serving(folder) as (_, port):
        events, features = "/v1/streams/payments/events", "/v1/views/fraud/features?user_id=4"
        for path in ("/", "/status", "/metrics", "/livez", features):
            assert asked("GET", path, Host="attacker.example") == 421
            assert asked("GET", path, Origin="https://attacker.example") == 403
        for origin in ("https://attacker.example", "null", f"http://localhost:{port + 1}"):
            assert asked("POST", events, Origin=origin) == 403
        assert asked("POST", events, **{"Sec-Fetch-Site": "cross-site"}) == 403
        assert asked("POST", events, Origin=f"http://127.0.0.1:{port}") == 202
        assert asked("POST", events) == 202
        assert asked("GET", "/", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}) == 200
