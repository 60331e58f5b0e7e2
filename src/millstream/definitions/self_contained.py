"""What a function of one row may be made of: an allowlist of syntax and names, so that its text is all there is to it.

What is not listed is refused: from what is, no file, clock, chance, module or other row can be reached.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator, Mapping

from millstream.errors import DefinitionError

MODULES = ("np", "numpy")
#: Builtins that look at their arguments only.
BUILTINS = frozenset({
    "abs", "bool", "chr", "divmod", "float", "int", "len", "max", "min", "ord", "pow", "range", "round", "str",
})  # fmt: skip
#: NumPy's functions of numbers, its constants and types.
NUMPY = frozenset({
    "abs", "absolute", "add", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "bool_", "cbrt",
    "ceil", "copysign", "cos", "cosh", "deg2rad", "degrees", "divide", "e", "equal", "exp", "exp2", "expm1", "fabs",
    "float64", "floor", "floor_divide", "fmax", "fmin", "fmod", "greater", "greater_equal", "hypot", "inf", "int64",
    "isfinite", "isinf", "isnan", "less", "less_equal", "log", "log10", "log1p", "log2", "logaddexp", "logical_and",
    "logical_not", "logical_or", "logical_xor", "maximum", "minimum", "mod", "multiply", "nan", "negative", "not_equal",
    "pi", "power", "rad2deg", "radians", "remainder", "rint", "sign", "sin", "sinh", "sqrt", "square", "subtract", "tan",
    "tanh", "true_divide", "trunc", "where",
})  # fmt: skip
#: Methods of a string.
TEXT = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "isalnum", "isalpha", "isdecimal", "isdigit", "islower",
    "isnumeric", "isspace", "istitle", "isupper", "lower", "lstrip", "replace", "rfind", "rstrip", "split", "startswith",
    "strip", "swapcase", "title", "upper", "zfill",
})  # fmt: skip
#: The most rounds of a loop, so that no request waits for one.
ROUNDS = 10_000

_SYNTAX = (
    ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.For,
    ast.Break, ast.Continue, ast.Pass, ast.Expr, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.Call,
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Tuple, ast.expr_context, ast.boolop,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
_IN_A_LOOP = f"write it for one row, with `if` or a loop such as `for i in range(5):`, of at most {ROUNDS:,} rounds."
_NULL = "return None, which is null; what cannot be computed is null too."
_TUPLE = 'write a tuple, as in `country in ("DE", "FR")`.'
_TABLE = "write it with `if` and `elif`, or keep the values in a table and read them by a batch group."
_ONE_ROW = "the function is given the values of one row, not columns: write what that row's value is."
#: How what is refused is written for one row.
_INSTEAD = {
    "ListComp": "write it for one row: `x.upper()` rather than `[x.upper() for x in column]`.",
    "GeneratorExp": _IN_A_LOOP, "SetComp": _IN_A_LOOP, "DictComp": _TABLE, "Dict": _TABLE, "List": _TUPLE, "Set": _TUPLE,
    "While": _IN_A_LOOP, "For": _IN_A_LOOP, "Try": _NULL, "Raise": _NULL, "Assert": _NULL,
    "JoinedStr": "put strings together with +, numbers by str(...).",
    "Lambda": "write its expression where it is used.",
}  # fmt: skip


def check_self_contained(thing: str, source_text: str, constants: Mapping[str, object]) -> ast.FunctionDef:
    """Return the parsed function, whose text is all there is to it.

    Args:
        thing: what the function is, for errors.
        source_text: one undecorated function.
        constants: the values outside it that it may name.

    Raises:
        DefinitionError: naming what it takes from outside.

    >>> check_self_contained("on-demand feature 'double'", "def double(x): return 2 * x", {}).name
    'double'
    """
    function = _function(thing, source_text)
    _check_signature(thing, function)
    for node in ast.walk(function):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.names[0].name if isinstance(node, ast.Import) else str(node.module)
            raise DefinitionError.not_self_contained(f"{thing}{_line(node)}", module, "which it imports")
        if isinstance(node, ast.Global | ast.Nonlocal):
            why = "a variable that it shares with others"
            raise DefinitionError.not_self_contained(f"{thing}{_line(node)}", node.names[0], why)
    for name in outer_names(thing, source_text):
        if name not in MODULES and name not in constants and not hasattr(builtins, name):
            raise DefinitionError.not_self_contained(thing, name, "which is defined outside it")
    return function


def check_one_row(thing: str, source_text: str, constants: Mapping[str, object]) -> None:
    """Check that a self-contained function is made of what is listed, so that it sees one row's values only.

    Args:
        thing: what the function is, for errors.
        source_text: its text, which has passed `check_self_contained`.
        constants: the values outside it that it names.

    Raises:
        DefinitionError: naming the first thing in it that is not listed, its line, and what to write instead.

    >>> check_one_row("on-demand feature 'ranked'", "def ranked(x): return np.sort(x)", {})
    Traceback (most recent call last):
    millstream.errors.DefinitionError: on-demand feature 'ranked', line 1: uses 'np.sort', which ...
    """
    function = _function(thing, source_text)
    modules = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    for node in _nodes(function):
        offender = _offender(node, constants)
        if isinstance(node, ast.Name) and id(node) not in modules:
            offender = offender or _barred_name(node.id, constants)
        if offender:
            raise DefinitionError.not_self_contained(f"{thing}{_line(node)}", *offender)


def outer_names(thing: str, source_text: str) -> list[str]:
    """Return the names a function takes from outside itself, sorted: modules, builtins and constants."""
    _function(thing, source_text)
    table = symtable.symtable(source_text, "<on_demand>", "exec")
    return sorted({symbol for part in _scopes(table.get_children()[0]) for symbol in _globals(part)})


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_global() and (symbol.is_referenced() or symbol.is_assigned()):
            yield symbol.get_name()


def _function(thing: str, source_text: str) -> ast.FunctionDef:
    try:
        body = ast.parse(source_text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = getattr(error, "msg", None) or type(error).__name__
        raise DefinitionError.expected(thing, "source_text", source_text, f"a function ({why})") from None
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef) or body[0].decorator_list:
        raise DefinitionError.expected(thing, "source_text", source_text, "one undecorated function")
    return body[0]


def _check_signature(thing: str, function: ast.FunctionDef) -> None:
    arguments = function.args
    others = (arguments.vararg, arguments.kwarg, arguments.kwonlyargs, arguments.posonlyargs, arguments.defaults)
    if any(others) or not arguments.args:
        hint = "name request fields, features or `at`, as in def ratio(amount, limits__amount_last): ..."
        raise DefinitionError(f"{thing}: arguments must be plain names without defaults, at least one.", hint)


def _nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """What the function does, statement by statement, without the types that a reader is told."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop(0)
        yield node
        told = node.annotation if isinstance(node, ast.AnnAssign) else None
        waiting[:0] = [child for child in ast.iter_child_nodes(node) if child is not told]


