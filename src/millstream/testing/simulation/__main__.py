"""Many seeds at once: `python -m millstream.testing.simulation 10000`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from millstream.testing.simulation.seeds import simulated
from millstream.testing.simulation.shrink import shrink
from millstream.testing.simulation.simulate import Adversarial

SHOWN = 10
"""Failing seeds that are shrunk and shown whole; of the others, the number."""


def main() -> int:
    """Simulate seeds over all cores, say how far it is, and what failed; returns 1 when something did."""
    parser = argparse.ArgumentParser(prog="python -m millstream.testing.simulation", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=10_000, help="how many seeds (10,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument(
        "--adversarial", action="store_true", help="on a log with gaps and a store that writes in pieces"
    )
    parser.add_argument("--torn", action="store_true", help="on such a log whose transactions come apart as well")
    given = parser.parse_args()
    adversarial: Adversarial = "torn" if given.torn else given.adversarial
    began, broken = time.monotonic(), dict[int, str]()
    seeds = range(given.first, given.first + given.seeds)
    for done, (seed, error) in enumerate(simulated(seeds, given.workers, adversarial=adversarial), 1):
        if error is not None:
            broken[seed] = error
            print(f"\r{error}", flush=True)
        if done % 10 == 0 or done == given.seeds:
            print(f"\r{done:,} of {given.seeds:,} seeds, {len(broken)} failed", end="", flush=True)
    print(f"\rsimulated {given.seeds:,} seeds: {len(broken)} failed, in {time.monotonic() - began:,.0f} s")
    for seed in list(broken)[:SHOWN]:
        print(f"\n{shrink(seed, adversarial=adversarial) or broken[seed]}", flush=True)
    if broken:
        print(f"\nfailed: {', '.join(map(str, broken))}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
