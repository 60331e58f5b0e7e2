"""Every name in the log and in the offline store: of topics, of the consumers that read them, and of tables."""

from __future__ import annotations

ARCHIVE = "archive"
"""The consumer that reads what is archived."""
CHECK = "check"
"""The consumer that reads streams which no group version reads, so that what does not fit is a dead letter."""
DEAD, CAPTURES = "dead.", "captures."
"""What the topics of dead letters, and those of captures, begin with."""


def feature_topic(version: str) -> str:
    """The topic that holds the deltas of a group version.

    >>> feature_topic("habits@1")
    'features.habits@1'
    """
    return f"features.{version}"


def staging_topic(version: str) -> str:
    """The topic, of one partition, that holds the runs of a batch group version.

    >>> staging_topic("kyc@1")
    'staging.kyc@1'
    """
    return f"staging.{version}"


def dead_topic(source: str) -> str:
    """The topic, and the table, of the dead letters of a stream or table.

    >>> dead_topic("payments")
    'dead.payments'
    """
    return f"{DEAD}{source}"


def capture_topic(model: str) -> str:
    """The topic, and the table, of a model's captures.

    >>> capture_topic("fraud")
    'captures.fraud'
    """
    return f"{CAPTURES}{model}"


def computing_consumer(version: str) -> str:
    """The consumer whose positions say what a group version has computed.

    >>> computing_consumer("habits@1")
    'compute/habits@1'
    """
    return f"compute/{version}"


def ingestion_consumer(version: str) -> str:
    """The consumer whose positions say what of a group version has been ingested.

    >>> ingestion_consumer("habits@1")
    'ingest/habits@1'
    """
    return f"ingest/{version}"


def batch_consumer(version: str) -> str:
    """The consumer whose position, the end of the last scheduled interval that ran (µs), is where the next begins.

    >>> batch_consumer("kyc@1")
    'batch/kyc@1'
    """
    return f"batch/{version}"


def start_consumer(version: str) -> str:
    """The consumer whose positions are the start markers of a group version; they never move.

    >>> start_consumer("habits@1")
    'start/habits@1'
    """
    return f"start/{version}"


def goal_consumer(version: str) -> str:
    """The consumer whose positions say how far a build of a group version folds history.

    >>> goal_consumer("habits@1")
    'goal/habits@1'
    """
    return f"goal/{version}"


def backfill_consumer(version: str) -> str:
    """The consumer whose position counts the attempts to fold history for a group version.

    >>> backfill_consumer("habits@1")
    'backfill/habits@1'
    """
    return f"backfill/{version}"


def letters_consumer(version: str) -> str:
    """The consumer whose positions are those of the last events of history whose dead letters backfill has written.

    >>> letters_consumer("habits@1")
    'last-letter/habits@1'
    """
    return f"last-letter/{version}"


def event_table(stream: str) -> str:
    """The offline table that holds a stream's archived events.

    >>> event_table("payments")
    'events.payments'
    """
    return f"events.{stream}"


def refused_table(stream: str) -> str:
    """The offline table of what a stream's archive could not take as the stream was declared then.

    >>> refused_table("payments")
    'refused.payments'
    """
    return f"refused.{stream}"


def feature_table(version: str) -> str:
    """The offline table of a stream group version's values.

    >>> feature_table("habits@1")
    'features.habits@1'
    """
    return f"features.{version}"


def batch_table(version: str) -> str:
    """The offline table of a batch group version's rows.

    >>> batch_table("kyc@1")
    'batch.kyc@1'
    """
    return f"batch.{version}"
