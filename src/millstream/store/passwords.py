"""The password of a server that holds the online store: from the environment, or from a file."""

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
    if not file:
        return os.environ.get(variable, "")
    path = settings.folder / file
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectError(
            f"Settings: 'online.password_file' is '{path}', which cannot be read.",
            f"put the password there, readable by this user, or into the environment as {variable}.",
        ) from error
