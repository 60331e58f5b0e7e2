"""Going on with a registry that is older than the log and the stores, or another one.

What it does not know stays unknown: the states that the stores hold of such group versions are dropped, and their
numbers are not given again, so that nothing is ever read as what it is not. What it does know is built anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from millstream.history.registered import note_registry, noted_revision

if TYPE_CHECKING:
    from millstream.project.parts import Parts

_VERSION = re.compile(r"(?:(features|staging|batch)\.)?([^.@]+@(\d+))(?:\.\d+)?")


def go_on(parts: Parts) -> list[str]:
    """Let the registry that there is be the one that is gone by from now on.

    Args:
        parts: the project; nothing else may run on it meanwhile.

    Returns:
        The group versions that it does not know, and whose states were dropped.
    """
    from millstream.buffer.topics import feature_table, feature_topic
    from millstream.definitions.feature_group import StreamFeatureGroup
    from millstream.store.online import Examined

    registry, topics = parts.registry, parts.log.topics()
    known = {one.id for one in (*registry.groups("retired"), *registry.groups())}
    states = parts.online.states() if isinstance(parts.online, Examined) else []
    tables = parts.offline.tables()
    found = [match for name in (*topics, *tables, *states) if (match := _VERSION.fullmatch(name))]
    unknown = sorted({match[2] for match in found} - known)
    registry.go_on(noted_revision(parts.log), max((int(match[3]) for match in found), default=0))
    for gv in unknown:
        for name in (name for name in states if name == gv or name.startswith(f"{gv}.")):
            parts.online.drop(name)
        parts.log.drop(feature_topic(gv))
        if feature_table(gv) in tables:
            parts.offline.drop(feature_table(gv))
    for version in registry.groups():
        if isinstance(version.group, StreamFeatureGroup) and feature_topic(version.id) not in topics:
            registry.set_state(version.id, "new")  # it was dropped since
    note_registry(parts.log, registry, anew=True)
    return unknown
