"""The demos: flights on real data, fraud on the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millstream.cli.output import AsJson

app = typer.Typer(help="Run a demo; it keeps its project.", no_args_is_help=True)

Target = Annotated[Path, typer.Option("--project", "-C", metavar="FOLDER", help="Where the demo's project is made.")]


@app.command()
def flights(
    folder: Target = Path("millstream-demo/flights"),
    months: Annotated[int, typer.Option(min=1, max=6, help="How many months, from July, are run.")] = 6,
    servers: Annotated[
        bool, typer.Option("--servers", help="Keep everything in Kafka, Redis, PostgreSQL and S3, which are started.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A year of real flights: will this one arrive late?"""
    from millstream.demos.flights import run

    run(folder, months=months, json=as_json, servers=servers)


@app.command()
def fraud(
    folder: Target = Path("millstream-demo/fraud"),
    days: Annotated[int, typer.Option(min=1, max=60, help="How many days run through the pipeline.")] = 7,
    users: Annotated[int, typer.Option(min=50, help="How many users pay.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Fixes the simulated world.")] = 1,
    as_json: AsJson = False,
) -> None:
    """The project of `init`, in simulated time."""
    from millstream.demos.fraud import run

    run(folder, days=days, users=users, seed=seed, as_json=as_json)
