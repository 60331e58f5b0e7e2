"""A year of real flights through the whole pipeline, in simulated time."""

from millstream.demos.flights.run import run

__all__ = ["run"]
