"""A function of one row, compiled: by construction it sees no other row, no file, no clock and no chance.

Its text runs in one form only, the compiled one, over a training column and on one request alike. Before it is used it
is held to the same text run by Python on NumPy's numbers, on made-up values.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from millstream.definitions.function_cache import cached_source, forget, note_held, was_held
from millstream.definitions.schema import element_of
from millstream.definitions.self_contained import check_one_row
from millstream.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np

Constant = str | float | int | bool | None
#: The types that a function may return.
RETURNS = ("float64", "int64", "bool", "string")
_HEADER = """\
from __future__ import annotations
import numpy as np
import numpy
from numba import njit as _compiled


@_compiled(error_model="numpy")
def _where(condition, yes, no):
    return yes if condition else no


"""
_COMPILED = '@_compiled(error_model="numpy", nogil=True, cache={cached}{more})'
#: With lists, whose ends are looked at: beyond them there is no value.
_CHECKED = ", boundscheck=True"
_COLUMN = """
def _column({arguments}, out):
    not_finite = 0
    for _row in range(out.size):
        out[_row] = np.nan
        if {missing}:
            continue
        try:
            _value = {name}({values})
            if _value is not None:
                _number = _value * 1.0
                if {fits}:
                    out[_row] = _number + 0.0
                elif {counted}:
                    not_finite += 1
        except Exception:
            not_finite += 1
    return not_finite
