"""Training sets: every example kept, only what was known, matured labels only, repeatable from their pins."""

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.buffer.codec.events import decode, encode_history
from millstream.buffer.log import Records
from millstream.definitions.group_version import GroupVersion
from millstream.errors import TrainingError
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.train.stored_history import Pins, Stored
from millstream.train.training_set import TrainingSet, training_set

DAY = 86_400_000_000
LATER = 10_000 * DAY  # when all of it was loaded
user = ms.Entity("user", keys={"user_id": "int64"})
payments = ms.EventStream(
    "payments",
    time="at",
    schema={"payment_id": "string", "user_id": "int64", "amount": "float64", "at": "timestamp"},
)
disputes = ms.EventStream(
    "disputes",
    time="paid_at",
    available="decided_at",
    schema={"payment_id": "string", "fraud": "bool", "paid_at": "timestamp", "decided_at": "timestamp"},
)
spend = ms.StreamFeatureGroup("spend", entity=user, source=payments, features=[ms.Count(over="30d"), ms.Last("amount")])
accounts = ms.Table("accounts", path="a.parquet", schema={"user_id": "int64", "tier": "string"})
kyc = ms.BatchFeatureGroup(
    "kyc", entity=user, sources=[accounts], every="24h", query="select user_id, tier from accounts"
)
view = ms.FeatureView("fraud", request={"amount": "float64"}, features=[spend, kyc])


def a_model(absent=False, **more):
    return ms.Model(
        "fraud",
        view=view,
        examples=payments,
        label=ms.Label(disputes, "fraud", on="payment_id", absent=absent, after="10d"),
        **more,
    )


VERSIONS = {"spend": GroupVersion(spend, 1), "kyc": GroupVersion(kyc, 1)}


class Events:
    """History in memory, one partition a stream; `add` appends to it."""

    def __init__(self):
        self.tables = {}

    def add(self, stream, rows):
        known = self.tables.get(stream.name)
        position = 0 if known is None else known.num_rows
        timed = [name for name, kind in stream.schema.items() if kind == "timestamp"]
        dated = [
            {n: np.datetime64(v, "us") if n in timed and v is not None else v for n, v in row.items()} for row in rows
        ]
        (batch,) = encode_history(stream, dated)  # a small number alone would be taken for seconds
        decoded = decode(
            stream, [Records.of(stream.name, 0, batch, np.arange(position, position + batch.count), LATER)]
        )
        assert not decoded.dead
        self.tables[stream.name] = decoded.table if known is None else pa.concat_tables([known, decoded.table])

    def ends(self, stream):
        return {0: self.tables[stream].num_rows}

    def read(self, stream, *, upto=None):
        found = self.tables[getattr(stream, "name", stream)]
        return found if upto is None else found.slice(0, upto[0])


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    store = IcebergOfflineStore(tmp_path_factory.mktemp("offline"))
    store.append(
        "batch.kyc@1",
        pa.table({"user_id": [1], "event_time": [2 * DAY], "available_time": [3 * DAY], "tier": ["gold"]}),
    )
    return store


@pytest.fixture
def events():
    found = Events()
    who_when = [(1, 1), (2, 5), (1, 4), (None, 6), (1, 25)]
    found.add(
        payments,
        [
            {"payment_id": f"p{i}", "user_id": who, "amount": float(i), "at": day * DAY}
            for i, (who, day) in enumerate(who_when)
        ],
    )
    verdicts = [(0, True, 1, 8), (0, False, 1, 40), (2, True, 4, 35), (4, True, 25, 26)]
    found.add(
        disputes,
        [
            {"payment_id": f"p{i}", "fraud": fraud, "paid_at": day * DAY, "decided_at": known * DAY}
            for i, fraud, day, known in verdicts
        ],
    )
    return found


def columns(examples, *names):
    return [tuple(row.values()) for row in examples.table.select(names).to_pylist()]


