"""The tree is the diagram: imports run downstream only, time is an argument, and `import millstream` stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from inspect import getsource, isfunction, signature
from pathlib import Path
from typing import Any

import pytest

import millstream
from millstream.buffer.agreement import Identified, Mendable
from millstream.buffer.log import EndsAtOnce, Limited, Log, Tail, TimeIndex, TopicAdmin, Watched
from millstream.buffer.worker import Shareable
from millstream.sources.source import Source
from millstream.store.offline import OfflineStore
from millstream.store.online import BulkLoad, Examined, Forgets, OnlineStore

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "millstream"
MODULES = sorted(SOURCE.rglob("*.py"))
#: From the bottom to the top: no part imports one that stands after it. Engines know nothing of definitions; these and
#: the fold ask them what an expression's type is and what it gives, so they stand below both.
FLOORS = (
    "errors", "clock", "forks", "disk", "calls", "engines", "definitions", "settings", "fold", "buffer", "sources", "usage",
    "store", "registry", "history", "computing", "ingest", "train", "serve", "monitor", "project", "migrating",
)  # fmt: skip
#: What a part must not import though it stands before it: layers know the gap between them, and not each other.
APART = {
    "fold": {"clock", "settings"},
    "definitions": {"clock"},
    "computing": {"store", "registry", "history"},
    "ingest": {"computing"},
    "train": {"computing", "ingest"},
    "serve": {"computing", "ingest"},
    "monitor": {"computing", "ingest", "serve"},
}
#: Backfill folds history into the online store, so it alone joins computing to a store; the log of another project is
#: opened as that of any project is.
JOINS = {"ingest/backfill.py": {"computing"}, "sources/another_project.py": {"project"}}
CLOCKS = {
    "asyncio.sleep", "datetime.date.today", "datetime.datetime.now", "datetime.datetime.today",
    "datetime.datetime.utcnow", "time.gmtime", "time.localtime", "time.sleep", "time.time", "time.time_ns",
}  # fmt: skip
HEAVY = {
    "alembic", "confluent_kafka", "duckdb", "lightgbm", "numba", "numpy", "pandas", "prometheus_client", "pyarrow", "pyiceberg",
    "sqlalchemy", "sqlglot", "typer",
}  # fmt: skip


def place(module: Path) -> str:
    return module.relative_to(SOURCE).as_posix()


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


@cache
def imports(module: Path) -> tuple[str, ...]:
    """Every module that a file imports, wherever in it, by its full name."""
    return tuple(_imports(module))


def _imports(module: Path) -> Iterator[str]:
    package = ["millstream", *module.relative_to(SOURCE).parent.parts]
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            parent = ".".join([*start, *([node.module] if node.module else [])])
            yield parent
            yield from (f"{parent}.{alias.name}" for alias in node.names)


def parts(module: Path) -> set[str]:
    """The parts of Millstream that a file imports: its folders, and the modules beside them."""
    names = (name.split(".") for name in imports(module))
    return {name[1] for name in names if name[0] == "millstream" and len(name) > 1}


FLOORED = [module for module in MODULES if module.relative_to(SOURCE).parts[0].removesuffix(".py") in FLOORS]


@pytest.mark.parametrize("module", FLOORED, ids=place)
def test_imports_run_downstream_only(module):
    part = module.relative_to(SOURCE).parts[0].removesuffix(".py")
    above = set(FLOORS[FLOORS.index(part) + 1 :])
    barred = (above | APART.get(part, set())) - JOINS.get(place(module), set())
    assert parts(module) & barred == set()


def test_every_part_has_a_floor_or_joins_the_others():
    joining = {"cli", "demos", "running", "templates", "testing"}
    folders = {folder.name for folder in SOURCE.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    assert folders - joining <= set(FLOORS)
    files = {module.stem for module in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert files <= set(FLOORS)


def called(module: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every use of an imported name, aliases resolved."""
    tree = parsed(module)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            names = []
            part: ast.expr = node
            while isinstance(part, ast.Attribute):
                names.append(part.attr)
                part = part.value
            if isinstance(part, ast.Name) and part.id in known:
                yield node.lineno, ".".join([known[part.id], *reversed(names)])


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_only_the_clock_reads_the_time_or_sleeps(module):
    if place(module) != "clock.py":
        assert [(line, name) for line, name in called(module) if name in CLOCKS] == []


#: What is called a position wherever it comes from; beside these, whatever was unpacked from `ends` or `committed`.
POSITIONS = {"position", "positions", "_position", "following", "next"}
#: Logs themselves; a source whose positions are Kafka's own offsets; and suites whose positions are numbers that they made up.
COUNTING = (
    "buffer/embedded/",
    "buffer/kafka/",
    "sources/kafka/",
    "testing/adversarial_log.py",
    "testing/offline_suite.py",
    "testing/online_suite.py",
)
ARITHMETIC = ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv | ast.Mod | ast.LShift


