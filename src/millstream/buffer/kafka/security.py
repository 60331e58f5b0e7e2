"""How a client of Kafka's encrypts, and says who asks; a password comes from the environment or a file, not from a setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from millstream.errors import ProjectError

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
SASL = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


def options_of(
    folder: Path,
    *,
    security: Security,
    sasl: SASL,
    user: str,
    password: tuple[str, str],
    files: Mapping[str, str],
    section: str = "log",
) -> dict[str, Any]:
    """Return what a client is told of security.

    Args:
        folder: the project's folder; files are relative to it.
        security: how to connect.
        sasl: how to say who asks, where `security` is one of SASL's.
        user: who asks.
        password: the environment variable, and the file, of which one holds the password.
        files: by the client's own name for each, files of certificates; empty where none is set.
        section: the section of the settings that says so, for errors.

    Raises:
        ProjectError: when a password or a file that is needed is not there.

    Example:
        >>> options_of(Path(), security="ssl", sasl="PLAIN", user="", password=("", ""), files={"ssl.ca.location": ""})
        {'security.protocol': 'ssl'}
    """
    options: dict[str, Any] = {"security.protocol": security}
    for name, file in files.items():
        if file:
            path = folder / file
            if not path.is_file():
                raise _wrong(section, f"file '{path}' is not there", "such files are relative to the project's folder.")
            options[name] = str(path)
    if security.startswith("sasl"):
        if not user:
            what = f"'user' is missing, which security = \"{security}\" needs"
            raise _wrong(section, what, f"write it below [{section}].")
        secret = password_of(folder, *password, section=section)
        options |= {"sasl.mechanism": sasl, "sasl.username": user, "sasl.password": secret}
    return options


def password_of(folder: Path, variable: str, file: str, *, section: str) -> str:
    """Return the password that an environment variable or a file holds.

    Args:
        folder: the project's folder; the file is relative to it.
        variable: the environment variable, or nothing.
        file: the file, or nothing.
        section: the section of the settings that says so, for errors.

    Raises:
        ProjectError: when neither is named, or what is named holds nothing.
    """
    if variable:
        found = os.environ.get(variable, "")
        where = f"the environment variable '{variable}'"
    elif file:
        try:
            found = (folder / file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError):
            found = ""
        where = f"the file '{folder / file}'"
    else:
        what = "neither 'password_env' nor 'password_file' is set"
        raise _wrong(section, what, "say which of them holds the password.")
    if not found:
        raise _wrong(section, f"{where} holds no password", "set it where the processes of the project run.")
    return found


def _wrong(section: str, what: str, hint: str) -> ProjectError:
    return ProjectError(f"Settings: [{section}] kind = 'kafka': {what}.", hint)
