"""What the page tells of one entity, gathered from an Engine as its lookups are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.events import MAX_ID_BYTES
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import EntityResponse, RankRequest, RankResponse, RetrieveRequest
from forebay.segments.spec import Side
from forebay.segments.state.ids import hash_ids

CANDIDATES = 200  # that retrieve finds for rank, as `forebay lookup` has it
SHOWN = 12


@dataclass(frozen=True)
class Neighbour:
    """An item, and the cosine of its vector with that of the item that was asked for."""

    item: str
    cosine: float


@dataclass(frozen=True)
class Seen:
    """One entity. For a user the best of `asked` items that retrieve found, ordered by rank; for an item those whose
    vectors are nearest."""

    entity: EntityResponse
    ranked: RankResponse | None = None
    asked: int = 0
    nearest: Sequence[Neighbour] | None = None


def is_an_id(name: str) -> bool:
    """Whether anything can be stored under `name`."""
    try:
        return 0 < len(name.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:
        return False


def look(engine: Engine, side: Side, name: str) -> Seen:
    """All of it, of the generation that is served; an id that nothing is stored of is no error. From any thread."""
    entity = engine.entity(side, name)
    if side == "item":
        return Seen(entity, nearest=nearest(engine, name, SHOWN) if entity.known else None)
    found = engine.retrieve(RetrieveRequest(name, min(CANDIDATES, engine.limits.max_k)))
    items = [hit.item for hit in found.hits]
    ranked = engine.rank(RankRequest(name, items, SHOWN, explain=True))
    return Seen(entity, ranked, len(items))


def nearest(engine: Engine, item: str, k: int) -> list[Neighbour]:
    """The `k` items whose vectors have the greatest cosine with the item's, over the segments that the fusion for
    retrieve reads. The index proposes by inner product, so that one with a short vector may be missed."""
    columns, now = engine.retrieval.shape.item_columns, 0
    query = np.zeros(engine.retrieval.shape.item_dim, np.float32)
    with engine.copy.read("item", hash_ids([item])) as rows:
        query[columns] = rows.vectors(np.zeros(1, np.int64), now)[0][columns]
    found = engine.copy.search(query, CANDIDATES, np.zeros(0, np.int64), engine.shown())
    with engine.copy.read("item", found) as rows:
        places = np.arange(len(found))
        names, vectors = rows.names(places), rows.vectors(places, now)[:, columns]
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    cosines = np.divide(vectors @ query[columns], lengths, out=np.zeros(len(found), np.float32), where=lengths > 0)
    order = np.argsort(-cosines, kind="stable").tolist()
    return [Neighbour(name, float(cosines[i])) for i in order if (name := names[i]) and name != item][:k]


def proposed(engine: Engine, user: Floats, k: int) -> list[str]:
    """The items that retrieve finds for a user with the vectors float32 [dims], best first."""
    found: Ints = engine.copy.search(engine.retrieval.user_half(user)[0], k, np.zeros(0, np.int64), engine.shown())
    with engine.copy.read("item", found) as rows:
        return [name for name in rows.names(np.arange(len(found))) if name]


def probability(logit: float) -> float:
    """Of the label, without an overflow at either end."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
