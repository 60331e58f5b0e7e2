"""On-demand features: Python functions of one row, compiled, the same over a training column and on one request."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from millstream.definitions.frozen import FrozenMapping, check_name, check_tags, freeze
from millstream.definitions.row_function import RETURNS, Constant, RowFunction, compile_function
from millstream.definitions.schema import element_of, fields_of, is_object
from millstream.definitions.self_contained import check_self_contained, outer_names
from millstream.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np

NULLS = ("null", "pass")


@dataclass(frozen=True, init=False)
class OnDemandFeature:
    """A feature computed at the moment of a read from request fields, other features and `at`; see `on_demand`.

    It is kept as `source_text` (a function of one row's values) and the `constants` its text names; `hash` changes
    with either. Raises `DefinitionError` for a text that uses anything else.
    """

    name: str
    source_text: str
    returns: str
    nulls: str
    constants: FrozenMapping[str, Constant]
    owner: str
    description: str
    tags: tuple[str, ...]
    arguments: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        name: str,
        *,
        source_text: str,
        returns: str,
        nulls: str = "null",
        constants: Mapping[str, Constant] | None = None,
        owner: str = "",
        description: str = "",
        tags: Iterable[str] = (),
    ) -> None:
        thing = f"on-demand feature '{check_name('on_demand', name)}'"
        for argument, value, choices in (("returns", returns, RETURNS), ("nulls", nulls, NULLS)):
            if value not in choices:
                raise DefinitionError.unknown_choice(thing, argument, value, choices)
        freeze(self, name=name, source_text=source_text, returns=returns, nulls=nulls)
        freeze(self, constants=FrozenMapping(constants or {}), owner=owner, description=description)
        parsed = check_self_contained(thing, source_text, self.constants)
        freeze(self, arguments=tuple(argument.arg for argument in parsed.args.args), tags=check_tags(thing, tags))

    @property
    def hash(self) -> str:
        """What identifies the function: it changes with the text, the constants, the type and the rule for nulls."""
        parts = (self.source_text, repr(sorted(self.constants.items())), self.returns, self.nulls)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def bound(self, dtypes: Mapping[str, str]) -> RowFunction:
        """Return the function compiled for its arguments' types.

        Args:
            dtypes: the schema type of each argument; `at` need not be among them.

        Raises:
            DefinitionError: it does not compile for these types, or is not what its text is in Python.

        >>> import numpy as np
        >>> text = "def ratio(amount, limit):\\n    return amount / limit"
        >>> ratio = OnDemandFeature("ratio", source_text=text, returns="float64")
        >>> function = ratio.bound({"amount": "float64", "limit": "float64"})
        >>> function.call({"amount": np.array([1.0, 5.0, np.nan]), "limit": np.array([4.0, 0.0, 2.0])})
        array([0.25,  nan,  nan])
        """
        arguments = tuple((name, "timestamp" if name == "at" else dtypes[name]) for name in self.arguments)
        for name, kind in arguments:
            if is_object(element_of(kind) or kind) and (element_of(kind) or kind) != "string":
                hint = f"make text or a number of '{name}' in derive= or in the query, as cast({name} as varchar)."
                if fields := fields_of(element_of(kind) or ""):
                    hint = (
                        f"read its elements as columns, by `.spread()`, and name these: {name}_1_{next(iter(fields))}."
                    )
                thing = f"on-demand feature '{self.name}'"
                raise DefinitionError.wrong_type(
                    thing, f"its argument '{name}'", kind, "a number, an instant or text", hint
                )
        return compile_function(
            f"on-demand feature '{self.name}'",
            self.source_text,
            tuple(sorted(self.constants.items())),
            arguments,
            self.returns,
            self.nulls,
        )


def is_null(column: np.ndarray) -> np.ndarray:
    """Return where a column is null: NaN in numbers, None in objects."""
    import numpy as np

    if column.dtype == object:
        found: np.ndarray = (column == np.array(None, object)).astype(bool)
        return found
    return np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)


def on_demand(
    function: None = None,
    /,
    *,
    returns: str = "",
    nulls: Literal["null", "pass"] = "null",
    owner: str = "",
    description: str = "",
    tags: Iterable[str] = (),
) -> Callable[[Callable[..., Any]], OnDemandFeature]:
    """Make an on-demand feature of a function of one row's values.

    Reach for it when a feature needs the request, or several groups. The function is compiled, so that it sees one row's
    values and nothing else, in training and serving alike.

    Args:
        function: nothing; a function here means that the brackets were left out.
        returns: "float64", "int64", "bool" or "string". None, what is not finite and what cannot be computed are null.
        nulls: "null" makes any null argument give null; with "pass" the function is given numbers, whole ones and
            booleans too, as floats with NaN for null, and strings with None.
        owner: who answers for it.
        description: what it says; the function's docstring by default.
        tags: words to find it by.

    Returns:
        Callable: what makes an on-demand feature of the function below it.

    The function's arguments are named after request fields, features (`group__feature`, or another on-demand feature)
    and `at` (int64 µs). It may use its arguments, constants, `if`, bounded loops, functions of numbers from `np`, and
    methods of strings.

    Raises:
        DefinitionError: naming whatever else it uses, with its line.

    >>> import millstream as ms
    >>> @ms.on_demand(returns="string")
    ... def domain(email):
    ...     return email.split("@")[1].lower() if "@" in email else None
    >>> view = ms.FeatureView("mail", request={"email": "string"}, features=[domain])
    >>> ms.compute(view, {}, [{"email": one, "at": "2026-01-01"} for one in ("a@B.com", "none")])["domain"].to_pylist()
    ['b.com', None]
    """
    if function is not None or not returns:
        hint = 'write @ms.on_demand(returns="float64") above the function.'
        raise DefinitionError.expected("@ms.on_demand", "returns", function or returns, "a type, in brackets", hint)

    def decorate(function: Callable[..., Any]) -> OnDemandFeature:
        name = getattr(function, "__name__", "on_demand")
        text = _source_of(f"on-demand feature '{name}'", function)
        return OnDemandFeature(
            name,
            source_text=text,
            returns=returns,
            nulls=nulls,
            constants=_constants(f"on-demand feature '{name}'", function, text),
            owner=owner,
            description=description or inspect.getdoc(function) or "",
            tags=tags,
        )

    return decorate


def _source_of(thing: str, function: Callable[..., Any]) -> str:
    """The function's text without decorators and outer indentation."""
    try:
        text = textwrap.dedent(inspect.getsource(function))
        parsed = ast.parse(text).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        parsed = None
    if not isinstance(parsed, ast.FunctionDef):
        hint = "write it with def, in a file or a notebook cell."
        raise DefinitionError(f"{thing}: its source text cannot be read, and it is stored as text.", hint)
    return "\n".join(text.splitlines()[parsed.lineno - 1 : parsed.end_lineno])


def _constants(thing: str, function: Callable[..., Any], text: str) -> dict[str, Constant]:
    """The constants of the module or the enclosing function that the text names."""
    known = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    constants: dict[str, Constant] = {}
    for name in outer_names(thing, text):
        value = known.get(name)
        if name in ("np", "numpy"):
            if getattr(value, "__name__", None) != "numpy":
                raise DefinitionError.not_self_contained(thing, name, "which is not NumPy here")
        elif name in known:
            if not (value is None or isinstance(value, str | float | int | bool)):
                raise DefinitionError.not_self_contained(thing, name, f"a {type(value).__name__} defined outside it")
            constants[name] = value
    return constants
