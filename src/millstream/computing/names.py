"""What computing's topics and consumers are called in the log."""

from __future__ import annotations


def feature_topic(version: str) -> str:
    """The topic that holds the deltas of a group version.

    >>> feature_topic("habits@1")
    'features.habits@1'
    """
    return f"features.{version}"


def computing_consumer(version: str) -> str:
    """The consumer whose positions say what a group version has computed.

    >>> computing_consumer("habits@1")
    'compute/habits@1'
    """
    return f"compute/{version}"


def start_consumer(version: str) -> str:
    """The consumer whose positions are the start markers of a group version; they never move.

    >>> start_consumer("habits@1")
    'start/habits@1'
    """
    return f"start/{version}"


def dead_topic(stream: str) -> str:
    """The topic of a stream's dead letters.

    >>> dead_topic("payments")
    'dead.payments'
    """
    return f"dead.{stream}"
