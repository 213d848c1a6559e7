"""The model of the serving benchmarks: four segments of so many dimensions on either side."""

from __future__ import annotations

from typing import Any

from forebay.segments.bundle import Bundle
from forebay.segments.spec import parse_spec
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained

SEGMENTS = ("a", "b", "c", "d")


def bundle_of(dim: int, fusion: str) -> Bundle:
    """Random weights, `fusion` for rank: what a lookup costs does not depend on them."""
    segment = {"features": [{"count": "events"}], "encoder": {"kind": "mlp", "hidden": [8]}, "dim": dim}
    read = {"user": list(SEGMENTS), "item": list(SEGMENTS)}
    rank: dict[str, Any] = {"kind": fusion, **read}
    if fusion == "affinity":
        rank["hidden"] = 32
    tables = {
        "events": {"actions": ["view"]},
        "label": {"positive": "value >= 4", "impression": "action == 'view'"},
        "user": dict.fromkeys(SEGMENTS, segment),
        "item": dict.fromkeys(SEGMENTS, segment),
        "fusion": {"rank": rank, "retrieve": {"kind": "weighted_sum", **read}},
    }
    return untrained(parse_spec(tables), hash_ids(["i0"]))
