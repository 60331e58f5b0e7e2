"""What lets us in at a server that holds a store: from the environment, or from a file, never from millstream.toml."""

from __future__ import annotations

import os

from millstream.errors import ProjectError
from millstream.settings import Settings


def online_password(settings: Settings, variable: str, file: str) -> str:
    """Return the password that `[online]` names; nothing where it names no file and the variable is not set.

    Args:
        settings: the project, to whose folder the file is relative.
        variable: the environment variable that holds it.
        file: the file that holds it instead, or nothing.

    Raises:
        ProjectError: when the file cannot be read.
    """
    return secret(settings, "online.password_file", variable, file)


def secret(settings: Settings, setting: str, variable: str, file: str) -> str:
    """Return what a file holds, or else the environment; nothing where no file is named and the variable is not set.

    Args:
        settings: the project, to whose folder the file is relative.
        setting: the setting that names the file, for messages, such as "online.password_file".
        variable: the environment variable.
        file: the file, or nothing.

    Raises:
        ProjectError: when the file cannot be read.
    """
    if not file:
        return os.environ.get(variable, "")
    path = settings.folder / file
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = setting.rpartition(".")[2].removesuffix("_file").replace("_", " ")
        raise ProjectError(
            f"Settings: '{setting}' is '{path}', which cannot be read.",
            f"put the {what} there, readable by this user, or into the environment as {variable}.",
        ) from error