def test_every_example_is_there_in_order_with_its_past(events, offline):
    found = training_set(a_model(), Stored(events, offline, VERSIONS), now=30 * DAY)
    assert columns(found, "user_id", "_at", "amount", "spend__count_30d", "spend__amount_last", "kyc__tier") == [
        (1, 1 * DAY, 0.0, 0, None, None),
        (2, 5 * DAY, 1.0, 0, None, None),
        (1, 4 * DAY, 2.0, 1, 0.0, "gold"),
        (None, 6 * DAY, 3.0, 0, None, None),
        (1, 25 * DAY, 4.0, 2, 2.0, "gold"),
    ]


def test_a_label_counts_from_when_it_was_known(events, offline):
    def labels(now):
        return columns(training_set(a_model(), Stored(events, offline, VERSIONS), now=now * DAY), "_label", "_matured")

    assert labels(30) == [(1.0, True), (0.0, True), (0.0, True), (0.0, True), (1.0, False)]
    assert labels(36) == [(1.0, True), (0.0, True), (1.0, True), (0.0, True), (1.0, True)]
    assert labels(41)[0] == (0.0, True)  # the dispute was decided again
    assert labels(7) == [(None, False)] * 4


def test_without_a_meaning_of_absence_only_known_labels_train(events, offline):
    found = training_set(a_model(absent=None), Stored(events, offline, VERSIONS), now=30 * DAY)
    assert columns(found, "_label", "_label_at", "_matured") == [
        (1.0, 8 * DAY, True),
        (None, None, False),
        (None, None, False),
        (None, None, False),
        (1.0, 26 * DAY, True),
    ]


def test_what_arrives_after_now_is_not_there(events, offline):
    found = training_set(a_model(), Stored(events, offline, VERSIONS), now=5 * DAY)
    assert found.table["_at"].to_pylist() == [DAY, 5 * DAY, 4 * DAY]


def test_examples_are_chosen_by_time_but_see_all_their_past(events, offline):
    found = training_set(a_model(), Stored(events, offline, VERSIONS), now=30 * DAY, start=4 * DAY, end=6 * DAY)
    assert columns(found, "_at", "spend__count_30d") == [(5 * DAY, 0), (4 * DAY, 1)]


def test_an_instant_of_its_own(events, offline):
    requests = ms.EventStream("requests", time="sent_at", schema={**payments.schema, "sent_at": "timestamp"})
    events.add(
        requests,
        [
            {"payment_id": "p0", "user_id": 1, "amount": 0.0, "sent_at": 2 * DAY, "at": 5 * DAY},
            {"payment_id": "p1", "user_id": 1, "amount": 0.0, "sent_at": 2 * DAY, "at": None},
        ],
    )
    label = ms.Label(disputes, "fraud", on="payment_id", absent=False, after="10d")
    model = ms.Model("fraud", view=view, examples=requests, example_at="at", label=label)
    found = training_set(model, Stored(events, offline, VERSIONS), now=30 * DAY)
    assert columns(found, "_at", "spend__count_30d", "_matured") == [(5 * DAY, 2, True), (None, 0, False)]


def test_the_pipelines_delay_is_part_of_the_past(events, offline):
    past = Stored(events, offline, VERSIONS, delays={"spend@1": 4 * DAY})
    found = training_set(a_model(), past, now=30 * DAY)
    assert found.table["spend__count_30d"].to_pylist() == [0, 0, 0, 0, 2]


