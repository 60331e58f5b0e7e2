"""Whether the hosts of a project agree on the time, as far as that matters: each stamps what it takes by its own clock."""

from __future__ import annotations

import socket

from millstream.clock import SystemClock
from millstream.errors import ProjectError
from millstream.project.parts import Parts

MOST = 60 * 1_000_000
"""Microseconds by which a host may be away from the registry's server; more is no drift, but a clock that nobody sets."""


def refuse_skew(parts: Parts) -> None:
    """Raise where this host's clock is far from that of the registry's server, by which all hosts can be compared.

    A registry in a file has no server, and a simulated clock is right by itself.

    Args:
        parts: the project.

    Raises:
        ProjectError: when they are more than a minute apart.
        StoreError: when the server cannot be asked.
    """
    presence, clock = parts.registry.presence, parts.clock
    if not presence.shared or not isinstance(clock, SystemClock):
        return
    ahead = presence.ahead(clock)
    if abs(ahead) > MOST:
        where = "ahead of" if ahead > 0 else "behind"
        raise ProjectError(
            f"Host '{socket.gethostname()}': its clock is {abs(ahead) / 1e6:,.0f} s {where} that of the registry's server, "
            "and what is taken here would be stamped by it.",
            "set the clock of that one of them which is wrong, by NTP, and start again.",
        )
