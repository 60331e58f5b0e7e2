"""On-demand features: Python functions over NumPy columns, the same on a training column and on one request."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from millstream.definitions.frozen import FrozenMapping, check_name, check_tags, freeze
from millstream.definitions.self_contained import check_self_contained, outer_names
from millstream.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np

RETURNS = ("float64", "int64", "bool", "string")
NULLS = ("null", "pass")
Constant = str | float | int | bool | None


@dataclass(frozen=True, init=False)
class OnDemandFeature:
    """A feature computed at the moment of a read from request fields, other features and `at`; see `on_demand`.

    It is kept as `source_text` (a function over NumPy columns) and the `constants` its text names; `hash` changes
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
    function: Callable[..., Any] = field(init=False, repr=False, compare=False)

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
        freeze(self, function=_build(thing, source_text, parsed.name, self.constants))

    @property
    def hash(self) -> str:
        """What identifies the function: it changes with the text, the constants, the type and the rule for nulls."""
        parts = (self.source_text, repr(sorted(self.constants.items())), self.returns, self.nulls)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def rebuild(self, source_text: str) -> OnDemandFeature:
        """Return the same feature with another text, as a registry kept it."""
        return OnDemandFeature(
            self.name,
            source_text=source_text,
            returns=self.returns,
            nulls=self.nulls,
            constants=self.constants,
            owner=self.owner,
            description=self.description,
            tags=self.tags,
        )

    def call(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the feature for every row of `columns`, which holds an array per argument.

        Numbers, booleans and timestamps are float64 with NaN for null, strings are objects with None for null, `at`
        is int64 µs; the result is float64 or objects likewise. Rows with a null argument give null and are not
        passed to the function, unless `nulls="pass"`. What is not finite is null.
        """
        return self.call_counted(columns)[0]

    def call_counted(self, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, int]:
        """Return `call(columns)` and how many values of it were not finite."""
        import numpy as np

        given = [columns[name] for name in self.arguments]
        rows = len(given[0])
        kept = None
        if self.nulls == "null":
            missing = is_null(given[0])
            for column in given[1:]:
                missing = missing | is_null(column)
            if np.count_nonzero(missing):  # for one row several times as quick as any()
                kept = ~missing
                given = [column[kept] for column in given]
        result, wild = self._run(given, rows if kept is None else len(given[0]))
        return (result, wild) if kept is None else (_scatter(result, kept), wild)

    def check_row_by_row(self, dtypes: Mapping[str, str]) -> None:
        """Raise `DefinitionError` when the value of a row depends on the rows beside it, tried on three rows.

        `dtypes` are the arguments' types. A function that fails on these made-up values is not judged by them.
        """
        import numpy as np

        sample = {name: _sample(i, "at" if name == "at" else dtypes[name]) for i, name in enumerate(self.arguments)}
        try:
            whole = self.call(sample)
            alone = np.concatenate([self.call({name: sample[name][i : i + 1] for name in sample}) for i in range(3)])
        except DefinitionError:
            raise
        except Exception:  # whatever a user's function raises on values that were made up
            return
        same = whole == alone if whole.dtype == object else np.isclose(whole, alone, equal_nan=True)
        if not np.all(same):
            raise DefinitionError.not_row_by_row(f"on-demand feature '{self.name}'", whole.shape, 3)

    def _run(self, given: list[np.ndarray], rows: int) -> tuple[np.ndarray, int]:
        import numpy as np

        if rows == 0:
            return np.empty(0, object if self.returns == "string" else np.float64), 0
        with np.errstate(all="ignore"):
            raw = np.asarray(self.function(*given))
        if raw.ndim and raw.shape != (rows,):
            raise DefinitionError.not_row_by_row(f"on-demand feature '{self.name}'", raw.shape, rows)
        whole = raw if raw.ndim else np.full(rows, raw)
        if self.returns == "string":
            return np.array(whole, object), 0
        result: np.ndarray = whole.astype(np.float64) + 0.0  # + 0.0 makes 0.0 of -0.0
        wild = ~np.isfinite(result)
        count = np.count_nonzero(wild)
        if count and self.nulls == "pass":
            count = np.count_nonzero(wild & ~np.isnan(result))
        result[wild] = np.nan
        return result, int(count)


def _sample(i: int, dtype: str) -> np.ndarray:
    import numpy as np

    if dtype == "string":
        return np.array(["a", "bb", "c"], object)
    if dtype == "at":
        return np.array([1_700_000_000_000_000, 1_700_000_060_000_000, 1_700_086_400_000_000])
    return np.array([1.0, 0.0, 1.0]) if dtype == "bool" else np.array([1.0, 2.5, 7.0]) + i


def is_null(column: np.ndarray) -> np.ndarray:
    """Return where a column is null: NaN in numbers, None in objects."""
    import numpy as np

    if column.dtype == object:
        found: np.ndarray = (column == np.array(None, object)).astype(bool)
        return found
    return np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)


def _scatter(result: np.ndarray, kept: np.ndarray) -> np.ndarray:
    import numpy as np

    whole = np.full(len(kept), None if result.dtype == object else np.nan, result.dtype)
    whole[kept] = result
    return whole


def _build(thing: str, source_text: str, name: str, constants: Mapping[str, Constant]) -> Callable[..., Any]:
    import numpy as np

    space: dict[str, Any] = {"np": np, "numpy": np, **constants}
    exec(compile(source_text, f"<{thing}>", "exec"), space)
    built: Callable[..., Any] = space[name]
    return built


def on_demand(
    *,
    returns: str,
    nulls: Literal["null", "pass"] = "null",
    owner: str = "",
    description: str = "",
    tags: Iterable[str] = (),
) -> Callable[[Callable[..., Any]], OnDemandFeature]:
    """Make an on-demand feature of a function over NumPy columns, row by row.

    Reach for it when a feature needs the request, or several groups. Arguments are named after request fields, features
    (`group__feature`, or another on-demand feature) and `at` (int64 µs). `returns` is "float64", "int64", "bool" or
    "string". Any null argument gives null, unless `nulls="pass"`. The function may use its arguments, `np` and
    constants only. Raises `DefinitionError` naming whatever else it uses.

    >>> import numpy as np
    >>> from millstream.definitions.on_demand import OnDemandFeature
    >>> text = "def ratio(amount, limit):\\n    return amount / limit"
    >>> ratio = OnDemandFeature("ratio", source_text=text, returns="float64")
    >>> ratio.call({"amount": np.array([1.0, 5.0, np.nan]), "limit": np.array([4.0, 0.0, 2.0])})
    array([0.25,  nan,  nan])
    """

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
