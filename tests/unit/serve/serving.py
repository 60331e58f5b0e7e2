"""A serving process over a folder filled by a test: it prints its port."""

import signal
import threading
from pathlib import Path

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SystemClock
from millstream.registry.definitions import Registry
from millstream.serve.server import Service, listen, run
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.train.versions import ModelVersions


def main(folder: Path) -> None:
    clock = SystemClock()
    url = f"sqlite:///{folder}/registry.db"
    listener = listen("127.0.0.1", 0)
    service = Service(
        "shop",
        folder,
        log=EmbeddedLog(folder / "log", clock, map_gib=1),
        online=LmdbOnlineStore(folder / "online"),
        registry=Registry(url),
        versions=ModelVersions(url, folder / "models", clock),
        clock=clock,
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print(listener.getsockname()[1], flush=True)
    run(service, listener, stop)
