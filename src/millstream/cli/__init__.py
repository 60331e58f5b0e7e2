"""The `millstream` command: what `Project` does, from a terminal, in words or as JSON."""

from millstream.cli.app import main

__all__ = ["main"]
