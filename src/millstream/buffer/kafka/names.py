"""What a project's topics and groups are called in a cluster that others use too.

Kafka takes no `@` in a topic's name, and no two names that differ in `.` and `_` alone. So a `.` of ours is a `-` there, and
an `@` is a `.`; what a project's names begin with holds neither.
"""

from __future__ import annotations

import re

from millstream.errors import LogError

LONGEST = 249
"""The most characters that a topic's name has in Kafka."""
_OURS = re.compile(r"[A-Za-z0-9_.@]+")


def topic_name(prefix: str, topic: str) -> str:
    """What a topic is called in Kafka.

    Args:
        prefix: what all names of the project begin with.
        topic: the topic, as Millstream calls it.

    Raises:
        LogError: when Kafka takes no such name.

    Example:
        >>> topic_name("fraud", "features.user_habits@1")
        'fraud-features-user_habits.1'
    """
    name = f"{prefix}-{topic.replace('.', '-').replace('@', '.')}"
    if not _OURS.fullmatch(topic) or len(name) > LONGEST:
        raise LogError(
            f"Topic '{topic}' cannot be one of Kafka's: '{name}' has {len(name)} characters.",
            f"name it by at most {LONGEST} letters, digits, '_', '.' and '@', the prefix included.",
        )
    return name


def topic_of(prefix: str, name: str) -> str | None:
    """Which topic is called so in Kafka; None where it is not the project's.

    Args:
        prefix: what all names of the project begin with.
        name: a topic's name in Kafka.

    Example:
        >>> topic_of("fraud", "fraud-features-user_habits.1"), topic_of("fraud", "fraud.epochs")
        ('features.user_habits@1', None)
    """
    own = f"{prefix}-"
    return name.removeprefix(own).replace(".", "@").replace("-", ".") if name.startswith(own) else None


def positions_topic(prefix: str) -> str:
    """The topic of Kafka's in which consumers say how far they are.

    >>> positions_topic("fraud")
    'fraud.positions'
    """
    return f"{prefix}.positions"


def workers_group(prefix: str, group: str) -> str:
    """The group of Kafka's whose members are a group of workers.

    >>> workers_group("fraud", "compute")
    'fraud.workers.compute'
    """
    return f"{prefix}.workers.{group}"


def epochs_topic(prefix: str) -> str:
    """The topic of Kafka's in which workers say what they have come to own; the place of each record is an epoch.

    >>> epochs_topic("fraud")
    'fraud.epochs'
    """
    return f"{prefix}.epochs"
