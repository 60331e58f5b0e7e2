"""The fraud simulator: what a seed fixes, that history and live stream are one world, and what its frauds look like."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from millstream.testing.generators import DAY, HOUR, SENT_AT, FraudSimulator, LiveEvents, generate, rows

START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = 20_454


def micros(table: pa.Table, column: str) -> np.ndarray:
    return table[column].cast(pa.int64()).to_numpy()


def test_a_seed_fixes_every_event() -> None:
    again = generate(3, 10, 100, START)
    assert all(generate(3, 10, 100, START)[name].equals(table) for name, table in again.items())
    assert not generate(4, 10, 100, START)["payments"].equals(again["payments"])


def test_a_day_does_not_depend_on_the_days_around_it() -> None:
    simulator = FraudSimulator(seed=3, users=100)
    alone = simulator.between(FIRST + 1, FIRST + 2)["payments"]
    both = simulator.between(FIRST, FIRST + 2)["payments"]
    assert both.slice(both.num_rows - alone.num_rows).equals(alone)


@pytest.mark.parametrize("step", [HOUR // 7, 5 * HOUR, 3 * DAY])
def test_live_events_continue_the_history_without_gap_or_repeat(step: int) -> None:
    simulator = FraudSimulator(seed=3, users=60, repeats=0.0)
    since, until = FIRST * DAY + 8 * HOUR, (FIRST + 3) * DAY
    live = LiveEvents(simulator, since)
    got = {name: [] for name in SENT_AT}
    for now in range(since + step, until + step, step):
        for name, table in live.due(min(now, until)).items():
            got[name].append(table)
    for name, column in SENT_AT.items():
        sent = pa.concat_tables(got[name])
        every = simulator.between(FIRST - 40, FIRST + 4)[name]
        at = micros(every, column)
        assert sent.num_rows == np.count_nonzero((at > since) & (at <= until))
        assert np.all(np.diff(micros(sent, column)) >= 0)


def test_time_that_goes_backwards_gives_nothing() -> None:
    live = LiveEvents(FraudSimulator(seed=3, users=60), FIRST * DAY)
    live.due(FIRST * DAY + 12 * HOUR)
    assert all(table.num_rows == 0 for table in live.due(FIRST * DAY + 6 * HOUR).values())


def test_history_holds_only_disputes_decided_by_its_end() -> None:
    disputes = generate(3, 40, 300, START)["disputes"]
    assert micros(disputes, "decided_at").max() < (FIRST + 40) * DAY
    assert np.all(micros(disputes, "decided_at") > micros(disputes, "paid_at"))


def test_disputes_name_payments_and_come_within_four_weeks() -> None:
    tables = FraudSimulator(seed=3, users=300).between(FIRST, FIRST + 20)
    paid = dict(zip(*(tables["payments"][name].to_pylist() for name in ("payment_id", "paid_at")), strict=True))
    for dispute in tables["disputes"].to_pylist():
        assert paid[dispute["payment_id"]] == dispute["paid_at"]
        assert (dispute["decided_at"] - dispute["paid_at"]).days < 28


def test_payment_ids_repeat_only_where_a_producer_sends_twice() -> None:
    sent = FraudSimulator(seed=3, users=300, repeats=0.05).between(FIRST, FIRST + 5)["payments"]
    once = FraudSimulator(seed=3, users=300, repeats=0.0).between(FIRST, FIRST + 5)["payments"]
    assert len(set(once["payment_id"].to_pylist())) == once.num_rows
    assert set(sent["payment_id"].to_pylist()) == set(once["payment_id"].to_pylist())
    assert 1.02 < sent.num_rows / once.num_rows < 1.08


def test_frauds_can_be_told_from_honest_payments() -> None:
    tables = generate(3, 60, 500, START)
    frauds = {row["payment_id"] for row in tables["disputes"].to_pylist() if row["is_fraud"]}
    amounts = tables["payments"]["amount"].to_numpy()
    fraud = np.array([one in frauds for one in tables["payments"]["payment_id"].to_pylist()])
    assert 0.005 < fraud.mean() < 0.03
    assert amounts[fraud].mean() > 1.5 * amounts[~fraud].mean()
    assert fraud[amounts > 220].mean() > 0.5


def test_rows_are_what_a_producer_would_post() -> None:
    payments = FraudSimulator(seed=3, users=60).between(FIRST, FIRST + 1)["payments"]
    row = next(rows(payments))
    assert datetime.fromisoformat(row["paid_at"]) == payments["paid_at"][0].as_py()
    assert list(row) == payments.column_names


def test_accounts_are_known_before_the_start_and_cover_users_and_payees() -> None:
    accounts = FraudSimulator(seed=3, users=60).accounts(FIRST * DAY)
    assert set(accounts["user_id"].to_pylist()) == set(range(1, 181))
    assert micros(accounts, "updated_at").max() < FIRST * DAY
    assert set(accounts["tier"].to_pylist()) == {"basic", "verified", "business"}
