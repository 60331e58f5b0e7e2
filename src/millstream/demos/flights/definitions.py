"""The flights project: what is known of airports, carriers, routes and aircraft thirty minutes before a departure."""

import millstream as ms

FLIGHT = {"flight_id": "string", "carrier": "string", "origin": "string", "dest": "string", "tailnum": "string"}

departures = ms.EventStream(
    "departures", time="departed_at",
    schema={**FLIGHT, "dep_delay": "float64", "scheduled_at": "timestamp", "departed_at": "timestamp"},
)  # fmt: skip
arrivals = ms.EventStream(
    "arrivals", time="landed_at",
    schema={**FLIGHT, "arr_delay": "float64", "late": "float64", "scheduled_at": "timestamp", "landed_at": "timestamp"},
)  # fmt: skip
requests = ms.EventStream(
    "requests", time="asked_at", deduplicate="flight_id",
    schema={**FLIGHT, "distance": "float64", "hour": "float64", "weekday": "int64", "asked_at": "timestamp"},
)  # fmt: skip
outcomes = ms.EventStream(
    "outcomes", time="known_at", deduplicate="flight_id",
    schema={"flight_id": "string", "late": "bool", "known_at": "timestamp"},
)  # fmt: skip
weather = ms.Table("weather", path="weather.parquet", time="observed_at", delay="1h")
planes = ms.Table("planes", path="planes.parquet")

airport = ms.Entity("airport", keys={"origin": "string"})
airline = ms.Entity("airline", keys={"carrier": "string", "origin": "string"})
destination = ms.Entity("destination", keys={"dest": "string"})
route = ms.Entity("route", keys={"carrier": "string", "dest": "string"})
aircraft = ms.Entity("aircraft", keys={"tailnum": "string"})

runway = ms.StreamFeatureGroup("runway", entity=airport, source=departures, features=[
    ms.Count(over=["1h", "3h"]), ms.Mean("dep_delay", over=["1h", "3h", "24h"]), ms.Std("dep_delay", over="3h"),
    ms.Max("dep_delay", over="1h"), ms.Last("dep_delay", over="24h")])  # fmt: skip
airline_now = ms.StreamFeatureGroup("airline_now", entity=airline, source=departures, features=[
    ms.Count(over="3h"), ms.Mean("dep_delay", over=["3h", "24h"]), ms.Last("dep_delay", over="24h")])  # fmt: skip
landings = ms.StreamFeatureGroup("landings", entity=destination, source=arrivals, features=[
    ms.Mean("arr_delay", over=["3h", "6h"]), ms.Mean("late", over="6h"), ms.Last("arr_delay", over="24h")])  # fmt: skip
route_week = ms.StreamFeatureGroup("route_week", entity=route, source=arrivals, features=[
    ms.Mean("late", over=["7d", "30d"]), ms.Mean("arr_delay", over="7d")])  # fmt: skip
inbound = ms.StreamFeatureGroup("inbound", entity=aircraft, source=arrivals, features=[
    ms.Last("arr_delay", over="24h"), ms.Mean("arr_delay", over="24h"), ms.TimeSince(over="7d")])  # fmt: skip
sky = ms.BatchFeatureGroup(
    "sky", entity=airport, sources=[weather], every="1h", time="observed_at",
    query="select origin, observed_at, temp, dewp, humid, wind_speed, wind_gust, precip, pressure, visib from weather "
    "where observed_at > :start and observed_at <= :end",  # what was seen at an end is known an hour after it
)  # fmt: skip
airframe = ms.BatchFeatureGroup(
    "airframe", entity=aircraft, sources=[planes], every="30d", query="select tailnum, built, seats from planes"
)


@ms.on_demand(returns="float64")
def turnaround(inbound__time_since_7d, inbound__arr_delay_last_24h):
    """Minutes the aircraft has had on the ground, less what it was late by."""
    return inbound__time_since_7d / 60 - inbound__arr_delay_last_24h


flights = ms.FeatureView(
    "flights",
    request={"carrier": "string", "origin": "string", "dest": "string", "distance": "float64", "hour": "float64",
             "weekday": "int64"},
    features=[runway, airline_now, landings, route_week, inbound, sky, airframe, turnaround],
)  # fmt: skip
late = ms.Model(
    "late", view=flights, trainer=ms.LightGBM(rounds=60, leaves=31, learning_rate=0.15, min_rows=50), examples=requests,
    label=ms.Label(outcomes, "late", on="flight_id", after="36h"), retrain=ms.Retrain(every="30d"),
)  # fmt: skip
