"""The embedded log lies on a disk here, as its tests are about what has reached one and who waits for it."""

from tests.disks import on_disk as tmp_path

__all__ = ["tmp_path"]
