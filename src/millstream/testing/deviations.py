"""What an implementation of a protocol does not do, declared where its conformance suite is run."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

Errors = type[BaseException] | tuple[type[BaseException], ...]


class Declared:
    """A conformance suite whose subclasses may declare that a test fails, how, and why.

    A declared test is a strict expected failure: it must fail, and in no other way. So a deviation that is there no
    more turns red, and is taken away.

    Example:
        >>> class Suite(Declared):
        ...     def test_it_adds(self) -> None:
        ...         assert 1 + 1 == 2
        >>> class TestMine(Suite):
        ...     deviations = {"test_it_adds": (AssertionError, "it does not add yet")}
        >>> [mark.kwargs["reason"] for mark in TestMine.test_it_adds.pytestmark]
        ['it does not add yet']
    """

    deviations: ClassVar[Mapping[str, tuple[Errors, str]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, (error, reason) in cls.deviations.items():
            test = getattr(cls, name)
            own = types.FunctionType(test.__code__, test.__globals__, name, test.__defaults__, test.__closure__)
            own.__dict__.update({**test.__dict__, "pytestmark": list(getattr(test, "pytestmark", []))})
            own.__kwdefaults__, own.__annotations__ = test.__kwdefaults__, test.__annotations__
            marked = pytest.mark.xfail(strict=True, raises=error, reason=reason)(own)
            setattr(cls, name, marked)
