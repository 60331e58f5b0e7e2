"""Schedules: a duration, or a cron line in a time zone."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from millstream.definitions.durations import micros
from millstream.errors import DefinitionError


def check_every(thing: str, every: object, zone: str) -> tuple[int | None, str | None]:
    """Return a schedule as (microseconds, None) or (None, cron line), or raise `DefinitionError`."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise DefinitionError.expected(thing, "zone", zone, "a time zone", 'write zone="Europe/Berlin".') from None
    if isinstance(every, str) and len(every.split()) > 1:
        from croniter import croniter

        if len(every.split()) != 5 or not croniter.is_valid(every):
            raise DefinitionError.expected(thing, "every", every, "a cron line of five fields", 'write "0 2 * * *".')
        return None, " ".join(every.split())
    interval = micros(every, thing, "every")  # type: ignore[arg-type]
    if interval == 0:
        raise DefinitionError.expected(thing, "every", every, "a duration above 0 or a cron line", 'write every="24h".')
    return interval, None
