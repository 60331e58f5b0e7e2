"""Whether a project's log, stores, archive and registry are still of one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millstream.project.parts import Parts


class Identity:
    """What tells that a part was restored, emptied or exchanged since the others knew it.

    Args:
        parts: the project's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def stepped_back(self) -> list[str]:
        """Where the stores and the archive are of a later or another log than the one there is."""
        from millstream.history.agreement import archive_ahead, online_ahead, stated_ahead
        from millstream.history.registered import registry_behind

        parts = self._parts
        versions = parts.registry.groups()
        found = online_ahead(parts.log, parts.online, versions)
        found += archive_ahead(parts.log, parts.offline, parts.registry.streams())
        found += stated_ahead(parts.log, parts.offline, versions)
        behind = None if found else registry_behind(parts.log, parts.registry)  # another log knows no registry
        return found if behind is None else [f"Registry: {behind}."]

    def revision(self) -> int:
        """A number that changes with the definitions and the states of group versions; who asks goes by them.

        Raises:
            SteppedBack: when the registry is older than the one that was gone by, or another one.
        """
        from millstream.errors import SteppedBack
        from millstream.history.registered import HINT, note_registry

        try:
            return note_registry(self._parts.log, self._parts.registry)
        except SteppedBack:
            raise SteppedBack(" ".join(self.stepped_back()), HINT) from None
