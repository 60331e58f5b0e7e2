"""A seeded simulator of payments, logins and disputes, for demos, tests and benchmarks.

Every day is a function of (seed, day) alone, so a history and the live stream that follows it are one world, and a
source that is restarted goes on with the same events. The scenarios follow the description of the transaction
simulator by Le Borgne, Siblini, Lebichot and Bontempi (Reproducible Machine Learning for Credit Card Fraud Detection,
2022), with account takeovers added. It is a simulator: a score reached here says nothing about real fraud.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Columns = dict[str, np.ndarray]

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR

COUNTRIES = np.array(["DE", "FR", "GB", "ES", "IT", "NL", "PL", "US", "BR", "IN", "NG", "VN"])
COUNTRY_SHARES = np.array([0.22, 0.17, 0.15, 0.11, 0.10, 0.07, 0.06, 0.05, 0.03, 0.02, 0.01, 0.01])

NEAR = 40
"""Payees in a user's neighbourhood: whom the user pays."""
LARGE = 220.0
"""An amount above this is always a fraud, as in the description."""
PAYEE_DAYS, USER_DAYS = 28, 14
"""For how many days a compromised payee and stolen credentials are used."""
SLOWEST = 28
"""Days within which every dispute is decided."""

INSTANT = pa.timestamp("us", tz="UTC")
PAYMENTS = pa.schema(
    [
        ("payment_id", pa.string()),
        ("user_id", pa.int64()),
        ("payee_id", pa.int64()),
        ("device_id", pa.string()),
        ("amount", pa.float64()),
        ("country", pa.string()),
        ("status", pa.string()),
        ("paid_at", INSTANT),
    ]
)
LOGINS = pa.schema([("user_id", pa.int64()), ("country", pa.string()), ("at", INSTANT)])
DISPUTES = pa.schema(
    [
        ("payment_id", pa.string()),
        ("payee_id", pa.int64()),
        ("is_fraud", pa.bool_()),
        ("paid_at", INSTANT),
        ("decided_at", INSTANT),
    ]
)
ACCOUNTS = pa.schema([("user_id", pa.int64()), ("updated_at", INSTANT), ("tier", pa.string())])
SENT_AT = {"payments": "paid_at", "logins": "at", "disputes": "decided_at"}
"""The column by which a live source sends each stream."""