"""
#: Which numbers a value of each type may be; others are null and counted.
_FITS = {
    "float64": "np.isfinite(_number)",
    "int64": "-9.2e18 < _number < 9.2e18 and _number == np.floor(_number)",
    "bool": "_number == 0.0 or _number == 1.0",
}
#: How a row's value of each type is taken from a column of floats.
_TAKEN = {
    "float64": "{}[_row]",
    "bool": "{}[_row] != 0.0",
    "int64": "np.int64({}[_row])",
    "timestamp": "np.int64({}[_row])",
}


Compiled = tuple[Callable[..., Any], Callable[..., int] | None]


@dataclass(frozen=True)
class RowFunction:
    """A compiled function of one row, called for the rows of columns; compiled when it is first called, or made to.

    Attributes:
        arguments: the names of its columns, in order.
        types: their schema types; `at` is a timestamp.
        returns: the schema type of its value.
        nulls: "null" when a null argument gives null, "pass" when it is given to the function.
    """

    arguments: tuple[str, ...]
    types: tuple[str, ...]
    returns: str
    nulls: str
    _compile: Callable[[], Compiled]

    @cached_property
    def compiled(self) -> Compiled:
        """The function of one row, and its form over columns, if it has one."""
        return self._compile()

    def call(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the value of every row of `columns`; see `call_counted`."""
        return self.call_counted(columns)[0]

    def call_counted(self, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, int]:
        """Return the value of every row, and how many rows gave no finite number or could not be computed.

        Args:
            columns: an array per argument, of equal length: numbers, booleans and timestamps (µs) as float64 with NaN
                for null, strings as objects with None for null, `at` as int64 µs, lists as
                `millstream.definitions.list_columns.Lists`.

        Returns:
            float64 with NaN for null, or objects with None where a string is returned; and the count.
        """
        import numpy as np

        given = [columns[name] for name in self.arguments]
        one, over_columns = self.compiled
        if over_columns is None or any(column.dtype == object for column in given):
            return self._row_by_row(one, given)
        out = np.empty(len(given[0]), np.float64)
        numbers = [column if column.dtype == np.float64 else column.astype(np.float64) for column in given]
        return out, over_columns(*numbers, out)

    def _row_by_row(self, one: Callable[..., Any], given: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
        """Row by row, where strings or lists are taken or returned, or whole numbers that float64 has not."""
        import numpy as np

        rows = len(given[0])
        out = np.full(rows, None, object) if self.returns == "string" else np.full(rows, np.nan)
        scalars = [_scalars(column, kind, self.nulls) for column, kind in zip(given, self.types, strict=True)]
        failed = 0
        for i, row in enumerate(zip(*scalars, strict=True)):
            if self.nulls == "null" and any(value is None for value in row):
                continue
            try:
                value = one(*row)
            except Exception:  # whatever the function raises for a row: that row has no value
                failed += 1
                continue
            if isinstance(value, str):
                out[i] = value
            elif value is not None and fits(value, self.returns):
                out[i] = value + 0.0
            elif value is not None and not (self.nulls == "pass" and math.isnan(value)):
                failed += 1
        return out, failed


def fits(value: float, returns: str) -> bool:
    """Return whether a number is a value of a schema type; others are null and counted."""
    if returns == "bool":
        return value in (0, 1)
    if returns == "int64":
        return -9.2e18 < value < 9.2e18 and value == math.floor(value)
    return math.isfinite(value)


def _scalars(column: Any, kind: str, nulls: str) -> list[Any]:
    """A column's values as the compiled function takes them, None for null."""
    if element_of(kind):
        arrays: list[Any] = column.arrays()
        return arrays
    values: list[Any] = column.tolist()
    if kind == "string":
        return values
    if nulls == "pass":
        return [math.nan if value is None else float(value) for value in values]
    take = {"float64": float, "bool": bool}.get(kind, int)
    return [None if value is None or value != value else take(value) for value in values]


@lru_cache(maxsize=1024)
def compile_function(
    thing: str,
    source_text: str,
    constants: tuple[tuple[str, Constant], ...],
    arguments: tuple[tuple[str, str], ...],
    returns: str,
    nulls: str,
) -> RowFunction:
    """Make a function of a self-contained text for arguments of given types.

    Reach for it through `OnDemandFeature.bound`. What was compiled once is kept in the user's cache folder, and that it
    was held to its text is noted there: from then on it is compiled, or read from there, when it is first called.

    Args:
        thing: what the function is, for errors.
        source_text: its text, one function.
        constants: the names outside it that it uses, with their values.
        arguments: its arguments' names and schema types.
        returns: the schema type of its value.
        nulls: "null" or "pass".

    Raises:
        DefinitionError: it is made of more than one row's values, does not compile for these types, gives another type,
            or computes other values compiled than the same text does in Python.
    """
    from millstream.definitions.made_up import check_made_up

    for name, kind in arguments:
        if element_of(kind) == "string":
            hint = f"read its elements as columns, by `.spread()`, and name these: {name}_1, {name}_2 and so on."
            raise DefinitionError.wrong_type(thing, f"argument '{name}'", kind, "a list of numbers", hint)
    check_one_row(thing, source_text, dict(constants))
    names, types = tuple(name for name, _ in arguments), tuple(kind for _, kind in arguments)
    of = (source_text, constants, arguments, returns, nulls)
    function = RowFunction(names, types, returns, nulls, partial(_compiled, thing, *of))
    if not was_held(key := hashlib.sha256(repr(of).encode()).hexdigest()):
        _check_returned(thing, function.compiled[0], returns)
        check_made_up(thing, function, _reference(source_text, dict(constants)))
        note_held(key)
    return function


def _name_of(source_text: str) -> str:
    return source_text.lstrip().removeprefix("def").split("(")[0].strip()


def _compiled(
    thing: str,
    source_text: str,
    constants: tuple[tuple[str, Constant], ...],
    arguments: tuple[tuple[str, str], ...],
    returns: str,
    nulls: str,
) -> Compiled:
    """What running the function's module gave, compiled."""
    from numba.core.errors import NumbaError

    lists = any(element_of(kind) for _, kind in arguments)
    numeric = returns != "string" and not lists and all(kind != "string" for _, kind in arguments)
    outer = "".join(f"{name} = {_literal(value)}\n" for name, value in constants)
    head = _HEADER + outer
    text = _of_scalars(source_text) + (_over_columns(source_text, arguments, returns, nulls) if numeric else "\n")
    key = hashlib.sha256(repr((head, text, arguments, returns, nulls)).encode()).hexdigest()
    for path in (cached_source(key, _module(head, text, numeric, True, lists)), None):
        module = ModuleType(f"millstream_on_demand_{key[:16]}")
        sys.modules[module.__name__] = module  # Numba looks there for what a kept function calls
        try:
            exec(
                compile(_module(head, text, numeric, path is not None, lists), path or f"<{thing}>", "exec"),
                vars(module),
            )
            _compile_types(vars(module), source_text, arguments, nulls, numeric)
            return vars(module)[_name_of(source_text)], vars(module).get("_column")
        except NumbaError as error:
            failure: Exception = error
            break
        except Exception as error:  # what was kept cannot be read: the second try is without
            failure = error
            forget(path)
    raise _refused(thing, source_text, arguments, failure, head.count("\n") + 1) from None


def _of_scalars(source_text: str) -> str:
    """The text with the one function of scalars that Numba has for arrays only put in its place, line by line."""
    lines = [line.encode() for line in source_text.splitlines()]
    called = [node for node in ast.walk(ast.parse(source_text)) if isinstance(node, ast.Attribute)]
    for node in sorted(called, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        if node.attr == "where" and node.end_lineno == node.lineno:
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line[: node.col_offset] + b"_where" + line[node.end_col_offset :]
    return b"\n".join(lines).decode()


def _literal(value: Constant) -> str:
    shown = repr(value)
    return shown if shown not in ("nan", "inf", "-inf") else f'float("{shown}")'


def _module(head: str, text: str, numeric: bool, cached: bool, lists: bool) -> str:
    decorator = _COMPILED.format(cached=cached, more=_CHECKED if lists else "")
    body = f"{head}{decorator}\n{text}"
    return body.replace("\ndef _column(", f"\n{decorator}\ndef _column(") if numeric else body


def _over_columns(source_text: str, arguments: Sequence[tuple[str, str]], returns: str, nulls: str) -> str:
    passed = nulls == "pass"
    places = [f"_column_{i}" for i in range(len(arguments))]
    kinds = ["float64" if passed else kind for _, kind in arguments]
    return "\n" + _COLUMN.format(
        arguments=", ".join(places),
        missing="False" if passed else " or ".join(f"np.isnan({place}[_row])" for place in places),
        name=_name_of(source_text),
        values=", ".join(_TAKEN[kind].format(place) for place, kind in zip(places, kinds, strict=True)),
        fits=_FITS[returns],
        counted="not np.isnan(_number)" if passed else "True",
    )


#: The numbers of a list's elements, by their type.
_NUMBER_OF: Mapping[str, Callable[[Any], Any]] = {
    "float64": lambda types: types.float64,
    "int64": lambda types: types.int64,
    "timestamp": lambda types: types.int64,
    "bool": lambda types: types.boolean,
}


def _compile_types(
    space: Mapping[str, Any], source_text: str, arguments: Sequence[tuple[str, str]], nulls: str, numeric: bool
) -> None:
    from numba import types

    text = types.Optional(types.unicode_type) if nulls == "pass" else types.unicode_type
    number = {"float64": types.float64, "int64": types.int64, "timestamp": types.int64, "bool": types.boolean}
    if nulls == "pass":
        number = dict.fromkeys(number, types.float64)
    one = space[_name_of(source_text)]

    def of(kind: str) -> Any:
        if (element := element_of(kind)) is None:
            return text if kind == "string" else number[kind]
        array = types.Array(_NUMBER_OF[element](types), 1, "C", readonly=True)
        return types.Optional(array) if nulls == "pass" else array

    one.compile(tuple(of(kind) for _, kind in arguments))
    if numeric:
        column = types.Array(types.float64, 1, "A", readonly=True)
        space["_column"].compile((*[column] * len(arguments), types.Array(types.float64, 1, "C")))
        space["_column"].disable_compile()
    else:
        one.disable_compile()


def _check_returned(thing: str, one: Any, returns: str) -> None:
    from numba import types

    given = one.nopython_signatures[0].return_type
    inner = given.type if isinstance(given, types.Optional) else given
    text = isinstance(types.unliteral(inner), types.UnicodeType)
    number = isinstance(inner, types.Number | types.Boolean) and not isinstance(inner, types.Complex)
    if not (text if returns == "string" else number):
        hint = "write str(...) of a whole number." if returns == "string" else "write a number, or a comparison."
        raise DefinitionError.wrong_type(thing, "its value", _plain(str(given)), f"'{returns}', as it declares", hint)


def _plain(text: str) -> str:
    """Numba's names of types as a schema has them."""
    text = re.sub(r"Literal\[\w+\]\((.*?)\)", r"\1", text)
    text = re.sub(r"OptionalType\((.*?)\)", r"\1", text)
    for theirs, ours in (("unicode_type", "string"), ("boolean", "bool"), ("none", "None")):
        text = text.replace(theirs, ours)
    return text


def _refused(
    thing: str, source_text: str, arguments: Sequence[tuple[str, str]], failure: Exception, begin: int
) -> DefinitionError:
    """What does not compile: the line, Numba's reason in a few words, and what the function was compiled for."""
    said = str(failure)
    lines = source_text.splitlines()
    places = [int(line) - begin for line in re.findall(r'File "[^"]*", line (\d+)', said)]
    inside = [place for place in places if 0 < place <= len(lines)]
    shown = f", line {inside[-1]} `{lines[inside[-1] - 1].strip()}`" if inside else ""
    found = re.search(r"No implementation of function Function\(.*?\) found for signature:\s*>>> (.+)", said)
    why = (
        f"there is no {_plain(found[1]).strip()}"
        if found
        else _plain(said.strip().splitlines()[-1] if said.strip() else "")
    )
    unknown = re.search(r"Unknown attribute '(\w+)' of type (.+)", said)
    unified = re.search(r"Cannot unify (.+?) and (.+?) for", said)
    if unknown:
        why = f"{_plain(unknown[2]).strip()} has no {unknown[1]}"
    elif unified:
        why = f"one name or value is both {_plain(unified[1])} and {_plain(unified[2])}"
    given = ", ".join(f"{name} {kind}" for name, kind in arguments)
    return DefinitionError.not_compiled(f"{thing}{shown}", given, why)


def _reference(source_text: str, constants: Mapping[str, Constant]) -> Callable[..., Any]:
    """The same text, run by Python."""
    import numpy as np

    space: dict[str, Any] = {"np": np, "numpy": np, **constants}
    exec(compile(f"from __future__ import annotations\n{source_text}", "<on_demand>", "exec"), space)
    reference: Callable[..., Any] = space[_name_of(source_text)]
    return reference
