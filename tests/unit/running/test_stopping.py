"""A process that is told to stop stops, however often it is told at once."""

import signal
import subprocess
import sys

PROGRAM = """
import threading
from millstream.running.stopping import stopping_on_signals
stop = threading.Event()
with stopping_on_signals(stop):
    print("ready", flush=True)
    while not stop.wait(0.0005):
        pass
print("stopped", flush=True)
"""


def test_many_signals_at_once_stop_it_once():
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in [signal.SIGTERM, signal.SIGINT] * 20:
            process.send_signal(number)
        assert process.communicate(timeout=20)[0] == "stopped\n"
