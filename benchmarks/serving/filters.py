"""What a filter, a boost and what was seen cost a request, beside the request without them.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/serving/filters.py
        [--items 100000] [--requests 300] [--rounds 3] [--folder DIR]

The model of MovieLens with random weights, over items of random vectors with three attributes. `rank` orders 1,000
random candidates for a random user; `retrieve` finds 100 of all items. A filter that keeps half, a tenth, a hundredth
or a thousandth of the items is asked for, the four kinds of request in turns, in one process (ServingCopy) and over
shared tables (SharedCopy). Of each `retrieve` the answer is compared with brute force over all rows: `recall`, and
`short` of how many answers had fewer items than `k`, though there were as many.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.cli import source
from forebay.clock import now_ms
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import RankRequest, RankResponse, RetrieveRequest
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side, parse_spec
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained
from forebay.store.codec import Rows, codec_of
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.reading import Copy
from forebay.store.servingcopy import ServingCopy, served_vectors
from forebay.store.sharedcopy import SharedCopy

USERS, CANDIDATES, RANKED, RETRIEVED, REMEMBERED = 1_000, 1_000, 50, 100, 200
SHARES = (0.5, 0.1, 0.01, 0.001)
FILTERS = {share: f"place < {share}" for share in SHARES}  # `place` is uniform from 0 to 1
BOOST = {"'Comedy' in genres": 0.2}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--items", type=int, default=100_000)
    words.add_argument("--requests", type=int, default=300, help="of each kind in each round")
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--folder", help="where the shared tables are for the time; /dev/shm is memory")
    given = words.parse_args()
    bundle = _bundle()
    rows = {side: _rows(bundle, side, {"user": USERS, "item": given.items}[side], given.items) for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="forebay-filters-", dir=given.folder) as folder:
        for name, copy in _copies(bundle, rows, Path(folder)).items():
            print(json.dumps({"copy": name, "items": given.items} | _measured(bundle, copy, rows, given)), flush=True)


def _bundle() -> Bundle:
    data = json.loads(source.spec(None, "movielens").canonical)
    data["attributes"]["item"]["place"] = {"number": True}
    data["serving"] = {"filter": ["genres", "year", "place"], "remember": REMEMBERED}
    return untrained(parse_spec(data), hash_ids([f"i{n}" for n in range(1_000)]))


def _rows(bundle: Bundle, side: Side, count: int, items: int) -> Rows:
    random, codec, now = np.random.default_rng(0), codec_of(bundle, side), now_ms()
    rows = codec.empty(count)
    for segment in codec.segments:
        part = rows["segments"][segment.name]
        part["vector"] = random.integers(-127, 128, part["vector"].shape)
        part["scale"], part["as_of"], part["last_event"] = 0.01, now, now
    columns = codec.columns(rows)
    if side == "user":
        columns[:] = hash_ids([f"i{n}" for n in random.integers(0, items, count * REMEMBERED)]).reshape(columns.shape)
    else:
        columns[:, 0] = random.integers(1, 1 << 18, count) << 1
        columns[:, 1] = random.integers(1950, 2020, count) * 2000 + 1
        columns[:, 2] = random.integers(0, 1000, count) * 2 + 1  # thousandths
    return rows


def _copies(bundle: Bundle, rows: Mapping[Side, Rows], folder: Path) -> dict[str, Copy]:
    codecs, partitions = {side: codec_of(bundle, side) for side in SIDES}, dict.fromkeys(SIDES, 1)
    own = ServingCopy(bundle, "bench", codecs, partitions)
    feeding = FeedingCopy(bundle, "bench", codecs, partitions, folder)
    for side in SIDES:
        names = [f"{side[0]}{n}" for n in range(len(rows[side]))]
        for copy in (own, feeding):
            copy.show(side, names, rows[side], [0] * len(names))
    return {"one process": own, "shared": SharedCopy(bundle, "bench", codecs, partitions, folder)}


def _measured(bundle: Bundle, copy: Copy, rows: Mapping[Side, Rows], given: Any) -> dict[str, Any]:
    random, engine = np.random.default_rng(1), Engine(bundle, copy)
    engine.warm()
    users = [f"u{n}" for n in random.integers(0, USERS, given.requests)]
    names = [[f"i{n}" for n in random.integers(0, given.items, CANDIDATES)] for _ in users]
    asked: dict[str, Callable[[int], RankResponse]] = {
        "rank": lambda n: engine.rank(RankRequest(users[n], names[n], RANKED)),
        **{
            f"rank, filter keeps {share:.1%}": lambda n, text=text: engine.rank(  # type: ignore[misc]
                RankRequest(users[n], names[n], RANKED, filter=text)
            )
            for share, text in FILTERS.items()
        },
        "rank, boost": lambda n: engine.rank(RankRequest(users[n], names[n], RANKED, boost=BOOST)),
        "rank, filter keeps 50.0% and boost": lambda n: engine.rank(
            RankRequest(users[n], names[n], RANKED, filter=FILTERS[0.5], boost=BOOST)
        ),
        "rank, exclude_seen": lambda n: engine.rank(RankRequest(users[n], names[n], RANKED, exclude_seen=True)),
        "retrieve": lambda n: engine.retrieve(RetrieveRequest(users[n], RETRIEVED)),
        **{
            f"retrieve, filter keeps {share:.1%}": lambda n, text=text: engine.retrieve(  # type: ignore[misc]
                RetrieveRequest(users[n], RETRIEVED, filter=text)
            )
            for share, text in FILTERS.items()
        },
        "retrieve, boost": lambda n: engine.retrieve(RetrieveRequest(users[n], RETRIEVED, boost=BOOST)),
        "retrieve, exclude_seen": lambda n: engine.retrieve(RetrieveRequest(users[n], RETRIEVED, exclude_seen=True)),
    }
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(given.rounds):
        for name, ask in asked.items():
            for n in range(len(users) if name.startswith("rank") else max(20, len(users) // 10)):
                start = time.perf_counter()
                ask(n)
                times[name].append((time.perf_counter() - start) * 1e6)
    p50 = {f"{name}, p50 µs": round(statistics.median(found)) for name, found in times.items()}
    return p50 | _recalled(bundle, engine, rows, users[:20])


def _recalled(bundle: Bundle, engine: Engine, rows: Mapping[Side, Rows], users: list[str]) -> dict[str, Any]:
    """Of `retrieve` with each filter and with a boost, beside brute force."""
    vectors, columns = served_vectors(codec_of(bundle, "item"), rows["item"]), rows["item"]["served"]["columns"]
    place, comedy = (columns[:, 2] - 1) / 2000, _comedies(bundle, columns[:, 0])
    everyone = served_vectors(codec_of(bundle, "user"), rows["user"])
    found: dict[str, list[float]] = {}
    short = 0
    for user in users:
        query = engine.retrieval.user_half(everyone[int(user[1:])])[0]
        scores = vectors @ query
        for share, text in FILTERS.items():
            answer = engine.retrieve(RetrieveRequest(user, RETRIEVED, filter=text))
            kept = place < share
            short += len(answer) < min(RETRIEVED, int(kept.sum()))
            found.setdefault(f"{share:.1%}", []).append(
                _recall(answer, np.where(kept, scores, -np.inf), int(kept.sum()))
            )
        answer = engine.retrieve(RetrieveRequest(user, RETRIEVED, boost=BOOST))
        boosted = scores + np.float32(0.2) * comedy
        found.setdefault("boost", []).append(_recall(answer, boosted, len(scores)))
    return {"short": short} | {f"recall, {name}": round(float(np.mean(of)), 4) for name, of in found.items()}


def _comedies(bundle: Bundle, genres: Ints) -> Bools:
    return (genres >> (bundle.spec.attribute("item", "genres").values.index("Comedy") + 1) & 1) == 1


def _recall(answer: RankResponse, scores: Floats, there: int) -> float:
    """The share of an answer that is as good as the best `k`: of equal scores any will do."""
    count = min(RETRIEVED, there)
    last = np.partition(scores, -count)[-count]
    return float(np.mean([scores[int(hit.item[1:])] >= last - 1e-3 for hit in answer]) * len(answer) / count)


if __name__ == "__main__":
    main()
