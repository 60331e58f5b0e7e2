"""Which registry the log has followed is kept in records of the log, whoever writes them, in whatever order."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.buffer.topics import REGISTRY
from millstream.clock import SimulatedClock
from millstream.errors import LogError, SteppedBack
from millstream.history.registered import note_registry, noted_revision, registry_behind
from millstream.testing.adversarial_log import AdversarialLog


class Known:
    """A registry of which identity and revision are known."""

    def __init__(self, identity: int, revision: int) -> None:
        self._identity, self._revision = identity, revision

    def identity(self) -> int:
        return self._identity

    def revision(self) -> int:
        return self._revision


@pytest.fixture(params=["embedded", "gaps", "torn"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    embedded = EmbeddedLog(tmp_path / "log", SimulatedClock(0), map_gib=1)
    kinds = {"gaps": {"atomic": True}, "torn": {"atomic": False}}
    yield AdversarialLog(embedded, 3, **kinds[request.param]) if request.param in kinds else embedded
    embedded.close()


def note(log: Any, identity: int, revision: int, *, anew: bool = False) -> None:
    """What another process writes that has read nothing of what is there now."""
    log.create(REGISTRY, 1)
    record = {"identity": identity, "revision": revision, "anew": anew}
    log.append(REGISTRY, 0, Batch(msgspec.json.encode(record), "bytes", 1))


def test_no_registry_is_behind_before_one_was_noted_or_has_an_identity(log: Any) -> None:
    assert registry_behind(log, Known(7, 0)) is None  # type: ignore[arg-type]
    assert note_registry(log, Known(0, 0)) == 0  # type: ignore[arg-type]
    assert REGISTRY not in log.topics()


def test_an_older_registry_and_another_one_are_refused(log: Any) -> None:
    for revision in (3, 4, 4):
        assert note_registry(log, Known(7, revision)) == revision  # type: ignore[arg-type]
    with pytest.raises(SteppedBack, match="at revision 3, before revision 4"):
        note_registry(log, Known(7, 3))  # type: ignore[arg-type]
    with pytest.raises(SteppedBack, match="not registry 00000007"):
        note_registry(log, Known(8, 9))  # type: ignore[arg-type]
    assert note_registry(log, Known(8, 2), anew=True) == 2  # type: ignore[arg-type]
    assert noted_revision(log) == 2
    assert "not registry 00000008" in (registry_behind(log, Known(7, 9)) or "")  # type: ignore[arg-type]


def test_a_note_that_comes_late_sets_nothing_back(log: Any) -> None:
    note_registry(log, Known(7, 5))  # type: ignore[arg-type]
    note(log, 7, 3)
    note(log, 6, 9)  # of a process that knew another registry
    assert noted_revision(log) == 5
    note(log, 9, 1, anew=True)
    note(log, 7, 8)
    assert noted_revision(log) == 1


def test_however_often_it_changes_few_records_are_kept(log: Any) -> None:
    for revision in range(1, 30):
        note_registry(log, Known(7, revision))  # type: ignore[arg-type]
        seen = log.ends(REGISTRY)
        note_registry(log, Known(7, revision))  # type: ignore[arg-type]
        assert log.ends(REGISTRY) == seen  # what is noted is not written again
    [(first, _)] = log.ends(REGISTRY)
    assert len(log.read(REGISTRY, 0, first, 100)) < 3
    assert noted_revision(log) == 29


def test_what_was_noted_before_there_were_records_counts_until_there_is_one(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", SimulatedClock(0), map_gib=1)
    log.create(REGISTRY, 1)
    with log.transaction() as work:
        work.commit("identity", REGISTRY, 0, None, 7)
        work.commit("revision", REGISTRY, 0, None, 5)
    with pytest.raises(SteppedBack, match="at revision 4, before revision 5"):
        note_registry(log, Known(7, 4))  # type: ignore[arg-type]
    assert note_registry(log, Known(7, 5)) == 5  # type: ignore[arg-type]
    assert log.ends(REGISTRY) == [(0, 1)]
    log.close()


def test_a_note_of_a_newer_version_is_refused(log: Any) -> None:
    log.create(REGISTRY, 1)
    log.append(REGISTRY, 0, Batch(b'{"identity": 7, "format": 2}', "bytes", 1))
    with pytest.raises(LogError, match="does not read"):
        while registry_behind(log, Known(7, 4)) is None:  # type: ignore[arg-type]
            pass


def test_notes_that_are_trimmed_while_they_are_read_are_in_those_that_came_after(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_registry(log, Known(7, 3))  # type: ignore[arg-type]
    ends, others = log.ends, [4, 5]

    def overtaken(topic: str) -> list[tuple[int, int]]:
        """Where the log ends, just before another process notes a revision and trims what it has read."""
        found: list[tuple[int, int]] = ends(topic)
        if others:
            monkeypatch.setattr(log, "ends", ends)
            note_registry(log, Known(7, others.pop(0)))  # type: ignore[arg-type]
            monkeypatch.setattr(log, "ends", overtaken)
        return found

    monkeypatch.setattr(log, "ends", overtaken)
    assert noted_revision(log) == 5
    assert note_registry(log, Known(7, 6)) == 6  # type: ignore[arg-type]
    with pytest.raises(SteppedBack, match="before revision 6"):
        note_registry(log, Known(7, 5))  # type: ignore[arg-type]
