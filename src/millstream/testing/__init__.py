"""For tests, ours and yours: conformance suites for every protocol, generators of events, and the simulation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millstream.testing.simulation.simulate import simulate

__all__ = ["simulate"]


def __getattr__(name: str) -> Any:
    if name != "simulate":
        raise AttributeError(f"module 'millstream.testing' has no attribute {name!r}")
    from millstream.testing.simulation.simulate import simulate

    globals()[name] = simulate
    return simulate