def told(node: ast.AST, known: set[str]) -> set[str]:
    """The positions whose values an expression is made of."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)):
            return {name} & known
        case ast.Subscript(value=value, slice=index):
            return told(value, known) | told(index, known)
        case ast.BinOp(left=left, right=right):
            return told(left, known) | told(right, known)
        case ast.IfExp(body=body, orelse=orelse):
            return told(body, known) | told(orelse, known)
        case ast.UnaryOp(operand=operand):
            return told(operand, known)
        case ast.BoolOp(values=values):
            return set().union(*(told(value, known) for value in values))
        case ast.GeneratorExp(elt=element) | ast.ListComp(elt=element):
            return told(element, known)
        case ast.Call(func=ast.Attribute(value=value)):
            return told(value, known)
        case ast.Call(func=ast.Name(id="int" | "max" | "min" | "abs"), args=args):
            return set().union(*(told(argument, known) for argument in args))
    return set()


def asked_of_a_log(node: ast.AST) -> bool:
    calls = (one.func for one in ast.walk(node) if isinstance(one, ast.Call))
    return any(isinstance(one, ast.Attribute) and one.attr in ("ends", "committed") for one in calls)


def unpacked(function: ast.AST) -> set[str]:
    """The names that a function gives to what it unpacks from the ends of partitions, or from committed positions."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.For | ast.comprehension) and asked_of_a_log(node.iter):
            target = node.target
            if isinstance(node.iter, ast.Call) and ast.unparse(node.iter.func) == "enumerate":
                assert isinstance(target, ast.Tuple)
                target = target.elts[1]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and asked_of_a_log(node.value):
            target = node.targets[0]
        else:
            continue
        found |= {one.id for one in ast.walk(target) if isinstance(one, ast.Name) and one.id != "_"}
    return found


def arithmetic(module: Path) -> Iterator[str]:
    """Every place where a file adds, subtracts, sums or steps through positions."""
    tree = parsed(module)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
        known = POSITIONS | unpacked(function)
        for node in ast.walk(function):
            match node:
                case ast.BinOp(op=op, left=left, right=right) if isinstance(op, ARITHMETIC):
                    text = isinstance(left, ast.Constant | ast.JoinedStr) and not isinstance(node.op, ast.Add | ast.Sub)
                    found = set() if text else told(left, known) | told(right, known)
                case ast.AugAssign(target=target, value=value):
                    found = told(target, known) | told(value, known)
                case ast.Call(func=ast.Name(id="range" | "sum"), args=args):
                    found = set().union(*(told(argument, known) for argument in args))
                case _:
                    continue
            if found:
                yield f"line {node.lineno}: {ast.unparse(node)}"


COUNTED = [module for module in MODULES if not place(module).startswith(COUNTING)]


@pytest.mark.parametrize("module", COUNTED, ids=place)
def test_nobody_but_the_log_counts_with_its_positions(module):
    assert sorted(set(arithmetic(module))) == []


@pytest.mark.parametrize("wrong", [
    "record.position + record.count", "following - first", "position += batch.count", "range(position, upto)",
    "int(table['_position'][-1].as_py()) + 1", "max(one.position for one in some) + 1", "records.next - 1",
    "sum(end for _, end in log.ends(topic))", "sum(end - first for first, end in log.ends(topic))",
    "[end - (at or 0) for end, at in zip(ends, log.committed(consumer, topic))]",
])  # fmt: skip
def test_counting_with_positions_is_found(wrong, tmp_path):
    module = tmp_path / "module.py"
    module.write_text(f"def counting():\n    {wrong}\n")
    assert list(arithmetic(module)) != []


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_nothing_is_pickled(module):
    assert {name.split(".")[0] for name in imports(module)} & {
        "pickle",
        "cloudpickle",
        "dill",
        "joblib",
        "shelve",
    } == set()


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_one_file_imports_duckdb(module):
    names = {name for name in imports(module) if name.split(".")[0] == "duckdb"}
    assert not names or place(module) == "engines/duckdb/connection.py"


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_what_knows_lightgbm_is_its_trainer(module):
    names = {name.split(".")[0] for name in imports(module)}
    knows = {"train/trainers/lightgbm.py", "testing/simulation/models.py"}
    assert "lightgbm" not in names or place(module) in knows
    assert "millstream.train.trainers.lightgbm" not in set(imports(module))


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_whoever_asks_an_engine_asks_it_as_every_engine_can_be_asked(module):
    """DuckDB is named in its folder and where the engine within the process is chosen."""
    if not place(module).startswith(("engines/duckdb/", "engines/embedded.py")):
        assert [name for name in imports(module) if name.startswith("millstream.engines.duckdb")] == []
        if not place(module).startswith(("settings.py", "project/backends.py", "cli/checks.py")):
            assert '"duckdb"' not in module.read_text()


