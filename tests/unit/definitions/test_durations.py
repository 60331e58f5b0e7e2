from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.definitions.durations import micros, text
from millstream.errors import DefinitionError


@pytest.mark.parametrize(
    ("written", "us"),
    [
        ("500ms", 500_000), ("90s", 90_000_000), ("5m", 300_000_000), ("1h", 3_600_000_000),
        ("30d", 2_592_000_000_000), ("1w", 604_800_000_000), (timedelta(minutes=5), 300_000_000),
    ],
)  # fmt: skip
def test_every_way_of_writing_a_duration(written, us):
    assert micros(written) == us


@pytest.mark.parametrize(
    "wrong",
    [
        "5",
        "5 minutes",
        "m5",
        "1h30m",
        "",
        "-1s",
        -1,
        7,
        3600,
        b"24h",
        1.5,
        None,
        True,
        "99999999d",
        "9" * 50 + "us",
        "²s",
    ],
)
def test_what_is_no_duration_is_refused_with_examples(wrong):
    with pytest.raises(DefinitionError, match="expected a duration") as raised:
        micros(wrong, "Count", "over")
    assert str(raised.value).startswith("Count: over")
    assert '"5m"' in raised.value.hint


@given(st.integers(0, 10**15))
def test_text_reads_back(us):
    assert micros(text(us)) == us


def test_text_is_as_short_as_can_be():
    assert [text(us) for us in (3_600_000_000, 86_400_000_000, 90_000_000, 1)] == ["1h", "1d", "90s", "1us"]
