"""`python -m benchmarks [names] [--json] [--quick]`: measure the claims and print each beside its peer."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module

from rich.console import Console
from rich.table import Table

from benchmarks.harness import FULL, QUICK, Claim, Scale

#: Each is a module with `run(scale)`, which yields claims; the first paragraph of its text says what is compared.
NAMES = (
    "log_append",
    "log_read",
    "online_read",
    "point_in_time",
    "point_in_time_aggregates",
    "stream_computing",
    "many_groups",
    "sketch_computing",
    "estimate_errors",
    "kafka_computing",
    "empty_records",
    "ingestion",
    "redis_store",
    "s3_archive",
    "freshness",
    "batch_ingestion",
    "sync_growth",
    "state",
    "proof_memory",
    "history_memory",
    "memory",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks, or all, and print the claims; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the claims, each beside a peer.")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, to see that it works")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in NAMES]:
        parser.error(f"no benchmark is called '{unknown[0]}'; there are {', '.join(NAMES)}")
    found = _measure(given.names or list(NAMES), QUICK if given.quick else FULL, quiet=given.json)
    if given.json:
        print(json.dumps(_report(found), indent=2))
    return 1 if any(claim.holds is False for claims in found.values() for claim in claims) else 0


def _measure(names: list[str], scale: Scale, quiet: bool) -> dict[str, list[Claim]]:
    console, found = Console(stderr=quiet), dict[str, list[Claim]]()
    for name in names:
        module = import_module(f"benchmarks.{name}")
        console.print(f"\n[bold]{name}[/bold]  {str(module.__doc__).partition(chr(10))[0]}")
        found[name] = list(module.run(scale))
        if not quiet:
            console.print(_table(found[name]))
    return found


def _table(claims: list[Claim]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("measured", "ours", "peer", "unit", "ratio (lowest-highest)", "target", "", "beside"):
        table.add_column(name, justify="right" if name in ("ours", "peer") else "left")
    for claim in claims:
        table.add_row(*_cells(claim))
    return table


def _cells(claim: Claim) -> list[str]:
    peer, ratio, ratios = claim.peer_median, claim.ratio, claim.ratios
    held = {True: "[green]holds[/green]", False: "[red]missed[/red]", None: ""}[claim.holds]
    return [
        claim.name,
        _number(claim.median),
        "" if peer is None else _number(peer),
        claim.unit,
        "" if ratio is None else f"{ratio:.2f}x ({min(ratios):.2f}-{max(ratios):.2f})",
        "" if claim.target is None else f">= {claim.target:.2g}x",
        held,
        " · ".join(part for part in (claim.peer, claim.note) if part),
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _report(found: dict[str, list[Claim]]) -> dict[str, object]:
    claims = {name: [claim.facts() for claim in some] for name, some in found.items()}
    return {"cores": os.cpu_count(), "load": os.getloadavg()[0], "claims": claims}


if __name__ == "__main__":
    sys.exit(main())
