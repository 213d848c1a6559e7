"""Other models out of the same spec, to be compared with it: another fusion, two plain towers."""

from __future__ import annotations

import json
from typing import Any

from forebay.segments.spec import Spec, Use, parse_spec

_POOL = {"kind": "attention_pool", "queries": 4, "hidden": 64}


def with_fusion(spec: Spec, use: Use, table: dict[str, Any]) -> Spec:
    """The spec with another fusion for one use."""
    tables = json.loads(spec.canonical)
    tables["fusion"] = {**tables.get("fusion", {}), use: table}
    return parse_spec(tables)


def with_kind(spec: Spec, kind: str) -> Spec:
    """The spec with a `rank` fusion of another kind over the same segments; over those of the commonest width, where
    the kind takes no other (raw affinities are then left out)."""
    rank = spec.fusions["rank"]
    segments = rank.segments
    if kind in ("attention", "concat_conv"):
        widths = [s.dim // s.parts for s in segments]
        common = max(set(widths), key=widths.count)
        segments = tuple(s for s in segments if s.dim // s.parts == common)
    names = {side: [s.name for s in segments if s.side == side] for side in ("user", "item")}
    options = dict(rank.options) if kind == rank.kind else {}
    return with_fusion(spec, "rank", {"kind": kind, **options, **names})


def two_tower(spec: Spec, dim: int = 32) -> Spec:
    """One vector for each side over all that the `rank` segments of that side read, and a second pair for retrieval."""
    tables = json.loads(spec.canonical)
    found: dict[str, Any] = {n: tables[n] for n in ("events", "label", "attributes") if n in tables}
    rank = spec.fusions["rank"]
    for side, segments in (("user", rank.user), ("item", rank.item)):
        features: list[Any] = []
        for segment in segments:
            for feature in tables[side][segment.name]["features"]:
                has_list = any("last" in f for f in features)
                if feature not in features and not ("last" in feature and has_list):
                    features.append(feature)
        encoder = _POOL if any("last" in f for f in features) else {"kind": "mlp", "hidden": [64]}
        tower = {"features": features, "encoder": encoder, "dim": dim}
        found[side] = {"tower": tower, "reach": tower}
    found["fusion"] = {
        "rank": {"kind": "weighted_sum", "user": ["tower"], "item": ["tower"]},
        "retrieve": {"kind": "weighted_sum", "user": ["reach"], "item": ["reach"]},
    }
    return parse_spec(found)
