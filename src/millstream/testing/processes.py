"""How the conformance suites begin processes of their own."""

from __future__ import annotations

import multiprocessing
import sys

if sys.platform == "win32":
    PROCESSES = multiprocessing.get_context("spawn")
else:
    PROCESSES = multiprocessing.get_context("forkserver")  # which has opened nothing, and begins at once
