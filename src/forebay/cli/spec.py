"""`forebay spec check`: a segments.toml as the partition that it declares."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forebay.cli.console import out, print_json, print_table
from forebay.segments.features import SegmentReader, Vocabulary
from forebay.segments.layout import Layout
from forebay.segments.spec import SIDES, FeatureSpec, Spec

HEADER_BYTES = 32  # of one segment in a stored row: encoder, two times, scale, flags


def show(path: Path, as_json: bool) -> None:
    """Print each segment's features, input widths and bytes; and the state of one entity of each side."""
    spec = Spec.load(path)
    layouts = {side: Layout.of(spec, side) for side in SIDES}
    segments, sides = [], {side: layouts[side].width * 8 for side in SIDES}
    for segment in spec.segments:
        reader = SegmentReader(spec, segment, layouts[segment.side], Vocabulary(np.zeros(0, np.int64)))
        blocks = {layouts[segment.side].block(f) for f in segment.features if f.kind != "id"}
        segments.append(
            {
                "segment": segment.title,
                "encoder": segment.encoder.kind,
                "features": " · ".join(_words(f) for f in segment.features),
                "inputs": reader.dense_width + reader.list_size * (1 + reader.sequence_width),
                "state_bytes": sum(b.size * 8 for b in blocks),
                "vector_bytes": HEADER_BYTES + segment.dim,
            }
        )
    if as_json:
        print_json({"segments": segments, "state_bytes": sides})
        return
    columns = tuple(segments[0])
    print_table(columns, [tuple(s.values()) for s in segments], right=("inputs", "state_bytes", "vector_bytes"))
    out.print("state of one entity at most: " + ", ".join(f"{side} {size:,} bytes" for side, size in sides.items()))


def _words(feature: FeatureSpec) -> str:
    match feature.kind:
        case "last":
            text = f"last {feature.size} of {', '.join(feature.of)}"
        case "latest":
            text = f"latest {', '.join(feature.of)}"
        case "id":
            text = f"id, {feature.size} wide"
        case "count":
            text = f"count {feature.key}"
        case "mean":
            text = "mean value" + (f" by {feature.key}" if feature.key != "events" else "")
    if feature.over_ms:
        text += f" over {feature.over_ms // 3_600_000} h"
    return text + (f" where {feature.where.text}" if feature.where else "")
