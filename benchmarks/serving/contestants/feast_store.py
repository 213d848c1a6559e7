"""A Feast store of the same vectors on sqlite, one Bytes feature an entity.

python feast_store.py '{"folder": …, "online": "sqlite" | "redis", …}'      fills it
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import vectors
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Bytes

FILL = 20_000


def opened(folder: str) -> Any:
    """The store in `folder`."""
    return FeatureStore(config=RepoConfig(**json.loads((Path(folder) / "config.json").read_text())))


def main() -> int:
    given = json.loads(sys.argv[1])
    folder = Path(given["folder"])
    online = {"type": "sqlite", "path": str(folder / "online.db")}
    config = {
        "project": "bench", "provider": "local", "registry": str(folder / "registry.db"), "online_store": online,
        "offline_store": {"type": "file"}, "entity_key_serialization_version": 3,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    store, now = opened(given["folder"]), datetime.now(UTC)
    for name, codes in zip(("user", "item"), vectors.codes(given), strict=True):
        entity = Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
        empty = folder / f"{name}.parquet"
        pd.DataFrame({name: [""], "vector": [b""], "at": [now]}).to_parquet(empty)
        source = FileSource(name=f"{name}-source", path=str(empty), timestamp_field="at")
        view = FeatureView(
            name=f"{name}s", entities=[entity], schema=[Field(name="vector", dtype=Bytes)], source=source,
            ttl=timedelta(days=100), online=True,
        )  # fmt: skip
        store.apply([entity, view])
        halves = (codes * np.float32(vectors.SCALE)).astype(np.float16)
        for first in range(0, len(halves), FILL):
            part = halves[first : first + FILL]
            names = [f"{name[0]}{n}" for n in range(first, first + len(part))]
            rows = pd.DataFrame({name: names, "vector": [row.tobytes() for row in part], "at": [now] * len(part)})
            store.write_to_online_store(f"{name}s", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
