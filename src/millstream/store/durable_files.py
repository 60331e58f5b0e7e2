"""Local files of the offline store, on the disk before they count as closed: a commit never names lost ones."""

from __future__ import annotations

import io
import os

from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO


class DurableFileIO(PyArrowFileIO):
    """PyIceberg's own file access, except that local files are synced when written."""

    def new_output(self, location: str) -> PyArrowFile:
        """A file to write at a location, as PyIceberg asks for it."""
        scheme, netloc, path = self.parse_location(location, self.properties)
        if scheme != "file":
            return super().new_output(location)
        return _DurableFile(location, path, self.fs_by_scheme(scheme, netloc))


class _DurableFile(PyArrowFile):
    def create(self, overwrite: bool = False) -> io.BufferedWriter:
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        return _Synced(io.FileIO(self._path, "w" if overwrite else "x"), 1 << 20)


class _Synced(io.BufferedWriter):
    """A buffered file which is synced, and its name with it, before it counts as closed."""

    def close(self) -> None:
        if not self.closed:
            self.flush()
            os.fsync(self.fileno())
            folder = os.open(os.path.dirname(self.name), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        super().close()
