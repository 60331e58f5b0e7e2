"""Stopping on signals, however many arrive at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(stop: threading.Event) -> dict[int, object]:
    """Set the event on SIGTERM and Ctrl-C; returns the handlers that were there.

    A handler runs in the middle of whatever the main thread does, waiting on this very event perhaps, or setting it
    for the signal before. Either holds the event's lock, so a thread of its own sets it.
    """

    def asked(*_: object) -> None:
        threading.Thread(target=stop.set, daemon=True).start()

    return {number: signal.signal(number, asked) for number in NUMBERS}


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set the event on signals for as long as the block runs; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = stop_on_signals(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
