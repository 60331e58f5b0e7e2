"""The command line: what it answers, in words and as JSON, and that every error is one sentence and a code."""

import io
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.cli.app import main

Called = Callable[..., tuple[int, str, str]]
PROJECT = ["init", "plan", "apply", "status", "doctor"]
PIPELINE = ["up", "run", "send", "dead-letters", "backfill", "repair"]
MODELS = ["train", "deploy", "rollback", "score", "verify", "parity", "explain"]
COMMANDS = [*PROJECT, *PIPELINE, *MODELS, "migrate"]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Called:
    """Run a command; its exit code, standard output and standard error."""

    def called(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return called


@pytest.fixture
def project(tmp_path: Path, call: Called) -> Path:
    code, _, _ = call("init", tmp_path / "shop")
    assert code == 0
    return tmp_path / "shop"


def test_help_names_every_command(call: Called) -> None:
    code, out, _ = call()
    assert code == 0
    listed = {line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed == {*COMMANDS, "demo"}


@pytest.mark.parametrize("command", [*COMMANDS, "demo flights", "demo fraud"])
def test_every_command_takes_json(call: Called, command: str) -> None:
    code, out, _ = call(*command.split(), "--help")
    assert code == 0
    assert "--json" in out


def test_help_loads_no_engine() -> None:
    heavy = "{'numpy', 'numba', 'pyarrow', 'duckdb', 'lightgbm', 'sqlalchemy', 'pyiceberg', 'sqlglot', 'pandas'}"
    script = (
        "import sys\nfrom millstream.cli.app import main\n"
        f"try: main(['--help'])\nexcept SystemExit: print('loaded', {heavy} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.endswith("loaded set()\n")


def test_unknown_command_is_a_wrong_call(call: Called) -> None:
    code, out, err = call("trian", "fraud")
    assert (code, out) == (2, "")
    assert "trian" in err
    assert "Hint: `millstream --help`" in err


def test_wrong_option_names_the_command_whose_help_helps(call: Called) -> None:
    code, _, err = call("verify", "--sample", "many")
    assert code == 2
    assert "`millstream verify --help`" in err


def test_init_makes_a_project_that_declares_the_fraud_model(project: Path, call: Called) -> None:
    from millstream.project.declared import declared
    from millstream.settings import Settings

    settings = Settings.load(project)
    assert settings.name == "shop"
    assert settings.generator.enabled
    assert declared(settings)[-1].name == "fraud"


def test_init_does_not_overwrite(project: Path, call: Called) -> None:
    (project / "features.py").write_text("mine = 1\n")
    code, _, err = call("init", project)
    assert code == 1
    assert "already holds millstream.toml and features.py" in err
    assert (project / "features.py").read_text() == "mine = 1\n"


def test_init_of_no_name_writes_nothing(tmp_path: Path, call: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call("init", "")
    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert err.startswith("Error: init was given an empty name; expected a folder.")


def test_a_layer_that_is_none_never_says_that_it_started(project: Path, call: Called) -> None:
    code, out, err = call("run", "compote", "-C", project)
    assert (code, out) == (1, "")
    assert err.startswith("Error: There is no layer 'compote'.")
    assert "did you mean 'compute'?" in err


@pytest.mark.parametrize("wrong", [("score", "fraud", "{}"), ("verify", "fraud"), ("train", "fraud")])
def test_before_anything_is_applied_the_hint_says_that_there_is_nothing_yet(
    project: Path, call: Called, wrong: tuple[str, ...]
) -> None:
    code, _, err = call(*wrong, "-C", project)
    assert code == 1
    assert f"Hint: there is no {'view' if wrong[0] == 'verify' else 'model'} yet; `millstream apply` takes" in err


def test_init_answers_in_json(tmp_path: Path, call: Called) -> None:
    code, out, _ = call("init", tmp_path / "shop", "--json")
    assert code == 0
    assert Path(json.loads(out)["folder"]) == tmp_path / "shop"


@pytest.mark.parametrize(
    "command", ["plan", "apply", "status", "up", "run compute", "backfill", "repair", "train m", "verify"]
)
def test_a_folder_without_settings_is_one_sentence(tmp_path: Path, call: Called, command: str) -> None:
    code, out, err = call(*command.split(), "-C", tmp_path)
    assert (code, out) == (1, "")
    assert "it has no millstream.toml" in err
    assert "Hint: run `millstream init NAME`" in err
    assert "Traceback" not in err


def test_errors_are_json_where_json_is_asked_for(tmp_path: Path, call: Called) -> None:
    code, out, err = call("plan", "-C", tmp_path, "--json")
    assert (code, out) == (1, "")
    assert json.loads(err)["error"]["type"] == "ProjectError"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import numpy as np\nx = np.nothing\n", "line 2: AttributeError"),
        ("x = (\n", "line 1: '(' was never closed"),
        ("import millstream as ms\nms.Entity('user', keys={})\n", "line 2: "),
    ],
)
def test_definitions_that_do_not_run_name_the_line(project: Path, call: Called, text: str, said: str) -> None:
    (project / "features.py").write_text(text)
    code, _, err = call("plan", "-C", project)
    assert code == 1
    assert said in err
    assert "Traceback" not in err


def test_an_unexpected_error_is_one_sentence_too(project: Path, call: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the sky\nfell")

    monkeypatch.setattr("millstream.templates.write_project", broken)
    code, _, err = call("init", "anything")
    assert code == 1
    assert "RuntimeError: the sky fell" in err
    assert "MILLSTREAM_DEBUG=1" in err
    monkeypatch.setenv("MILLSTREAM_DEBUG", "1")
    with pytest.raises(RuntimeError, match="the sky"):
        main(["init", "anything"])


@pytest.mark.parametrize("row", ["not json", "[]", "[1]", '"text"'])
def test_a_request_that_is_no_object_is_refused(project: Path, call: Called, row: str) -> None:
    code, _, err = call("score", "fraud", row, "-C", project)
    assert code == 1
    assert "not a JSON object or an array of them" in err


def test_sending_names_the_line_that_is_broken(project: Path, call: Called, tmp_path: Path) -> None:
    call("apply", "-C", project)
    (tmp_path / "events.jsonl").write_text('{"user_id": 1}\n{"user_id": \n')
    code, _, err = call("send", "logins", tmp_path / "events.jsonl", "-C", project)
    assert code == 1
    assert "Line 2 is not a JSON object" in err


def test_sending_from_a_file_that_is_not_there(project: Path, call: Called) -> None:
    code, _, err = call("send", "logins", project / "none.jsonl", "-C", project)
    assert code == 1
    assert "none.jsonl" in err


def test_doctor_finds_a_taken_port(project: Path, call: Called) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (project / "millstream.toml").write_text(f"port = {taken.getsockname()[1]}\n")
        code, out, _ = call("doctor", "-C", project, "--json")
    found = {one["name"]: one for one in json.loads(out)}
    assert code == 1
    assert not found["port"]["fine"]
    assert found["definitions"]["fine"]


@pytest.mark.parametrize("body", [b"\xff\xfe{}", b"[" * 100_000], ids=["bytes", "deep"])
@pytest.mark.parametrize("command", ["score fraud", "send logins"])
def test_standard_input_that_is_no_json_is_one_sentence(
    project: Path, call: Called, monkeypatch: pytest.MonkeyPatch, command: str, body: bytes
) -> None:
    call("apply", "-C", project)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))
    code, _, err = call(*command.split(), "-", "-C", project)
    assert code == 1
    assert "is not a JSON object" in err


@pytest.mark.parametrize("content", [b"", b"PAR1 is how it begins and ends PAR1"])
def test_sending_a_broken_parquet_file_is_one_sentence(project: Path, call: Called, content: bytes) -> None:
    call("apply", "-C", project)
    (project / "broken.parquet").write_bytes(content)
    code, _, err = call("send", "logins", project / "broken.parquet", "-C", project)
    assert code == 1
    assert err.startswith("Error: Events cannot be read from")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [("--port 70000", 2, "65535"), ("--port -1", 2, "greater than or equal to 0"), ("--host=", 1, "empty")],
)
@pytest.mark.parametrize("command", ["up", "run serve"])
def test_an_address_that_cannot_be_is_refused(
    project: Path, call: Called, command: str, arguments: str, code: int, said: str
) -> None:
    found, _, err = call(*command.split(), *arguments.split(), "-C", project)
    assert found == code
    assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"import sys\nsys.exit()", "line 2: SystemExit"),
        (b"class Ended(BaseException): pass\nraise Ended", "line 2: Ended"),
        (b"class X(Exception):\n    def __str__(self): return 5\nraise X", "line 3: X: its message cannot be shown"),
        (b"# \xff", "save the file as UTF-8"),
        (b"\0", "null bytes"),
    ],
)
def test_definitions_that_end_the_program_are_an_error(project: Path, call: Called, text: bytes, said: str) -> None:
    (project / "features.py").write_bytes(text)
    code, out, err = call("plan", "-C", project)
    assert (code, out) == (1, "")
    assert said in err


