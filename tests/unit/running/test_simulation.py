"""The example's world: how it is prepared, and a producer whose service comes and goes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from millstream.clock import FileClock, to_micros
from millstream.errors import ProjectError
from millstream.project import Project
from millstream.running.simulation import LiveProducer, prepare, speed
from millstream.running.up import serving_at
from millstream.settings import Generator, Settings
from millstream.templates import START, write_project

MINUTE = 60_000_000


class Service:
    """An HTTP service that takes what a producer posts."""

    def __init__(self, port: int = 0) -> None:
        self.took: list[tuple[str, Any]] = []
        took = self.took

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                took.append((self.path, body))
                scored = self.path.endswith("/score")
                said = json.dumps({"rows": [{"score": 0.5} for _ in body["rows"]]} if scored else {}).encode()
                self.send_response(200 if scored else 202)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ids(self) -> list[str]:
        """The payments that were posted, in order."""
        posted = [body for path, body in self.took if path == "/v1/streams/payments/events"]
        return [event["payment_id"] for events in posted for event in events]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_project(tmp_path)
    (tmp_path / ".millstream").mkdir()
    FileClock(tmp_path / ".millstream" / "clock.json").set(START, rate=0.0)
    return Settings.load(tmp_path)


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


def test_each_payment_is_scored_before_it_is_sent(settings: Settings, service: Service) -> None:
    producer = LiveProducer(serving_at(settings, None, service.port))
    FileClock(settings.data / "clock.json").advance(10 * MINUTE)
    assert producer.step() > 10
    paths = [path for path, _ in service.took]
    assert paths.index("/v1/models/fraud/score") < paths.index("/v1/streams/payments/events")
    asked = [row["payment_id"] for path, body in service.took if path.endswith("/score") for row in body["rows"]]
    assert asked == service.ids()
    assert producer.facts["scored"] == len(asked)
    assert producer.facts["latest"].endswith("score 0.5000")


def test_what_is_due_while_the_service_is_away_is_sent_when_it_is_back(settings: Settings, service: Service) -> None:
    clock = FileClock(settings.data / "clock.json")
    port = service.port
    producer = LiveProducer(serving_at(settings, None, port))
    clock.advance(10 * MINUTE)
    producer.step()
    service.close()
    producer._connection = None
    clock.advance(10 * MINUTE)
    assert producer.step() == 0
    assert producer.facts["waiting"] > 10
    back = Service(port)
    try:
        clock.advance(10 * MINUTE)
        producer.step()
        every = service.ids() + back.ids()
        assert producer.facts["waiting"] == 0
        fresh = Settings.load(settings.folder)
        (fresh.data / "generator.sent").unlink()
        again = LiveProducer(serving_at(fresh, None, port))
        back.took.clear()
        again.step()
        assert back.ids() == every
    finally:
        back.close()


def test_a_restarted_producer_goes_on_where_it_was(settings: Settings, service: Service) -> None:
    at = serving_at(settings, None, service.port)
    clock = FileClock(settings.data / "clock.json")
    clock.advance(10 * MINUTE)
    LiveProducer(at).step()
    before = service.ids()
    assert LiveProducer(at).step() == 0
    clock.advance(10 * MINUTE)
    LiveProducer(at).step()
    assert service.ids()[: len(before)] == before
    assert len(service.ids()) > len(before)


def test_a_higher_rate_is_a_faster_clock() -> None:
    assert speed(Generator(enabled=True, rate=6.0)) == pytest.approx(2 * speed(Generator(enabled=True, rate=3.0)))


def test_a_project_with_events_of_its_own_is_not_filled(tmp_path: Path) -> None:
    write_project(tmp_path)
    with Project(tmp_path) as project:
        project.apply()
        project.send("logins", [{"user_id": 1, "country": "NL", "at": START}])
    with pytest.raises(ProjectError, match="already holds events"):
        prepare(Settings.load(tmp_path), print)
    with Project(tmp_path) as project:
        assert project.parts.histories.events().read("logins").num_rows == 1


def test_a_first_start_is_prepared_once_and_over_again_after_a_crash(tmp_path: Path) -> None:
    """It begins with a project that is applied already, as one does who looks at the plan first."""
    write_project(tmp_path)
    with Project(tmp_path) as project:
        project.apply()
    settings = Settings.load(tmp_path)
    said: list[str] = []

    class Crash(Exception):
        pass

    def crash(sentence: str) -> None:
        if sentence.startswith("Computing"):
            raise Crash

    with pytest.raises(Crash):
        prepare(settings, crash)
    prepare(settings, said.append)
    assert said[0] == "The first start was interrupted; starting over."
    assert said[-1].startswith("Trained fraud version 1 on ")
    assert FileClock(settings.data / "clock.json").now() == to_micros(START)
    said.clear()
    prepare(settings, said.append)
    assert said == []
