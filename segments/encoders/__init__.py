"""Segment encoders: from what a segment reads of a state row to its vector. Importing this imports torch."""

from __future__ import annotations

from forebay.errors import BundleError
from forebay.segments.encoders.affinity import Affinity
from forebay.segments.encoders.canonical import CANONICAL, encode, encode_by_torch, runner, tensors
from forebay.segments.encoders.contract import Aligned, SegmentEncoder
from forebay.segments.encoders.lists import AttentionPool, Bag, Gru
from forebay.segments.encoders.mlp import Mlp
from forebay.segments.plugin import own_class
from forebay.segments.spec import SegmentSpec
from forebay.segments.state.readout import SegmentReader

__all__ = [
    "CANONICAL",
    "ENCODERS",
    "Aligned",
    "SegmentEncoder",
    "build",
    "encode",
    "encode_by_torch",
    "runner",
    "tensors",
]

ENCODERS: dict[str, type[SegmentEncoder]] = {
    "affinity": Affinity,
    "attention_pool": AttentionPool,
    "bag": Bag,
    "gru": Gru,
    "mlp": Mlp,
}


def build(reader: SegmentReader, items: int, segment: SegmentSpec) -> SegmentEncoder:
    """A fresh encoder for `segment`; `items` is the vocabulary's size. Raises BundleError for an own class that cannot
    be had, or whose vectors have another shape than the spec says."""
    kind = segment.encoder.kind
    if ":" not in kind:
        return ENCODERS[kind](reader, items, segment)
    own = own_class(kind, SegmentEncoder, f"[{segment.title}] encoder")(reader, items, segment)
    # A whole batch, not one row: a forward that joins the rows of its batch would pass with one.
    try:
        given = tuple(encode(own, reader.blank(CANONICAL)).shape)
    except Exception as error:  # the class is somebody else's: anything may come out of it
        raise BundleError(
            f"{kind} fails on an empty batch: {type(error).__name__}: {error}",
            where=f"[{segment.title}]",
            do="Make its forward take any read-out, that of an entity of which nothing is known included",
        ) from error
    if given != (CANONICAL, segment.dim):
        raise BundleError(
            f"{kind} gives {given} for {CANONICAL} entities, not ({CANONICAL}, {segment.dim})",
            where=f"[{segment.title}]",
            do="Make its forward return float32 [n, dim]",
        )
    return own
