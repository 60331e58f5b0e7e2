"""Every name of topics, of the consumers that read them, of marks, and of tables."""

from __future__ import annotations

ARCHIVE = "archive"
"""The consumer that reads what is archived."""
COMPUTING = "compute"
"""The group of workers that share the partitions of the streams."""
INGESTION = "ingest"
"""The group of workers that share the shards of group versions, and the runs that wait in staging topics."""
CHECK = "check"
"""The consumer that reads streams which no group version reads, so that what does not fit is a dead letter."""
REGISTRY = "marks.registry"
"""The topic, of one partition, whose records say which registry the log has followed, and up to which revision."""
INTAKE = "intake"
"""The group of workers that share the foreign sources, and the consumer whose position in a stream's topic of checkpoints
says how far its source was taken in."""
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


def intake_topic(stream: str) -> str:
    """The topic, of one partition, that says how far the foreign source of a stream has been taken in.

    >>> intake_topic("payments")
    'intake.payments'
    """
    return f"intake.{stream}"


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


def start_mark(version: str) -> str:
    """The mark that says from where on a group version is computed; it never moves.

    >>> start_mark("habits@1")
    'start/habits@1'
    """
    return f"start/{version}"


def goal_mark(version: str) -> str:
    """The mark that says how far the states of a group version must be before it is read.

    >>> goal_mark("habits@1")
    'goal/habits@1'
    """
    return f"goal/{version}"


def attempts_mark(version: str) -> str:
    """The mark that counts the attempts to fold history for a group version.

    >>> attempts_mark("habits@1")
    'backfill/habits@1'
    """
    return f"backfill/{version}"


def letters_mark(version: str) -> str:
    """The mark that says of which events of history backfill has written the dead letters.

    >>> letters_mark("habits@1")
    'letters/habits@1'
    """
    return f"letters/{version}"


def schedule_mark(version: str) -> str:
    """The mark that says which scheduled interval of a batch group version was the last one to run.

    >>> schedule_mark("kyc@1")
    'batch/kyc@1'
    """
    return f"batch/{version}"


def late_mark(version: str) -> str:
    """The mark that says by how many rows tables differ from what a batch group version has taken of them.

    >>> late_mark("habits@1")
    'late/habits@1'
    """
    return f"late/{version}"


def moved_mark(stream: str) -> str:
    """The mark that says where the partitions of a stream have begun in a log that took the place of another one.

    >>> moved_mark("payments")
    'moved/payments'
    """
    return f"moved/{stream}"


def left_mark(stream: str) -> str:
    """The mark that says where the partitions of a stream ended in the log that another one took the place of.

    >>> left_mark("payments")
    'left/payments'
    """
    return f"left/{stream}"


def version_marks(version: str) -> list[str]:
    """All marks that a group version may have.

    >>> version_marks("kyc@1")
    ['start/kyc@1', 'goal/kyc@1', 'backfill/kyc@1', 'letters/kyc@1', 'batch/kyc@1', 'late/kyc@1']
    """
    names = (start_mark, goal_mark, attempts_mark, letters_mark, schedule_mark, late_mark)
    return [name(version) for name in names]


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
