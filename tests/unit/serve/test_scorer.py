"""Scores: equal for one row and many, with a capture from which each can be explained."""

from dataclasses import replace

import pyarrow as pa
import pytest
from tests.unit.serve.world import NOW, VERSIONS, model, view

from millstream.clock import SimulatedClock
from millstream.errors import RequestError, ServeError
from millstream.serve.capture import CaptureJournal, capture_table
from millstream.serve.http import encode
from millstream.serve.reader import FeatureReader
from millstream.serve.scorer import Scorer
from millstream.train.encoding import Encoder
from millstream.train.versions import LoadedModel


def row(user_id: int | None, **more: object) -> dict[str, object]:
    return {"user_id": user_id, "payee_id": 2, "device_id": "d1", "amount": 12.5, "country": "de", **more}


def test_one_row_and_many_get_the_same_scores(scorer: Scorer) -> None:
    rows = [row(u) for u in [*range(25), None]]
    many = scorer.score(rows)
    singles = [scorer.score([one])[0] for one in rows]
    assert [encode(scorer.capture("r", one)) for one in singles] == [encode(scorer.capture("r", one)) for one in many]
    assert len({one.score for one in many}) > 1


def test_the_score_is_that_of_the_model_on_the_columns_read(scorer: Scorer, loaded: LoadedModel) -> None:
    (scored,) = scorer.score([row(3)])
    read = scorer.reader.read({name: [value] for name, value in row(3).items()}, scored_at(scored.at))
    assert scored.score == loaded.score(read.columns)[0]


def scored_at(instant: int) -> object:
    import numpy as np

    return np.array([instant], np.int64)


def test_now_is_the_instant_of_a_row_that_does_not_say(scorer: Scorer, clock: SimulatedClock) -> None:
    clock.advance(5)
    scored = scorer.score([row(3), row(3, at=NOW - 7)])
    assert [one.at for one in scored] == [NOW + 5, NOW - 7]
    assert {one.received_at for one in scored} == {NOW + 5}


def test_a_capture_holds_keys_fields_label_key_and_every_column(scorer: Scorer, tmp_path: object) -> None:
    journal = CaptureJournal(tmp_path)  # type: ignore[arg-type]
    scored = scorer.score([row(4, payment_id="p1", note="x"), row(None)])
    journal.append(scorer.shape, [scorer.capture(f"r{i}", one) for i, one in enumerate(scored)])
    first, second = capture_table(journal.rotate()[0]).to_pylist()
    assert (first["_request_id"], first["_score"], first["_at"]) == ("r0", scored[0].score, NOW)
    assert (first["user_id"], first["payment_id"], first["_rest"]) == (4, "p1", '{"note":"x"}')
    assert (first["kyc__tier"], first["payee__kyc__tier"], first["over_limit"]) == ("t1", "t2", 12.5 / 104)
    assert set(view.columns) <= set(first)
    groups = pa.array([first["_groups"]]).to_pylist()[0]
    assert '"velocity":{"version":"velocity@1","shard":' in groups and '"positions":{"payments/0":400}' in groups
    assert (second["user_id"], second["payment_id"], second["habits__amount_mean_30d"]) == (None, None, None)


def test_degradation_is_said_in_the_answer_and_in_the_capture(
    loaded: LoadedModel, clock: SimulatedClock, tmp_path: object
) -> None:
    from millstream.store.lmdb.store import LmdbOnlineStore

    reader = FeatureReader(LmdbOnlineStore(tmp_path), view, VERSIONS, clock)  # type: ignore[arg-type]
    scorer = Scorer(model, loaded, reader, clock)
    (scored,) = scorer.score([row(3)])
    assert scored.degraded
    captured = dict(zip(scorer.shape.names, scorer.capture("r", scored), strict=True))
    assert captured["_degraded"] is True


def test_a_wrong_row_is_refused_by_its_field(scorer: Scorer) -> None:
    with pytest.raises(RequestError) as caught:
        scorer.score([row(3), row(3, amount="much")])
    assert caught.value.field == "amount"
    assert "Row 1" in caught.value.message


def test_a_model_of_columns_that_the_view_no_longer_has_is_not_deployed(
    reader: FeatureReader, loaded: LoadedModel, clock: SimulatedClock
) -> None:
    encoder = Encoder({**loaded.encoder.dtypes, "habits__gone": "float64"}, loaded.encoder.dictionaries)
    with pytest.raises(ServeError, match="reads 'habits__gone', which view 'fraud' no longer has"):
        Scorer(model, replace(loaded, encoder=encoder), reader, clock)
