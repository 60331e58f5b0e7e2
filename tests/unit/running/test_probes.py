"""What a layer's process answers to who probes it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from millstream.errors import ServeError
from millstream.running.meter import Meter
from millstream.running.probes import probed
from millstream.settings import Settings
from millstream.testing.servers.ports import free_port


class Asked:
    """A meter, and what its probes answer."""

    def __init__(self, folder: Path) -> None:
        (folder / "millstream.toml").write_text("")
        self.meter, self.port = Meter(Settings.load(folder), "compute"), free_port()

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    asked = Asked(tmp_path)
    with probed(asked.meter, f"127.0.0.1:{asked.port}"):
        yield asked


def test_it_is_ready_once_it_has_begun_and_while_its_newest_step_has_not_failed(asked: Asked) -> None:
    assert asked.get("/livez") == (200, '{"layer": "compute"}')
    status, said = asked.get("/readyz")
    assert (status, json.loads(said)["problem"]) == (503, "it has not begun yet.")
    asked.meter.publish({"lag": 0})
    assert asked.get("/readyz")[0] == 200
    asked.meter.add(0, {"error": "Disk full."})
    status, said = asked.get("/readyz")
    assert (status, json.loads(said)) == (503, {"layer": "compute", "ready": False, "problem": "Disk full."})
    asked.meter.add(7, {})
    assert asked.get("/readyz")[0] == 200
    assert asked.get("/livez")[0] == 200


def test_its_metrics_are_those_of_the_process_alone(asked: Asked) -> None:
    asked.meter.publish({"lag": 12, "lag_s": 3.5})
    asked.meter.add(5, {"lag": 12, "lag_s": 3.5})
    asked.meter.add(0, {"error": "Disk full."})
    found = {
        (sample.name, sample.labels.get("layer")): sample.value
        for family in text_string_to_metric_families(asked.get("/metrics")[1])
        for sample in family.samples
    }
    assert found["millstream_records_total", "compute"] == 5
    assert found["millstream_failures_total", "compute"] == 1
    assert found["millstream_layer_up", "compute"] == 1
    assert found["millstream_layer_lag", "compute"] == 12
    assert found["millstream_layer_lag_seconds", "compute"] == 3.5
    assert found["millstream_layer_memory_bytes", "compute"] > 1e6


def test_other_paths_are_told_which_there_are(asked: Asked) -> None:
    status, said = asked.get("/status?x=1")
    assert (status, json.loads(said)["error"]) == (404, "Path '/status' is none of /livez, /readyz and /metrics.")


def test_who_does_not_speak_holds_nobody_up(asked: Asked) -> None:
    silent = [http.client.HTTPConnection("127.0.0.1", asked.port) for _ in range(20)]
    for one in silent:
        one.connect()
    assert asked.get("/livez")[0] == 200


@pytest.mark.parametrize("wrong", ["9100", "localhost", ":9100", "localhost:x", "localhost:70000", "localhost:-1", ""])
def test_what_is_no_address_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ServeError, match="is not an address"), probed(Asked(tmp_path).meter, wrong):
        pass


def test_a_port_that_is_taken_is_one_sentence(asked: Asked, tmp_path: Path) -> None:
    taken = f"127.0.0.1:{asked.port}"
    with pytest.raises(ServeError, match=f"{taken}: address already in use"), probed(asked.meter, taken):
        pass