def test_what_the_definitions_print_is_no_part_of_the_answer(project: Path, call: Called) -> None:
    (project / "features.py").write_text("print('loading')")
    code, out, err = call("plan", "-C", project, "--json")
    assert (code, json.loads(out), err) == (0, [], "loading\n")


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_folder_of_any_name_can_be_a_project(tmp_path: Path, call: Called, name: str) -> None:
    assert call("init", tmp_path / name)[0] == 0
    assert call("plan", "-C", tmp_path / name)[0] == 0


def test_a_folder_whose_name_is_too_long_is_one_sentence(tmp_path: Path, call: Called) -> None:
    code, _, err = call("init", tmp_path / ("x" * 300))
    assert code == 1
    assert "cannot be written" in err


@pytest.mark.parametrize("command", ["verify", "parity fraud"])
def test_a_sample_holds_at_least_one(project: Path, call: Called, command: str) -> None:
    assert call(*command.split(), "--sample", "0", "-C", project)[0] == 2


def test_ctrl_c_while_sql_runs_ends_as_it_does_elsewhere(project: Path, call: Called) -> None:
    (project / "features.py").write_text("raise RuntimeError('Query interrupted')")  # what DuckDB makes of it
    code, out, err = call("plan", "-C", project)
    assert (code, out, err) == (130, "", "")
