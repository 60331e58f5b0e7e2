"""The supervisor's guards: one `up` for a project, and a port that is free."""

import os
import socket
from pathlib import Path

import pytest

from millstream.errors import ProjectError, ServeError
from millstream.running.up import holder, lock, refuse_taken_port, serving_at
from millstream.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "millstream.toml").write_text('name = "shop"\n')
    return Settings.load(tmp_path)


def test_a_second_up_is_told_which_process_runs_the_project(settings: Settings) -> None:
    with lock(settings):
        assert holder(settings) == os.getpid()
        said = f"'shop' is already running.*process {os.getpid()}"
        with pytest.raises(ProjectError, match=said) as told, lock(settings):
            pass
        assert told.value.hint and f"kill {os.getpid()}" in told.value.hint


def test_a_lock_ends_with_its_holder(settings: Settings) -> None:
    with lock(settings):
        pass
    assert holder(settings) is None
    with lock(settings):
        assert holder(settings) == os.getpid()


def test_a_taken_port_is_one_sentence(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"Port {port} on 127.0.0.1 cannot be served: address already in use"):
            refuse_taken_port(serving_at(settings, None, port))
    refuse_taken_port(serving_at(settings, None, port))


def test_an_address_that_is_not_this_machine_is_one_sentence(settings: Settings) -> None:
    with pytest.raises(ServeError, match="cannot be served"):
        refuse_taken_port(serving_at(settings, "192.0.2.1", 8787))


def test_another_address_leaves_every_other_setting(settings: Settings) -> None:
    moved = serving_at(settings, "0.0.0.0", None)
    assert (moved.host, moved.port, moved.data) == ("0.0.0.0", settings.port, settings.data)
    assert serving_at(settings, None, None) is settings
