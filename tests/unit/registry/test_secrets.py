"""A password in any form of the registry's URL is in nothing that is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.commands import millstream

from millstream.errors import MillstreamError
from millstream.project import Project
from millstream.registry.definitions import Registry
from millstream.registry.secrets import without_secrets

FORMS = [
    "postgresql://ada:hunter2@127.0.0.1:1/risk",
    "postgresql://ada:hunter2%2F%C2%A7x@127.0.0.1:1/risk",
    "postgresql://ada:hunter2/x@127.0.0.1:1/risk",
    "postgresql://127.0.0.1:1/risk?user=ada&password=hunter2",
    "postgresql://127.0.0.1:1/risk?user=ada&pass word=hunter2",
    "postgresql://ada@127.0.0.1:1/risk?sslpassword=hunter2&sslmode=prefer",
    "postgresql://ada@127.0.0.1:1/risk?passfile=hunter2",
    "postgresql://ada@127.0.0.1:1/risk?options=-c%20app.token%3Dhunter2",
    "postgresql://127.0.0.1:1/ada:hunter2@risk",
    "postgresql://127.0.0.1:1/risk password=hunter2",
    "postgresql://ada@127.0.0.1:hunter2/risk",
    "postgresql+psycopg://ada:hunter2@127.0.0.1:1/risk",
    "postgresql+nodriver://ada:hunter2@127.0.0.1:1/risk",
    "nodatabase://ada:hunter2@127.0.0.1:1/risk",
    "postgres//ada:hunter2@127.0.0.1/risk",
    "ada:hunter2@127.0.0.1/risk",
    "hunter2",
    "mysql://ada:hunter2@127.0.0.1:1/risk",
]


@pytest.mark.parametrize("url", FORMS)
def test_no_error_of_the_registry_shows_it(url: str) -> None:
    with pytest.raises(MillstreamError) as raised:
        Registry(url).streams()
    error: BaseException | None = raised.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("url", FORMS[3:7:3])
def test_no_command_shows_it(tmp_path: Path, url: str, debug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_DEBUG", debug)
    Project(tmp_path / "p", create=True).close()
    (tmp_path / "p" / "features.py").touch()
    (tmp_path / "p" / "millstream.toml").write_text(f"registry_url = {json.dumps(url)}")
    for command in (["status"], ["doctor", "--json"], ["plan", "--json"]):
        told = millstream(*command, folder=tmp_path / "p")
        assert told.returncode == 1
        assert "hunter2" not in told.stdout + told.stderr
        assert "127.0.0.1" in told.stdout + told.stderr


def test_a_setting_that_is_no_text_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "millstream.toml").write_text('registry_url = ["postgresql://ada:hunter2@host/risk"]')
    with pytest.raises(MillstreamError) as raised:
        Project(tmp_path)
    assert "hunter2" not in str(raised.value)


def test_what_a_driver_said_is_shown_without_it() -> None:
    url = sa.make_url("postgresql://ada@db/risk?token=hunter2%2Fx&short=ab")
    assert without_secrets('no option "hunter2/x" (hunter2%2Fx)', url) == 'no option "***" (***)'
    assert "ab" not in without_secrets("a table: ab", url)
