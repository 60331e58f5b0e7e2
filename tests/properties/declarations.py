"""Random declarations for the property test of whole projects: what a team may write, and what it may change later."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import millstream as ms
from millstream.testing.simulation.declared import QUERIES, Declared


def _allowed(window: Any) -> Any:
    """The window with what belongs to it alone."""
    over, delay, _ = window
    if over == "1m":
        return over, delay, None
    return (over, "0s", None) if isinstance(over, ms.Session) or "event" in (over or "") else window


windows = st.lists(
    st.tuples(
        st.sampled_from(["1m", "10m", "1h", "24h", None, "2 events", "5 events within 1h", ms.Session(gap="5m")]),
        st.sampled_from(["0s", "0s", "5m"]),
        st.sampled_from([None, None, "1m"]),
    ).map(lambda one: one if one[0] is not None or one[1] != "0s" else (None, "0s", None)),
    min_size=1, max_size=3, unique=True,
).map(lambda found: tuple(map(_allowed, found)))  # fmt: skip
wheres = st.sampled_from([None, None, "ok", "x > 0", "s <> 'DE'"])
ttls = st.sampled_from([None, None, "5m", "25m"])
declared = st.builds(
    Declared, windows, wheres, st.sampled_from(["x * 2", "x + 1"]), st.booleans(), st.booleans(), st.just(False),
    st.lists(st.tuples(st.sampled_from(list(QUERIES)), ttls), max_size=2, unique_by=lambda one: one[0]).map(tuple),
    st.booleans(), st.booleans(), st.sampled_from([2, 3]), st.booleans(),
)  # fmt: skip


@st.composite
def changes(draw: Any) -> dict[str, Any]:
    """What a team changes at once; columns that a model was trained on stay."""
    kind = draw(
        st.sampled_from(
            ["where", "derived", "factor", "deduplicate", "deduplicate", "extra", "window", "ttl", "nothing"]
        )
    )
    drawn = {"where": wheres, "derived": st.sampled_from(["x * 2", "x + 1", "x - 1"]),
             "factor": st.integers(2, 9), "deduplicate": st.booleans(), "extra": st.booleans(),
             "window": st.sampled_from(["10m", "1h", None]), "ttl": ttls}  # fmt: skip
    return {kind: draw(drawn[kind])} if kind in drawn else {}
