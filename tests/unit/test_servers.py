"""A server that a machine lacks: its tests are left out with the reason, and fail where nothing may be left out."""

import pytest

from tests.conftest import absent


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_what_a_machine_lacks_is_said_and_never_left_out_silently(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"PostgreSQL is absent.*install it"):
        absent("PostgreSQL", "install it.")
