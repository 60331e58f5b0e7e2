"""Projects that run as processes lie on a disk, as they do elsewhere: what is killed may be waiting for it."""

from tests.disks import on_disk as tmp_path

__all__ = ["tmp_path"]
