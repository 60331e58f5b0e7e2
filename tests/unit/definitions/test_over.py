"""Windows of events and sessions, as they are written."""

from __future__ import annotations

import pytest

import millstream as ms
from millstream.definitions.serialise import fingerprint, from_dict, to_dict
from millstream.errors import DefinitionError, MillstreamError

STREAM = ms.EventStream("s", time="at", schema={"k": "int64", "x": "float64", "at": "timestamp"})
OTHER = ms.EventStream("o", time="at", schema={"k": "int64", "x": "float64", "at": "timestamp"})
USER = ms.Entity("user", keys={"k": "int64"})


def group(*features: ms.Sum, source: object = STREAM) -> ms.StreamFeatureGroup:
    """A group of the features."""
    return ms.StreamFeatureGroup("g", entity=USER, source=source, features=features)


def test_a_window_ends_the_columns_name() -> None:
    over = ["20 events", "1 event", "20 events within 24h", ms.Session(gap="30m"), "1h", None]
    names = group(ms.Sum("x", over=over)).feature_names
    assert names == (
        "x_sum_20_events",
        "x_sum_1_event",
        "x_sum_20_events_within_24h",
        "x_sum_session_30m",
        "x_sum_1h",
        "x_sum",
    )


def test_what_is_written_down_comes_back() -> None:
    one = group(ms.Sum("x", over=["20 events within 24h", ms.Session(gap="30m", late="1h")]))
    again = from_dict(to_dict(one))
    assert again == one and fingerprint(again) == fingerprint(one)
    assert fingerprint(group(ms.Sum("x", over=ms.Session(gap="30m", late="2h")))) != fingerprint(
        group(ms.Sum("x", over=ms.Session(gap="30m", late="1h")))
    )


@pytest.mark.parametrize(
    "over",
    ["0 events", "1001 events", "20 event s", "-1 events", "20events", "20 rows", "20 events within", "20 events within 0s",
     "20 events within 24", "events", "20 EVENTS", "20 events within 24h "],
)  # fmt: skip
def test_what_is_no_window_is_one_clear_error(over: str) -> None:
    with pytest.raises(MillstreamError) as error:
        ms.Sum("x", over=over)
    assert "over" in str(error.value) and "Hint" in str(error.value)


@pytest.mark.parametrize("over", ["20 events", "20 events within 24h", ms.Session(gap="30m")])
def test_a_delay_belongs_to_windows_of_time(over: object) -> None:
    with pytest.raises(DefinitionError, match="LastK"):
        ms.Sum("x", over=over, delay="1h")


def test_a_hop_moves_the_tail_of_within_alone() -> None:
    for over in ("20 events", ms.Session(gap="30m")):
        with pytest.raises(DefinitionError, match="hop"):
            ms.Sum("x", over=over, hop="1h")
    (feature,) = group(ms.Sum("x", over="20 events within 24h", hop="1h")).columns
    assert (feature.rows, feature.window, feature.hop) == (20, 86_400_000_000, 3_600_000_000)
    (feature,) = group(ms.Sum("x", over="20 events within 24h")).columns
    assert feature.hop == 15 * 60_000_000


def test_a_session_has_a_gap_and_one_stream() -> None:
    with pytest.raises(DefinitionError, match="gap"):
        ms.Session(gap="0s")
    with pytest.raises(MillstreamError, match="gap"):
        ms.Session()  # type: ignore[call-arg]
    with pytest.raises(MillstreamError, match="late"):
        ms.Session(gap="1m", late="-1s")
    with pytest.raises(DefinitionError, match="one stream"):
        group(ms.Sum("x", over=ms.Session(gap="1m")), source=[STREAM, OTHER])
    group(ms.Sum("x", over="20 events"), source=[STREAM, OTHER])


def test_a_rate_is_of_a_time() -> None:
    for over in ("20 events", "20 events within 24h", ms.Session(gap="30m")):
        with pytest.raises(DefinitionError, match="Rate"):
            ms.Rate(per="1h", over=over)


def test_ratios_take_windows_of_events() -> None:
    both = ms.Ratio(ms.Mean("x", over="20 events"), ms.Mean("x", over=ms.Session(gap="30m")), name="pace")
    assert group(both).feature_names == ("pace",)
