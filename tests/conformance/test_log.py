"""Every log passes the suite."""

from pathlib import Path

import pytest

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SimulatedClock
from millstream.testing.adversarial_log import AdversarialLog
from millstream.testing.log_suite import NOT_ATOMIC, LogConformance
from millstream.testing.servers.kafka import Kafka


class TestEmbeddedLog(LogConformance):
    of = ("log and worker", "embedded")

    @pytest.fixture
    def log(self, tmp_path: Path, clock: SimulatedClock):
        log = EmbeddedLog(tmp_path / "log", clock, map_gib=1, lease=1.0)
        yield log
        log.close()

    @pytest.fixture
    def opening(self, tmp_path: Path) -> str:
        return (
            "from millstream.buffer.embedded.log import EmbeddedLog\n"
            "from millstream.clock import SystemClock\n"
            f"log = EmbeddedLog({str(tmp_path / 'log')!r}, SystemClock(), map_gib=1, lease=1.0)\n"
        )


class TestAdversarialLog(LogConformance):
    @pytest.fixture(params=[1, 2, 3])
    def log(self, tmp_path: Path, clock: SimulatedClock, request: pytest.FixtureRequest):
        log = AdversarialLog(EmbeddedLog(tmp_path / "log", clock, map_gib=1, lease=1.0), request.param)
        yield log
        log.close()

    @pytest.fixture
    def opening(self, tmp_path: Path) -> str:
        return (
            "from millstream.buffer.embedded.log import EmbeddedLog\n"
            "from millstream.clock import SystemClock\n"
            "from millstream.testing.adversarial_log import AdversarialLog\n"
            f"log = AdversarialLog(EmbeddedLog({str(tmp_path / 'log')!r}, SystemClock(), map_gib=1, lease=1.0), seed=9)\n"
        )


class TestLogWhoseTransactionsComeApart(LogConformance):
    deviations = NOT_ATOMIC

    @pytest.fixture
    def log(self, tmp_path: Path, clock: SimulatedClock):
        log = AdversarialLog(EmbeddedLog(tmp_path / "log", clock, map_gib=1, lease=1.0), seed=2, atomic=False, torn=0.3)
        yield log
        log.close()

    @pytest.fixture
    def opening(self, tmp_path: Path) -> str:
        opened = f"EmbeddedLog({str(tmp_path / 'log')!r}, SystemClock(), map_gib=1, lease=1.0)"
        return (
            "from millstream.buffer.embedded.log import EmbeddedLog\n"
            "from millstream.clock import SystemClock\n"
            "from millstream.testing.adversarial_log import AdversarialLog\n"
            f"log = AdversarialLog({opened}, seed=9, atomic=False, torn=0.7)\n"
        )


class TestKafkaLog(LogConformance):
    """The other processes lose every other commit, as Kafka may, so that what rests on commits fails each time."""

    of = ("log and worker", "Kafka")
    deviations = NOT_ATOMIC

    @pytest.fixture
    def prefix(self, kafka: Kafka) -> str:
        return kafka.prefix()

    @pytest.fixture
    def log(self, kafka: Kafka, prefix: str, clock: SimulatedClock):
        from millstream.buffer.kafka.log import KafkaLog

        log = KafkaLog(kafka.servers, prefix, clock, seconds=60.0, session=2.0)
        yield log
        log.close()

    @pytest.fixture
    def opening(self, kafka: Kafka, prefix: str) -> str:
        return (
            "from itertools import count\n"
            "from millstream.buffer.kafka.positions import Committed\n"
            "from millstream.buffer.kafka.log import KafkaLog\n"
            "from millstream.clock import SystemClock\n"
            "commit, number = Committed.commit, count()\n"
            "Committed.commit = lambda *moves: commit(*moves) if next(number) % 2 else None\n"
            f"log = KafkaLog({kafka.servers!r}, {prefix!r}, SystemClock(), seconds=60.0, session=2.0)\n"
        )