#: The log and the stores there are, each on its shelf; whoever uses one knows its protocol.
SHELVES = ("buffer/embedded/", "buffer/kafka/", "store/lmdb/", "store/redis/", "store/iceberg/")
BACKENDS = {
    "millstream.buffer.embedded.log", "millstream.buffer.kafka.log", "millstream.store.iceberg.store",
    "millstream.store.lmdb.store", "millstream.store.redis.store",
}  # fmt: skip
USERS = [module for module in MODULES if not place(module).startswith((*SHELVES, "testing/"))]


@pytest.mark.parametrize("module", USERS, ids=place)
def test_whoever_uses_a_part_of_a_project_knows_its_protocol_alone(module):
    assert BACKENDS & set(imports(module)) == set()


def test_names_say_what_a_module_is_for():
    vague = {"base", "common", "helper", "helpers", "manager", "misc", "provider", "util", "utils"}
    assert [place(module) for module in MODULES if vague & {module.stem, module.parent.name}] == []


PROTOCOLS = (
    BulkLoad, EndsAtOnce, Examined, Forgets, Identified, Limited, Log, Mendable, OfflineStore, OnlineStore, Shareable,
    Source, Tail, TimeIndex, TopicAdmin, Watched,
)  # fmt: skip


def documented() -> Iterator[tuple[str, Any]]:
    """What `import millstream` gives, and what the pages of the docs import, by full name."""
    for name in millstream.__all__:
        yield f"millstream.{name}", getattr(millstream, name)
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (*ROOT.glob("docs/*.md"), ROOT / "README.md"))
    for module, names in sorted(set(re.findall(r"^ *from (millstream[\w.]*) import ([\w, ]+)", pages, re.M))):
        for name in names.split(", "):
            found = getattr(import_module(module), name, None)
            if callable(found):
                yield f"{module}.{name}", found


def described() -> Iterator[tuple[str, Any, str]]:
    """Each of them that is called, and the public methods of classes, with the words that describe its arguments.

    What a protocol asks for is described there, and what a class inherits where it is made.
    """
    protocols = {name for one in PROTOCOLS for name in vars(one)}
    for name, found in documented():
        if not isinstance(found, type):
            yield name, found, found.__doc__ or ""
        elif not issubclass(found, Exception):
            yield name, found, "\n".join(one.__doc__ or "" for one in found.__mro__)
            for method, own in vars(found).items():
                function = getattr(own, "__func__", own)
                if isfunction(function) and not method.startswith("_") and method not in protocols:
                    yield f"{name}.{method}", function, function.__doc__ or ""


def undescribed(found: Any, words: str) -> list[str]:
    """What the docstring of something with three parameters or more does not say though it should."""
    parameters = [one for one in signature(found).parameters.values() if one.name not in ("self", "cls")]
    if len(parameters) < 3:
        return []
    said = set(re.findall(r"^ +\**(\w+):(?: |$)", words, re.M))
    wanted = ["Args", *(one.name for one in parameters)]
    if isfunction(found):
        text = getsource(found)
        wanted += [] if signature(found).return_annotation in (None, "None") or said & {"Yields"} else ["Returns"]
        wanted += ["Raises"] if re.search(r"^ +raise \w", text, re.M) else []
    return [name for name in wanted if name not in said]


@pytest.mark.parametrize(("found", "words"), [pytest.param(*rest, id=name) for name, *rest in described()])
def test_what_takes_three_arguments_or_more_describes_each_and_what_comes_of_it(found, words):
    assert undescribed(found, words) == []


def test_a_function_that_describes_nothing_is_found():
    def add(first, second, third: int = 0) -> int:
        """Add three numbers.

        Args:
            first: a number.
        """
        if first is None:
            raise ValueError("no number")
        return first + second + third

    assert undescribed(add, add.__doc__ or "") == ["second", "third", "Returns", "Raises"]


def test_the_base_install_has_at_most_twenty_direct_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= 20


def test_import_loads_no_engine():
    code = "import sys, millstream; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "millstream" in loaded
    assert HEAVY & set(loaded) == set()


def test_definitions_without_sql_load_no_engine():
    code = (
        "import sys, millstream as ms; u = ms.Entity('u', keys={'id': 'int64'});"
        "s = ms.EventStream('s', time='at', schema={'id': 'int64', 'at': 'timestamp'});"
        "ms.StreamFeatureGroup('g', entity=u, source=s, features=[ms.Count(over='1h')]);"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY & set(loaded) == set()


def test_import_takes_less_than_a_fifth_of_a_second():
    code = "import time; start = time.perf_counter(); import millstream; print(time.perf_counter() - start)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    assert min(float(run.stdout) for run in runs) < 0.2