@dataclass(frozen=True)
class FraudSimulator:
    """A world of users who pay payees near them, and of four kinds of fraud.

    Use it where a test or a demo needs payments with a known truth: amounts far above the usual, compromised payees
    (28 days), stolen credentials (14 days, amounts times five) and account takeovers (a login abroad, a device of a
    ring, a burst of payments within the hour).

    Args:
        seed: fixes the world and everything that happens in it.
        users: how many users pay; there are twice as many payees, numbered after them.
        payments_a_day: mean payments of one user in a day.
        repeats: share of payments that a producer sends twice.

    Example:
        >>> FraudSimulator(seed=1, users=100).between(20_454, 20_456)["payments"].num_rows
        418
    """

    seed: int = 0
    users: int = 1_000
    payments_a_day: float = 2.0
    repeats: float = 0.002

    def between(self, first: int, last: int) -> dict[str, pa.Table]:
        """What happens from day `first` up to, not including, day `last` (days since 1970-01-01, UTC).

        Args:
            first: the first day.
            last: the day after the last one.

        Returns:
            Tables "payments", "logins" and "disputes", each in the order in which a producer sends it. The disputes are
            those of payments made on these days, whenever they are decided.
        """
        days = [self._day(day) for day in range(first, last)]
        return {
            "payments": pa.concat_tables([_payments(day) for day, _ in days]),
            "logins": pa.concat_tables([logins for _, logins in days]),
            "disputes": _sorted(pa.concat_tables([self._disputes(day) for day, _ in days]), "decided_at"),
        }

    def accounts(self, start: int) -> pa.Table:
        """The table of accounts (users and payees) with their tier, as known at instant `start` (µs).

        Returns:
            Columns user_id, updated_at, tier; a third of the users have an older row too.
        """
        random = self._random(9)
        people = 3 * self.users
        tier = np.where(np.arange(people) < self.users, random.integers(0, 2, people), 2)
        tier = np.where(self._is_mule_account, 0, tier)
        upgraded = np.flatnonzero(random.random(self.users) < 1 / 3)
        codes = np.concatenate([np.zeros(len(upgraded), np.int64), tier])
        ids = np.concatenate([upgraded, np.arange(people)]) + 1
        back = np.concatenate([60 + 30 * random.random(len(upgraded)), 1 + 59 * random.random(people)])
        updated = start - (back * DAY).astype(np.int64)
        tiers = np.array(["basic", "verified", "business"])[codes]
        table = pa.table({"user_id": ids, "updated_at": _instants(updated), "tier": tiers})
        return _sorted(table.cast(ACCOUNTS), "updated_at")

    # Who there is: drawn once.

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])

    @property
    def _payees(self) -> int:
        return 2 * self.users

    @cached_property
    def _people(self) -> Mapping[str, np.ndarray]:
        random = self._random(0)
        mean = random.uniform(5, 100, self.users)
        return {
            "mean": mean,
            "rate": random.uniform(0, 2 * self.payments_a_day, self.users),
            "home": random.choice(len(COUNTRIES), self.users, p=COUNTRY_SHARES),
            "devices": random.integers(1, 4, self.users),
            "near": random.integers(0, self._neighbourhoods, self.users),
        }

    @property
    def _neighbourhoods(self) -> int:
        return max(1, self._payees // NEAR)

    @cached_property
    def _is_mule_account(self) -> np.ndarray:
        mule = np.zeros(3 * self.users, bool)
        mule[self.users :] = self._random(8).random(self._payees) < 0.05
        return mule

    def _compromised(self, day: int, kind: int, among: int, a_day: float, lasting: int) -> np.ndarray:
        """Whether each of `among` people is compromised on a day: drawn on one of the `lasting` days up to it."""
        hit = np.zeros(among, bool)
        for since in range(day - lasting + 1, day + 1):
            random = self._random(kind, since)
            hit[random.integers(0, among, random.poisson(among * a_day))] = True
        return hit

    # What they do: drawn day by day.

    def _day(self, day: int) -> tuple[Columns, pa.Table]:
        random = self._random(1, day)
        usual, abroad = self._usual_payments(random, day)
        taken, entries = self._takeovers(random, day)
        paid = {name: np.concatenate([usual[name], taken[name]]) for name in usual}
        order = np.argsort(paid["time"], kind="stable")
        paid = {name: values[order] for name, values in paid.items()}
        paid["number"] = np.arange(len(order))
        paid["day"] = np.full(len(order), day)
        paid["repeat"] = random.random(len(order)) < self.repeats
        return paid, _sorted(self._logins(random, day, usual, entries, abroad), "at")

    def _usual_payments(self, random: np.random.Generator, day: int) -> tuple[Columns, np.ndarray]:
        people = self._people
        user = np.repeat(np.arange(self.users), random.poisson(people["rate"]))
        n = len(user)
        mean = people["mean"][user]
        amount: np.ndarray = random.normal(mean, mean / 2)
        amount = np.where(amount > 0, amount, random.uniform(np.zeros(n), 2 * mean))
        stolen = self._compromised(day, 2, self.users, 3 / 5_000, USER_DAYS)[user] & (random.random(n) < 1 / 3)
        amount = np.round(np.where(stolen, 5 * amount, amount), 2)
        payee = self._near_payee(random, user)
        compromised = self._compromised(day, 3, self._payees, 2 / 10_000, PAYEE_DAYS)[payee]
        home = people["home"]
        away = random.random(self.users) < 0.015
        country = np.where(away, random.integers(0, len(COUNTRIES), self.users), home)
        device = np.where(random.random(n) < 0.8, 0, random.integers(0, people["devices"][user]))
        paid = {
            "user": user,
            "payee": self.users + 1 + payee,
            "device": user * 4 + device,
            "amount": np.maximum(amount, 0.01),
            "country": country[user],
            "declined": random.random(n) < np.where(stolen, 0.15, 0.02),
            "fraud": stolen | compromised | (amount > LARGE),
            "time": day * DAY + _time_of_day(random, n),
        }
        return paid, country

    def _near_payee(self, random: np.random.Generator, user: np.ndarray) -> np.ndarray:
        """Payee i lives in neighbourhood i modulo their number, so a neighbourhood is an arithmetic sequence."""
        near = self._people["near"][user]
        size = (self._payees - near + self._neighbourhoods - 1) // self._neighbourhoods
        which: np.ndarray = (random.random(len(user)) * size).astype(np.int64)
        payee: np.ndarray = near + self._neighbourhoods * which
        return payee

    def _takeovers(self, random: np.random.Generator, day: int) -> tuple[Columns, Columns]:
        """Accounts taken over on a day: the burst of payments of each, and the login before it."""
        victims = random.integers(0, self.users, random.poisson(self.users * 6 / 10_000))
        entered = day * DAY + _time_of_day(random, len(victims))
        rings = max(1, self.users // 500)
        ring = random.integers(0, rings, len(victims))
        country = random.integers(len(COUNTRIES) - 4, len(COUNTRIES), len(victims))
        which = np.repeat(np.arange(len(victims)), random.integers(3, 9, len(victims)))
        n = len(which)
        mules = np.flatnonzero(self._is_mule_account[self.users :])
        mule = mules[random.integers(0, len(mules), rings)] if len(mules) else np.zeros(rings, np.int64)
        mean = self._people["mean"][victims[which]]
        paid = {
            "user": victims[which],
            "payee": self.users + 1 + mule[ring[which]],
            "device": -1 - (ring[which] + rings * (day // 7 % 1_000)),
            "amount": np.round(mean * random.uniform(1.5, 4.0, n), 2),
            "country": country[which],
            "declined": random.random(n) < 0.3,
            "fraud": np.ones(n, bool),
            "time": np.minimum(entered[which] + random.integers(2 * 60 * SECOND, HOUR, n), (day + 1) * DAY - 1),
        }
        return paid, {"user": victims, "country": country, "time": entered}

    def _logins(
        self, random: np.random.Generator, day: int, usual: Columns, entries: Columns, country: np.ndarray
    ) -> pa.Table:
        first = random.random(len(usual["time"])) < 0.6
        before = random.integers(10 * SECOND, 600 * SECOND, len(first))
        user = np.concatenate([usual["user"][first], entries["user"]])
        at = np.concatenate([(usual["time"] - before)[first], entries["time"]])
        codes = np.concatenate([country[usual["user"][first]], entries["country"]])
        at = np.maximum(at, day * DAY)  # a day stays within itself, so that days can be drawn one by one
        return pa.table({"user_id": user + 1, "country": COUNTRIES[codes], "at": _instants(at)}).cast(LOGINS)

    def _disputes(self, paid: Columns) -> pa.Table:
        """Most frauds are found within days, a few after weeks; a few honest payments are disputed in vain."""
        random = self._random(4, int(paid["day"][0])) if len(paid["day"]) else self._random(4)
        draw = random.random(len(paid["time"]))
        found = np.flatnonzero(np.where(paid["fraud"], draw < 0.95, draw < 0.002))
        days = np.clip(random.lognormal(np.log(4.0), 0.7, len(found)), 0.1, SLOWEST - 0.1)
        decided = paid["time"][found] + (days * DAY).astype(np.int64)
        return pa.table(
            {
                "payment_id": _payment_ids(paid).take(pa.array(found)),
                "payee_id": paid["payee"][found],
                "is_fraud": paid["fraud"][found],
                "paid_at": _instants(paid["time"][found]),
                "decided_at": _instants(decided),
            }
        ).cast(DISPUTES)


class LiveEvents:
    """The endless stream of a simulator from an instant on, asked for what is due.

    It follows whatever clock the caller asks with, so a faster clock gives more events a second. Disputes of payments
    made before `since` come when they are decided.

    Args:
        simulator: the world.
        since: the instant (µs) after which events are due.

    Example:
        >>> live = LiveEvents(FraudSimulator(seed=1, users=100), since=1_767_225_600_000_000)
        >>> {name: table.num_rows for name, table in live.due(1_767_225_600_000_000 + 12 * 3_600_000_000).items()}
        {'payments': 111, 'logins': 64, 'disputes': 2}
    """

    def __init__(self, simulator: FraudSimulator, since: int) -> None:
        self._simulator = simulator
        self._sent = since
        self._next_day = since // DAY
        before = simulator.between(self._next_day - SLOWEST, self._next_day)
        self._waiting = {"disputes": _between(before["disputes"], "decided_at", since, None)}

    def due(self, now: int) -> dict[str, pa.Table]:
        """The events sent after the last call and up to `now` (µs), by stream, in the order of sending.

        Args:
            now: the present instant; one before the last call's gives nothing.

        Returns:
            A table for each of payments, logins and disputes, possibly empty.
        """
        while self._next_day * DAY <= now:
            self._take_day()
        due = {}
        for name, column in SENT_AT.items():
            due[name] = _between(self._waiting[name], column, self._sent, now)
            self._waiting[name] = _between(self._waiting[name], column, max(now, self._sent), None)
        self._sent = max(now, self._sent)
        return due

    def _take_day(self) -> None:
        for name, table in self._simulator.between(self._next_day, self._next_day + 1).items():
            waiting = self._waiting.get(name)
            both = table if waiting is None else pa.concat_tables([waiting, table])
            self._waiting[name] = _sorted(both, SENT_AT[name]) if name == "disputes" else both
        self._next_day += 1


def generate(seed: int, days: int, users: int, start: datetime) -> dict[str, pa.Table]:
    """A history of the fraud simulator: what was known at its end.

    Args:
        seed: fixes the history.
        days: how many days it covers.
        users: how many users pay (twice as many payees).
        start: its first day; the time of day is dropped.

    Returns:
        Tables "payments", "logins", "disputes" (those decided by the end) and "accounts".

    Example:
        >>> from datetime import UTC, datetime
        >>> tables = generate(seed=1, days=30, users=100, start=datetime(2026, 1, 1, tzinfo=UTC))
        >>> tables["payments"].num_rows, tables["disputes"].num_rows
        (6087, 97)
    """
    first = int(start.replace(tzinfo=start.tzinfo or UTC).timestamp()) * SECOND // DAY
    simulator = FraudSimulator(seed=seed, users=users)
    tables = simulator.between(first, first + days)
    end = (first + days) * DAY
    tables["disputes"] = _between(tables["disputes"], "decided_at", None, end - 1)
    return {**tables, "accounts": simulator.accounts(end)}


def rows(table: pa.Table) -> Iterator[dict[str, object]]:
    """The rows of a table as a producer would post them: instants as ISO-8601 text.

    Example:
        >>> day = FraudSimulator(seed=1, users=100).between(20_454, 20_455)
        >>> next(rows(day["logins"]))
        {'user_id': 61, 'country': 'GB', 'at': '2026-01-01T00:11:13.002231Z'}
    """
    for name, kind in zip(table.schema.names, table.schema.types, strict=True):
        if pa.types.is_timestamp(kind):
            text = pc.strftime(table[name], format="%Y-%m-%dT%H:%M:%SZ")
            table = table.set_column(table.schema.get_field_index(name), name, text)
    yield from table.to_pylist()


def _time_of_day(random: np.random.Generator, n: int) -> np.ndarray:
    seconds = random.normal(43_200, 20_000, n)
    outside = (seconds < 0) | (seconds >= 86_400)
    return (np.where(outside, random.uniform(0, 86_400, n), seconds) * SECOND).astype(np.int64)


def _payments(paid: Columns) -> pa.Table:
    sent = np.repeat(np.arange(len(paid["time"])), 1 + paid["repeat"])
    table = pa.table(
        {
            "payment_id": _payment_ids(paid),
            "user_id": paid["user"] + 1,
            "payee_id": paid["payee"],
            "device_id": _device_ids(paid["device"]),
            "amount": paid["amount"],
            "country": COUNTRIES[paid["country"]],
            "status": np.where(paid["declined"], "declined", "approved"),
            "paid_at": _instants(paid["time"]),
        }
    )
    return table.cast(PAYMENTS).take(pa.array(sent))


def _payment_ids(paid: Columns) -> pa.Array:
    day, number = (pa.array(paid[name]).cast(pa.string()) for name in ("day", "number"))
    return pc.binary_join_element_wise("p", day, "-", number, "").cast(pa.string())


def _device_ids(codes: np.ndarray) -> pa.Array:
    ring = codes < 0
    kind = pa.array(np.where(ring, "r", "d"))
    number = pa.array(np.where(ring, -1 - codes, codes)).cast(pa.string())
    return pc.binary_join_element_wise(kind, number, "")


def _instants(micros: np.ndarray) -> pa.Array:
    return pa.array(micros, pa.int64()).cast(INSTANT)


def _sorted(table: pa.Table, column: str) -> pa.Table:
    return table.take(pa.array(np.argsort(_micros(table, column), kind="stable")))


def _between(table: pa.Table, column: str, after: int | None, upto: int | None) -> pa.Table:
    """The rows of a table sorted by a column of instants with `after < instant <= upto`."""
    micros = _micros(table, column)
    low = 0 if after is None else int(np.searchsorted(micros, after, "right"))
    high = len(micros) if upto is None else int(np.searchsorted(micros, upto, "right"))
    return table.slice(low, max(0, high - low))


def _micros(table: pa.Table, column: str) -> np.ndarray:
    micros: np.ndarray = table[column].cast(pa.int64()).to_numpy()
    return micros
