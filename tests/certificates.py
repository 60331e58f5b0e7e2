"""Certificates for tests: of an authority of their own, of a server on the loopback, and of a client."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Files in PEM format, in a folder.

    Args:
        folder: where they are: `ca.pem`, and of "server" and "client" the certificate (`.pem`) and the key (`.key`).
    """

    folder: Path

    @classmethod
    def made(cls, folder: Path, user: str) -> Certificates:
        """Make them; the client's names a user, the server's the address 127.0.0.1."""
        made = cls(folder)
        authority = ("-subj", "/CN=Mill", "-addext", "basicConstraints=critical,CA:TRUE")
        made._request("ca", *authority)
        signed = ("-CA", str(made.ca), "-CAkey", str(folder / "ca.key"))
        made._request("server", "-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1", *signed)
        made._request("client", "-subj", f"/CN={user}", *signed)
        return made

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    def of(self, name: str) -> tuple[Path, Path]:
        """The certificate and the key of the server or the client."""
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _request(self, name: str, *arguments: str) -> None:
        certificate, key = self.of(name)
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc",
                   "-days", "2", "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
        subprocess.run([*command, *arguments], check=True, capture_output=True)
        key.chmod(0o600)


def lacking() -> str | None:
    """How to get what makes certificates, where the machine does not have it."""
    return None if shutil.which("openssl") else "`apt-get install openssl` brings it."
