"""Several processes compute one project: they share its partitions, and one that is killed is replaced by the others."""

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.commands import begin
from tests.end_to_end.running import until

import millstream as ms
from millstream.buffer.topics import COMPUTING
from millstream.running.starter import Process

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"id": "string", "user_id": "int64", "at": "timestamp"},
    deduplicate="id", partitions=4)  # fmt: skip
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count()])
view = ms.FeatureView("pace", features=[pace])


class Workers:
    """A project, and the processes that compute it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = ms.Project(folder, create=True)
        self.project.apply(view)
        self.project.drain()
        self.processes: list[Process] = []
        self.sent = 0

    def start(self) -> Process:
        process = begin("run", "compute", folder=self.folder)
        self.processes.append(process)
        return process

    def send(self, count: int) -> None:
        now = time.time_ns() // 1_000
        numbers = range(self.sent, self.sent + count)
        self.project.send("clicks", [{"id": str(n), "user_id": n % 5, "at": now} for n in numbers])
        self.sent += count

    def computed(self) -> bool:
        log = self.project.parts.log
        ends = [end for _, end in log.ends("clicks")]
        return all(log.committed(reader, "clicks") == ends for reader in ("compute/pace@1", "check"))

    def joined(self) -> int:
        return len(list((self.folder / ".millstream" / "log" / "workers").glob("*/*.worker")))

    def counts(self) -> list[int]:
        self.project.drain()
        found = self.project.features("pace", [{"user_id": n} for n in range(5)])
        return found[found.column_names[-1]].to_pylist()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    for process in workers.processes:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def test_what_a_killed_process_was_computing_is_computed_once_by_another(workers: Workers) -> None:
    killed, other = workers.start(), workers.start()
    until(lambda: workers.joined() == 2, "two workers have joined")
    for _ in range(5):
        workers.send(200)
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    workers.send(200)
    until(workers.computed, "everything is computed")
    assert other.poll() is None
    assert workers.counts() == [240] * 5


def test_a_process_takes_its_share_from_one_that_has_all_and_gives_it_back(workers: Workers) -> None:
    first = workers.start()
    workers.send(200)
    until(workers.computed, "one process computes everything")
    with closing(workers.project.parts.log.worker(COMPUTING, ["clicks"])) as second:
        owned = until(lambda: len(found := second.assigned().get("clicks", {})) == 2 and found, "a half has come")
        workers.send(200)
        committed, ends = (workers.project.parts.log.committed, workers.project.parts.log.ends("clicks"))
        others = [partition for partition in range(4) if partition not in owned]
        until(
            lambda: all(committed("check", "clicks")[at] == ends[at][1] for at in others), "the other half is computed"
        )
        assert all(committed("check", "clicks")[at] != ends[at][1] for at in owned)
    until(workers.computed, "what was given back is computed too")
    assert first.poll() is None
    assert workers.counts() == [80] * 5
