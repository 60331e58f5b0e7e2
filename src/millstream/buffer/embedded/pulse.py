"""The signs of life of this process's workers: a number in a locked file of each, which grows while the process runs.

A thread beats for all of them, so that one that folds a large batch, or compiles for a minute, is not taken for one that
stands still. It stops for a worker that has not asked for very long: its thread may wait for something for ever.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from contextlib import suppress

BEAT = struct.Struct("<q")
EVERY = 0.2
"""Seconds between two beats of the thread, at the most; a shorter lease has it beat three times in it."""


class Pulse:
    """The beat of one worker, and the file whose lock says that its process is there.

    Args:
        file: the descriptor of the file, locked; it is closed with this.
        lease: seconds in which others want to see a beat.
        patience: seconds for which the thread beats on for a worker that has not said itself that it is alive.
    """

    def __init__(self, file: int, lease: float, patience: float) -> None:
        self._file, self._patience = file, patience
        self.every = min(EVERY, lease / 3)
        self._number, self._asked = 0, time.monotonic()
        self._guard = threading.RLock()  # a finaliser may close this while the same thread is in here
        _beaters.add(self)

    def beat(self) -> None:
        """Show that the worker is alive; called by itself."""
        self._asked = time.monotonic()
        self._write()

    def go_on(self) -> None:
        """Show that its process is alive, while the worker is busy."""
        if time.monotonic() - self._asked < self._patience:
            self._write()

    def close(self) -> None:
        """Stop, and let go of the lock."""
        _beaters.remove(self)
        with self._guard:
            file, self._file = self._file, -1
            if file >= 0:
                os.close(file)

    def leave(self) -> None:
        """In a child process: let go of the descriptor, for a lock lasts as long as anybody has one of it."""
        self._guard = threading.RLock()
        with suppress(OSError):
            os.close(self._file)
        self._file = -1

    def _write(self) -> None:
        with self._guard:
            if self._file >= 0:
                self._number += 1
                with suppress(OSError):  # a disk that fails is said by the log
                    os.pwrite(self._file, BEAT.pack(self._number), 0)


class _Beaters:
    """The thread that beats for all workers of this process, as long as there are any."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._pulses: set[Pulse] = set()
        self._thread: threading.Thread | None = None

    def add(self, pulse: Pulse) -> None:
        with self._guard:
            self._pulses.add(pulse)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="workers-alive", daemon=True)
                self._thread.start()

    def remove(self, pulse: Pulse) -> None:
        with self._guard:
            self._pulses.discard(pulse)

    def leave(self) -> None:
        """In a child process: the workers, and the thread, are those of the parent."""
        self._guard, self._thread = threading.RLock(), None
        while self._pulses:
            self._pulses.pop().leave()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._guard:
                pulses = list(self._pulses)
                if not pulses:
                    self._thread = None
                    return
            for pulse in pulses:
                pulse.go_on()
            pause.wait(min(pulse.every for pulse in pulses))


_beaters = _Beaters()
os.register_at_fork(after_in_child=_beaters.leave)
