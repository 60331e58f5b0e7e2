"""A Kafka server, of the jars that `make servers` has put into the environment."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from millstream.errors import ServerError
from millstream.testing.servers.ports import free_ports
from millstream.testing.servers.server import PATIENCE, Server

JARS = Path(sys.prefix) / "servers" / "kafka"
#: Little memory, and no compiler that takes both cores for seconds.
FAST = ["-Xms64m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
USER, PASSWORD = "miller", "grist-7"
CLUSTER = "MkU3OEVBNTcwNTJENDM2Qk"
STARTED = b"Kafka Server started"
#: Nothing is waited for longer than on a machine that tests: a member that is gone, a server that was killed.
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=BROKER://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded},BEHIND://127.0.0.1:{behind},\
  CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BROKER://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded},BEHIND://127.0.0.1:{proxied}
listener.security.protocol.map=BROKER:PLAINTEXT,GUARDED:SASL_PLAINTEXT,BEHIND:PLAINTEXT,CONTROLLER:PLAINTEXT
listener.name.guarded.sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
  user_{user}="{password}";
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
initial.broker.registration.timeout.ms=600000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
log.retention.check.interval.ms=1000
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.io.buffer.size=131072
num.network.threads=2
num.io.threads=4
"""
LOGGING = """
Configuration: {Appenders: {Console: {name: C, PatternLayout: {pattern: "%d %p %c{1} %m%n"}}},
  Loggers: {Root: {level: INFO, AppenderRef: {ref: C}}}}
"""


class Kafka(Server):
    """A server of one broker, whose topics outlive a kill; each of `prefix` is a new one.

    At the port `guarded` it lets in nobody but `USER` with `PASSWORD`. At `behind` it tells clients to go to `proxied`, where
    a proxy may stand.
    """

    name = "Kafka"

    def __init__(self) -> None:
        super().__init__()
        self.guarded = self.behind = self.proxied = 0
        self._numbers, self._seen = count(), 0

    @classmethod
    def lacking(cls) -> str | None:
        """What this machine lacks for the server; see `Server`."""
        if find_spec("confluent_kafka") is None:
            return "`make servers` installs the package confluent-kafka, or `pip install 'millstream[servers]'`."
        if shutil.which("java") is None:
            return "a Java runtime (17 or newer) must be on the path; `make servers` then lets Maven bring the rest."
        return None if _jar() else "`make servers` lets Maven bring its jars."

    @classmethod
    def version(cls) -> str:
        """The version of the jars."""
        jar = _jar()
        return jar.stem.rpartition("-")[2] if jar else ""

    @property
    def servers(self) -> str:
        """Where it is, as clients are told."""
        return f"127.0.0.1:{self.port}"

    def prefix(self) -> str:
        """What no topic's name begins with yet."""
        return f"p{next(self._numbers)}"

    def _make(self) -> None:
        super()._make()
        (self.folder / "log4j2.yaml").write_text(LOGGING)
        self._settle()
        formatted = self.run(
            self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(self._properties))
        )
        if formatted.wait(PATIENCE) != 0:
            raise ServerError.silent(self.name, self.said())

    def _settle(self) -> None:
        """Choose ports, and write down all that the server is told."""
        self.port, self.guarded, self.behind, self.proxied, controller = free_ports(5)
        places = {"port": self.port, "guarded": self.guarded, "behind": self.behind, "proxied": self.proxied}
        data = self.folder / "data"
        filled = PROPERTIES.format(**places, controller=controller, data=data, user=USER, password=PASSWORD)
        self._properties.write_text(filled)

    def _command(self) -> list[str]:
        if not self._answered:
            self._settle()
        self._seen = self.output.stat().st_size
        return self._java("kafka.Kafka", str(self._properties))

    def _answers(self) -> bool:
        return STARTED in self.output.read_bytes()[self._seen :]

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.yaml'}"
        jars = ":".join(map(str, sorted(JARS.glob("*.jar"))))
        return ["java", *FAST, logging, "-cp", jars, *arguments]


def _jar() -> Path | None:
    return next(JARS.glob("kafka_*.jar"), None)
