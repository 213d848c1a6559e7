"""Smaller encoders: weights on an int8 grid, and hidden units taken out for good. Each gives another Bundle, with its
own hash."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import torch

from forebay.arrays import Array, Ints
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SegmentSpec, parse_spec
from forebay.segments.training.network import Network


def int8_weights(bundle: Bundle) -> tuple[Bundle, int, int]:
    """The bundle with every encoder matrix rounded to int8, one scale per output; and the bytes of all encoders before,
    and as they would be stored then. What runs is float32 all the same: at these sizes an int8 kernel is slower, not
    faster."""
    tensors, before, after = dict(bundle.tensors), 0, 0
    for segment in bundle.spec.segments:
        for name, tensor in bundle.segment_tensors(segment).items():
            before += tensor.nbytes
            if tensor.ndim != 2:
                after += tensor.nbytes
                continue
            scale = np.abs(tensor).max(axis=1, keepdims=True) / 127
            steps = np.divide(tensor, scale, out=np.zeros_like(tensor), where=scale > 0)
            tensors[f"{segment.title}.{name}"] = (np.rint(steps) * scale).astype(np.float32)
            after += tensor.size + 4 * len(tensor)
    return _with_defaults(Bundle(bundle.spec, tensors, bundle.record)), before, after


def pruned(bundle: Bundle, share: float) -> Bundle:
    """The bundle without `share` (0 to 1) of the hidden units of its `mlp` and `attention_pool` encoders: those whose
    way in and way out are weakest. Layers really get smaller, in the spec too; at least eight units stay (bit-equal
    rows want multiples)."""
    tables = json.loads(bundle.spec.canonical)
    tensors = dict(bundle.tensors)
    for segment in bundle.spec.segments:
        given = tables[segment.side][segment.name]["encoder"]
        if segment.encoder.kind == "mlp":
            given["hidden"] = _prune_mlp(segment, tensors, share)
        elif segment.encoder.kind == "attention_pool":
            given["hidden"] = _prune_pool(segment, tensors, share)
    return _with_defaults(Bundle(parse_spec(tables), tensors, {**bundle.record, "pruned": share}))


def parameters(bundle: Bundle) -> int:
    """Numbers in all encoders."""
    return sum(t.size for s in bundle.spec.segments for t in bundle.segment_tensors(s).values())


def _prune_mlp(segment: SegmentSpec, tensors: dict[str, Array], share: float) -> list[int]:
    names = sorted(
        (n for n in tensors if n.startswith(f"{segment.title}.layers.") and n.endswith(".weight")),
        key=lambda n: int(n.split(".")[-2]),
    )
    for first, second in pairwise(names):
        into, out = tensors[first], tensors[second]
        keep = _strongest(np.linalg.norm(into, axis=1) * np.linalg.norm(out, axis=0), share)
        tensors[first], tensors[second] = into[keep], out[:, keep]
        bias = first.replace(".weight", ".bias")
        tensors[bias] = tensors[bias][keep]
    return [len(tensors[n]) for n in names[:-1]]


def _prune_pool(segment: SegmentSpec, tensors: dict[str, Array], share: float) -> int:
    entry, attend, out = (f"{segment.title}.{n}.weight" for n in ("entry", "attend", "out"))
    queries, hidden = tensors[attend].shape
    pooled = tensors[out][:, : queries * hidden].reshape(-1, queries, hidden)
    keep = _strongest(np.linalg.norm(tensors[entry], axis=1) * np.linalg.norm(pooled, axis=(0, 1)), share)
    dense = tensors[out][:, queries * hidden :]
    tensors[out] = np.concatenate([pooled[:, :, keep].reshape(len(pooled), -1), dense], axis=1)
    tensors[entry], tensors[attend] = tensors[entry][keep], tensors[attend][:, keep]
    tensors[f"{segment.title}.entry.bias"] = tensors[f"{segment.title}.entry.bias"][keep]
    return len(keep)


def _strongest(strength: Array, share: float) -> Ints:
    """Places of the units that stay, ascending, a multiple of eight of them."""
    count = max(8, round(len(strength) * (1 - share) / 8) * 8)
    return np.sort(np.argsort(-strength, kind="stable")[: min(count, len(strength))])


def _with_defaults(bundle: Bundle) -> Bundle:
    """The default vectors are the encoders' own: other weights, other defaults."""
    with torch.no_grad():
        return Network.of(bundle).bundle(bundle.record)
