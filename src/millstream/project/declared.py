"""Reading what a project's folder declares."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from millstream.errors import MillstreamError, ProjectError
from millstream.settings import Settings


def declared(settings: Settings) -> list[Any]:
    """The definitions that a project's Python file holds at module level, alone or in lists, each once, in its order.

    Args:
        settings: the project; its `definitions` names the file.

    Returns:
        Entities, sources, groups, on-demand features, views and models.

    Raises:
        ProjectError: when the file is missing or does not run; names the line.
        DefinitionError: when a definition in it is wrong.

    Example:
        >>> import tempfile
        >>> from millstream.settings import Settings
        >>> from millstream.templates import write_project
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = write_project(folder)
        >>> [one.name for one in declared(Settings.load(folder))][:6]
        ['user', 'device', 'payee', 'payments', 'logins', 'disputes']
    """
    module = _run(settings.folder / settings.definitions)
    kinds = _kinds()
    found: dict[int, Any] = {}
    for value in vars(module).values():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, kinds):
                found[id(one)] = one
    return list(found.values())


def _kinds() -> tuple[type, ...]:
    from millstream.definitions.entity import Entity
    from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
    from millstream.definitions.feature_view import FeatureView
    from millstream.definitions.model import Model
    from millstream.definitions.on_demand import OnDemandFeature
    from millstream.definitions.source import EventStream, Table

    return Entity, EventStream, Table, StreamFeatureGroup, BatchFeatureGroup, OnDemandFeature, FeatureView, Model


def _run(path: Path) -> ModuleType:
    """Run the file as a module of its own; its folder is importable meanwhile."""
    module = ModuleType("millstream_project")
    module.__file__ = str(path)
    try:
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    except OSError as error:
        raise ProjectError(
            f"Definitions '{path}' cannot be read: {(error.strerror or str(error)).lower()}.",
            "`definitions` in millstream.toml names the file.",
        ) from error
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise ProjectError(f"Definitions '{path}'{line}: {error.msg}.", "mend the line.") from error
    except UnicodeDecodeError as error:
        raise ProjectError(f"Definitions '{path}' cannot be read: {error}.", "save the file as UTF-8.") from error
    sys.path.insert(0, str(path.parent))
    sys.modules[module.__name__] = module  # an on-demand feature looks its module up
    try:
        with redirect_stdout(sys.stderr):  # what the file prints is no part of a command's answer
            exec(code, module.__dict__)
    except MillstreamError as error:
        place = f"Definitions '{path}'{_line(error, path)}: "
        raise type(error)(place + error.message, error.hint) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # `sys.exit()` too: it would end the command as if all had been done
        said = f"{type(error).__name__}: {_said(error)}".removesuffix(": ")
        raise ProjectError(f"Definitions '{path}'{_line(error, path)}: {said}.", "mend the line.") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _said(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())
    except Exception as again:
        return f"its message cannot be shown ({type(again).__name__})"


def _line(error: BaseException, path: Path) -> str:
    frames: Iterable[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
