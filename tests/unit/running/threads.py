"""Layers that run in threads of a test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from millstream.running.layers import run_layer
from millstream.settings import Settings


@contextmanager
def layers(settings: Settings, *names: str) -> Iterator[None]:
    """Run layers of a project, and stop them at the end."""
    stop = threading.Event()
    threads = [threading.Thread(target=run_layer, args=(settings, name, stop)) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
