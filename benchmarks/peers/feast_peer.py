"""Feast on SQLite, in its own environment: the same values under the same keys, read by `get_online_features`."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64


class Store:
    """A Feast project in a folder, holding one feature view per group."""

    def __init__(self, folder: str, values: str, groups: dict[str, list[str]]) -> None:
        self._folder = Path(folder)
        self._database = self._folder / "online.db"
        config = RepoConfig(
            project="bench", provider="local", registry=str(self._folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(self._database)}, entity_key_serialization_version=3,
        )  # fmt: skip
        self._store = FeatureStore(config=config)
        self._names = [f"{group}:{feature}" for group, features in groups.items() for feature in features]
        rows = pd.read_parquet(values)
        rows["event_timestamp"] = datetime.now(UTC) - timedelta(minutes=1)
        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
        views = [self._view(user, group, features, rows) for group, features in groups.items()]
        self._store.apply([user, *views])
        for group, features in groups.items():
            columns = {f"{group}__{feature}": feature for feature in features}
            frame = rows[["user_id", "event_timestamp", *columns]].rename(columns=columns)
            self._store.write_to_online_store(group, df=frame)

    def _view(self, user: Entity, group: str, features: list[str], rows: pd.DataFrame) -> FeatureView:
        path = self._folder / f"{group}.parquet"
        rows.head(1)[["user_id", "event_timestamp"]].assign(**dict.fromkeys(features, 0.0)).to_parquet(path)
        return FeatureView(
            name=group, entities=[user], ttl=timedelta(0), schema=[Field(name=name, dtype=Float64) for name in features],
            source=FileSource(path=str(path), timestamp_field="event_timestamp"),
        )  # fmt: skip

    def read(self, keys: list[list[int]], values: bool) -> dict[str, float]:
        """Read each list of keys at once, up to values or to the message only; wall and CPU seconds of one read."""
        rows = [[{"user_id": key} for key in some] for some in keys]
        wall, cpu = time.perf_counter(), time.process_time()
        for some in rows:
            found = self._store.get_online_features(features=self._names, entity_rows=some)
            if values:
                found.to_dict()
        return {"wall": (time.perf_counter() - wall) / len(keys), "cpu": (time.process_time() - cpu) / len(keys)}

    def values(self, keys: list[int]) -> dict[str, list[float | None]]:
        """The values of some keys, to be compared."""
        found = self._store.get_online_features(
            features=self._names, entity_rows=[{"user_id": key} for key in keys], full_feature_names=True
        )
        return found.to_dict()


def main() -> None:
    store = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        if do == "open":
            store = Store(**request)
            answer = None
        else:
            answer = getattr(store, do)(**request)
        print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main()