def test_pins_make_it_again_whatever_has_arrived_since(events, offline):
    first = training_set(a_model(), Stored(events, offline, VERSIONS, delays={"spend@1": DAY}), now=60 * DAY)
    assert first.pins.versions == {"spend": "spend@1", "kyc": "kyc@1"}
    assert first.pins.delays == {"spend@1": DAY}
    assert first.pins.positions == {"payments": {0: 5}, "disputes": {0: 4}}
    pins = Pins.from_dict(first.facts()["pins"])
    events.add(payments, [{"payment_id": "late", "user_id": 1, "amount": 9.0, "at": 2 * DAY}])
    events.add(disputes, [{"payment_id": "p1", "fraud": True, "paid_at": 5 * DAY, "decided_at": 9 * DAY}])
    added = pa.table({"user_id": [1], "event_time": [DAY], "available_time": [DAY], "tier": ["none"]})
    offline.append("batch.kyc@1", added)
    again = training_set(a_model(), Stored(events, offline, VERSIONS, pins=pins), now=60 * DAY)
    assert again.table.equals(first.table)
    assert again.pins == first.pins
    assert training_set(a_model(), Stored(events, offline, VERSIONS), now=60 * DAY).table.num_rows == 6
    with pytest.raises(TrainingError, match="'spend@2' was given, but 'spend@1' is pinned"):
        training_set(
            a_model(), Stored(events, offline, VERSIONS | {"spend": GroupVersion(spend, 2)}, pins=pins), now=60 * DAY
        )


def test_captures_are_examples_at_their_captured_instant(events, offline):
    captured = pa.table(
        {
            "_request_id": ["b", "a", "a"],
            "_at": [4 * DAY + 1, DAY, DAY],
            "_received_at": [5 * DAY, 2 * DAY, 2 * DAY],
            "user_id": [1, 1, 1],
            "amount": [2.0, 0.0, 0.0],
            "payment_id": ["p2", "p0", "p0"],
            "spend__count_30d": [77.0, 0.0, 0.0],
        }
    )
    label = ms.Label(disputes, "fraud", on="payment_id", absent=False, after="10d")
    model = ms.Model("captured", view=view, examples="captures", label=label)
    with pytest.raises(TrainingError, match="learns from captures, and none has been archived"):
        training_set(model, Stored(events, offline, VERSIONS), now=30 * DAY)
    offline.append("captures.captured", captured)
    found = training_set(model, Stored(events, offline, VERSIONS), now=30 * DAY)
    assert columns(found, "_at", "spend__count_30d", "_label") == [(DAY, 0, 1.0), (4 * DAY + 1, 2, 0.0)]
    assert training_set(model, Stored(events, offline, VERSIONS), now=3 * DAY).table.num_rows == 1


def test_a_group_without_a_version_is_named(events, offline):
    with pytest.raises(TrainingError, match="'kyc' has no version to train on"):
        training_set(a_model(), Stored(events, offline, {"spend": GroupVersion(spend, 1)}), now=DAY)


def made(at, matured=None):
    count = len(at)
    table = pa.table(
        {
            "_at": pa.array(at, pa.int64()),
            "_label": np.zeros(count),
            "_matured": pa.array([True] * count if matured is None else matured, pa.bool_()),
        }
    )
    return TrainingSet(table, "m", {}, 100)


def test_splits_share_no_instant():
    split = made([5, 1, 3, 3, 3, 9, 2, 3]).split(test="50%")
    assert split.train["_at"].to_pylist() == [1, 2]
    assert split.test["_at"].to_pylist() == [3, 3, 3, 3, 5, 9]


def test_a_gap_is_left_out_and_the_unmatured_too():
    split = made([1, 2, 3, 4, 5, 6], [True, True, True, True, False, True]).split(test=0.2, gap=3)
    assert split.train["_at"].to_pylist() == [1, 2]
    assert split.test["_at"].to_pylist() == [6]


def test_an_empty_split_and_a_wrong_share():
    assert [part.num_rows for part in made([]).split()] == [0, 0]
    with pytest.raises(TrainingError, match="between 0 and 1"):
        made([1]).split(test="120%")


def test_it_goes_out_to_data_frames(events, offline):
    found = training_set(a_model(), Stored(events, offline, VERSIONS), now=30 * DAY)
    assert list(found.to_pandas()["user_id"].dropna()) == [1, 2, 1, 1]
    assert found.to_polars()["_matured"].to_list() == found.table["_matured"].to_pylist()
    assert str(found).endswith("5 examples, 5 with a label, 4 matured.")
