"""Ports of the loopback at which nobody listens."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def free_ports(number: int, *, above: int = 0) -> list[int]:
    """Ports that nobody listens at, no two the same.

    Args:
        number: how many.
        above: nobody listens so far above each of them either; 0 for those who use no other.
    """
    found: list[int] = []
    while len(found) < number:
        port = free_port()
        if port not in found and port + above < 65_536 and _free(port + above):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
