"""What commands print: any result as JSON, and tables."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from millstream.cli.output import plain, table
from millstream.cli.progress import progress


@dataclass(frozen=True)
class Found:
    name: str
    parts: tuple[int, ...]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Found("a", (1, 2)), {"name": "a", "parts": [1, 2]}),
        ({1: float("nan"), "x": float("inf")}, {"1": None, "x": None}),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
        (np.int64(3), 3),
        (np.array([1.5, np.nan]), [1.5, None]),
        (Path("/tmp"), "/tmp"),
        (None, None),
        (True, True),
    ],
)
def test_any_result_becomes_json(value: object, said: object) -> None:
    assert plain(value) == said


def test_a_table_shows_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    table(["name", "rate"], [("compute", 1234.5), ("[ingest]", None), ("sync", 3)])
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if line.split()][2:] == [
        ["compute", "1,234"],
        ["[ingest]", "-"],
        ["sync", "3"],
    ]


def test_progress_draws_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("loading", as_json=False) as advance:
        advance(1, 2)
    assert capsys.readouterr() == ("", "")
