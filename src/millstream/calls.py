"""Calls of public functions: what they were given, said as one error of Millstream's own when it cannot be meant."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from millstream.errors import DefinitionError, MillstreamError, nearest

T = TypeVar("T", bound=type)
F = TypeVar("F", bound=Callable[..., Any])


def checked_class(built: T) -> T:
    """Decorate a definition: whatever its constructor cannot read becomes a `DefinitionError` that names it."""
    built.__init__ = checked(built.__init__, DefinitionError)  # type: ignore[misc]
    return built


def checked_methods(built: T, error: type[MillstreamError] = MillstreamError) -> T:
    """Decorate a class of the public API: no public method of it ends in another library's exception."""
    for name, method in list(vars(built).items()):
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_")):
            setattr(built, name, checked(method, error))
    return built


def checked_definition(built: T) -> T:
    """Decorate what definitions are written with: whatever a method of it cannot read becomes a `DefinitionError`."""
    return checked_methods(built, DefinitionError)


def checked(function: F, error: type[MillstreamError] = MillstreamError) -> F:
    """Decorate a public function: what it raises is an error of Millstream's, also for arguments it does not take."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except MillstreamError:
            raise
        except Exception as failure:  # whatever a value of any kind makes Python or a library raise
            raise _said(_named(function, args), signature, args, kwargs, failure, error) from failure

    return call  # type: ignore[return-value]


def whole(thing: str, argument: str, value: object, low: int, high: int, hint: str | None = None) -> int:
    """Return a whole number between two bounds as an int, NumPy's too.

    Args:
        thing: whose argument it is, for errors.
        argument: its name.
        value: what was given.
        low: the least that it may be.
        high: the most that it may be.
        hint: what to do instead; None for no hint.

    Raises:
        DefinitionError: for what is no whole number, a boolean too, or is out of bounds.

    >>> whole("EventStream 'clicks'", "partitions", 4, 1, 1024)
    4
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and low <= int(value) <= high:
        return int(value)
    raise DefinitionError.expected(thing, argument, value, f"a whole number from {low} to {high}", hint)


def text(thing: str, argument: str, value: object, what: str = "a string", hint: str | None = None) -> str:
    """Return a string.

    Args:
        thing: whose argument it is, for errors.
        argument: its name.
        value: what was given.
        what: what is expected, as the error says it.
        hint: what to do instead; None for no hint.

    Raises:
        DefinitionError: for what is no string.
    """
    if isinstance(value, str):
        return value
    raise DefinitionError.expected(thing, argument, value, what, hint)


def by_name(thing: str, argument: str, value: object, hint: str | None = None) -> Mapping[str, Any]:
    """Return a mapping of names, empty for None.

    Args:
        thing: whose argument it is, for errors.
        argument: its name.
        value: what was given.
        hint: what to do instead; None for no hint.

    Raises:
        DefinitionError: for what is no mapping, or has a name that is no string.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return value
    raise DefinitionError.expected(thing, argument, value, "a mapping of names", hint)


def _named(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """How to call what was called: a class by its name, a method with that of its class."""
    if function.__name__ == "__init__":
        return type(args[0]).__name__
    return function.__qualname__


def _said(
    thing: str,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    failure: Exception,
    error: type[MillstreamError],
) -> MillstreamError:
    """What is wrong with a call: an argument that is unknown, missing or one too many, else a value of the wrong kind."""
    taken = {name: one for name, one in signature.parameters.items() if name != "self"}
    try:
        signature.bind(*args, **kwargs)
    except TypeError as wrong:
        unknown = next((name for name in kwargs if name not in taken), None)
        listed = f"the arguments are {', '.join(taken)}." if taken else "it takes no argument."
        if unknown is not None:
            close = nearest(unknown, taken)
            hint = f"did you mean '{close}'? {listed}" if close else listed
            return _error(error, f"{thing}: there is no argument '{unknown}'.", hint)
        return _error(error, f"{thing}: {wrong}.", listed)
    return _error(
        error,
        f"{thing}: what was given cannot be used: {type(failure).__name__}: {failure}.",
        "check the type of each argument; where they are right, please report this as a defect.",
    )


def _error(kind: type[MillstreamError], message: str, hint: str) -> MillstreamError:
    return kind(message if len(message) <= 1_000 else f"{message[:1_000]}...", hint)