def _line(node: ast.AST) -> str:
    return f", line {node.lineno}" if hasattr(node, "lineno") else ""


def _offender(node: ast.AST, constants: Mapping[str, object]) -> tuple[str, str, str | None] | None:
    """What a syntax node does that is not on the list: what, why not, and what to write instead."""
    kind = type(node).__name__
    if not isinstance(node, _SYNTAX) or isinstance(node, ast.FunctionDef | ast.MatMult):
        return kind.lower(), "which is not for the values of one row", _INSTEAD.get(kind, _ONE_ROW)
    if isinstance(node, ast.Attribute):
        return _barred_attribute(node)
    if isinstance(node, ast.For) and not _is_short(node, constants):
        return "for", "whose rounds are not bounded", _INSTEAD["For"]
    if isinstance(node, ast.Constant) and not (node.value is None or isinstance(node.value, str | int | float)):
        return repr(node.value), "which is no number, string or None", _ONE_ROW
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in (*MODULES, *BUILTINS):
        return node.id, "to which it gives another meaning", "use another name."
    return _barred_call(node) if isinstance(node, ast.Call) else None


def _barred_name(name: str, constants: Mapping[str, object]) -> tuple[str, str, str | None] | None:
    if name in MODULES:
        return name, "a module, as a value", _ONE_ROW
    if hasattr(builtins, name) and name not in BUILTINS and name not in constants:
        return name, "which is not among the functions of one row's values", _ONE_ROW
    return None


def _barred_attribute(node: ast.Attribute) -> tuple[str, str, str | None] | None:
    module = node.value.id if isinstance(node.value, ast.Name) and node.value.id in MODULES else None
    if node.attr in (NUMPY if module else TEXT):
        return None
    return ast.unparse(node), "which is not among the functions of one row's values", _ONE_ROW


def _barred_call(node: ast.Call) -> tuple[str, str, str | None] | None:
    plain = not node.keywords and not any(isinstance(one, ast.Starred) for one in node.args)
    if isinstance(node.func, ast.Attribute) and plain:
        return None
    if isinstance(node.func, ast.Name) and plain:  # its name is checked with the others
        return None
    shown = ast.unparse(node)
    return shown, "a call by other than plain arguments", "give the arguments in their order, without names."


def _is_short(node: ast.For, constants: Mapping[str, object]) -> bool:
    """Whether a loop's rounds are bounded: over a string, a tuple, or a range of fixed numbers, and no loop in it."""
    if any(isinstance(inner, ast.For) for part in node.body for inner in ast.walk(part)):
        return False
    call = node.iter
    if not isinstance(call, ast.Call):
        return isinstance(call, ast.Name | ast.Tuple | ast.Subscript)
    if not (isinstance(call.func, ast.Name) and call.func.id == "range"):
        return isinstance(call.func, ast.Attribute)
    return all(_bounded(argument, constants) for argument in call.args)


def _bounded(node: ast.expr, constants: Mapping[str, object]) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _bounded(node.operand, constants)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "len"
    value: object = node.value if isinstance(node, ast.Constant) else None
    value = constants.get(node.id) if isinstance(node, ast.Name) else value
    return isinstance(value, int) and abs(value) <= ROUNDS
