"""A project: its parts joined, and everything it does from one object."""

from millstream.project.project import Project

__all__ = ["Project"]
