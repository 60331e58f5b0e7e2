"""Writing again what a log may lose."""

import pytest

from millstream.buffer.writing import PATIENCE, until_there
from millstream.errors import LogError


def test_what_is_lost_is_written_again_until_it_is_there() -> None:
    answers = iter([False, False, True])
    until_there(lambda: next(answers), "clicks")
    assert next(answers, None) is None


def test_a_log_that_takes_nothing_is_named_and_not_written_to_for_ever() -> None:
    tries: list[int] = []
    with pytest.raises(LogError, match="Topic 'clicks'"):
        until_there(lambda: bool(tries.append(1)), "clicks")
    assert len(tries) == PATIENCE
