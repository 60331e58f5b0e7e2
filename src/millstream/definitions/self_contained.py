"""The check that a function uses its arguments, NumPy and constants only, so that its text is all there is to it."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Collection, Iterator

from millstream.errors import DefinitionError

MODULES = ("np", "numpy")
#: Builtins that depend on nothing but their arguments.
BUILTINS = frozenset({
    "abs", "all", "any", "bool", "chr", "dict", "divmod", "enumerate", "filter", "float", "int", "isinstance", "len",
    "list", "map", "max", "min", "object", "ord", "pow", "range", "reversed", "round", "set", "sorted", "str", "sum",
    "tuple", "zip",
})  # fmt: skip
#: Parts of NumPy that depend on chance, files or the clock.
_BARRED = frozenset({
    "DataSource", "ctypeslib", "fromfile", "genfromtxt", "load", "loadtxt", "memmap", "random", "save", "savetxt",
    "savez", "savez_compressed", "testing",
})  # fmt: skip


def check_self_contained(thing: str, source_text: str, constants: Collection[str]) -> ast.FunctionDef:
    """Return the parsed function, or raise `DefinitionError` naming what it uses beside NumPy and `constants`.

    >>> check_self_contained("on-demand feature 'double'", "def double(x): return 2 * x", ()).name
    'double'
    """
    function = _function(thing, source_text)
    _check_signature(thing, function)
    for name in outer_names(thing, source_text):
        if name in MODULES or name in BUILTINS or name in constants:
            continue
        why = "a builtin that may depend on more" if hasattr(builtins, name) else "which is defined outside it"
        raise DefinitionError.not_self_contained(thing, name, why)
    for node in ast.walk(function):
        offender = _offender(node)
        if offender:
            raise DefinitionError.not_self_contained(thing, offender[0], offender[1])
    return function


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
    except SyntaxError as error:
        raise DefinitionError.expected(thing, "source_text", source_text, f"a function ({error.msg})") from None
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef) or body[0].decorator_list:
        raise DefinitionError.expected(thing, "source_text", source_text, "one undecorated function")
    return body[0]


def _check_signature(thing: str, function: ast.FunctionDef) -> None:
    arguments = function.args
    others = (arguments.vararg, arguments.kwarg, arguments.kwonlyargs, arguments.posonlyargs, arguments.defaults)
    if any(others) or not arguments.args:
        hint = "name request fields, features or `at`, as in def ratio(amount, limits__amount_last): ..."
        raise DefinitionError(f"{thing}: arguments must be plain names without defaults, at least one.", hint)


def _offender(node: ast.AST) -> tuple[str, str] | None:
    """What a syntax node does that its text alone cannot explain, and why."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = node.names[0].name if isinstance(node, ast.Import) else str(node.module)
        return module, "which it imports"
    if isinstance(node, ast.Global | ast.Nonlocal):
        return node.names[0], "a variable that it shares with others"
    if isinstance(node, ast.Attribute):
        return _barred_attribute(node)
    if isinstance(node, ast.Yield | ast.YieldFrom | ast.Await):
        return type(node).__name__.lower(), "which makes no column"
    if isinstance(node, ast.Constant) and node.value in ("now", "today"):
        return repr(node.value), "which reads the clock"
    return None


def _barred_attribute(node: ast.Attribute) -> tuple[str, str] | None:
    if node.attr.startswith("__"):
        return node.attr, "which reaches behind the language"
    of_numpy = isinstance(node.value, ast.Name) and node.value.id in MODULES
    if of_numpy and node.attr in _BARRED:
        return f"{node.value.id}.{node.attr}", "which depends on more than its arguments"  # type: ignore[attr-defined]
    return None
