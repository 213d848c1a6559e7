"""A side's encoders with their readers: from state rows to the vectors that are stored. Used by whoever encodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from forebay.errors import BundleError
from forebay.segments.bundle import Bundle
from forebay.segments.encoders import SegmentEncoder, build, encode
from forebay.segments.quantize import quantize
from forebay.segments.spec import SegmentSpec, Side

Ints = npt.NDArray[np.int64]
Int8s = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """One segment's vectors of n entities: int8 [n, dim], scale float32 [n], newest event's time (ms) int64 [n], and
    `finite` bool [n]: where it is False the vector is zero and must not replace the entity's last good one."""

    vectors: Int8s
    scale: Floats
    newest: Ints
    finite: npt.NDArray[np.bool_]


class SideEncoders:
    """The encoders of one side of a bundle, on this process's numeric platform. One thread at a time."""

    def __init__(self, bundle: Bundle, side: Side) -> None:
        torch.set_num_threads(1)  # two threads bought nothing at these sizes, and fight the fold for the core
        self.segments: tuple[SegmentSpec, ...] = bundle.spec.side(side)
        self._readers = [bundle.reader(s) for s in self.segments]
        self._encoders = [self._load(bundle, s) for s in self.segments]

    def _load(self, bundle: Bundle, segment: SegmentSpec) -> SegmentEncoder:
        encoder = build(bundle.reader(segment), len(bundle.vocabulary), segment)
        weights = {n: torch.from_numpy(np.array(t)) for n, t in bundle.segment_tensors(segment).items()}
        try:
            encoder.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise BundleError(
                f"the weights of {segment.title} do not fit its spec: {str(error).splitlines()[-1].strip()}",
                where=f"bundle {bundle.name}",
                do="Train the segment again with: forebay train",
            ) from None
        return encoder.eval()

    def encode(self, place: int, rows: Ints, hashes: Ints) -> Encoded:
        """Segment number `place` of state rows int64 [n, width] whose entities have the hashed ids int64 [n]."""
        reader = self._readers[place]
        vectors = encode(self._encoders[place], reader.read(rows, hashes))
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            vectors = np.where(finite[:, None], vectors, np.float32(0))
        codes, scale = quantize(vectors)
        return Encoded(codes, scale, reader.newest(rows), finite)

    def encode_all(self, rows: Ints, hashes: Ints) -> Floats:
        """All segments, as they are served: float32 [n, segments, dim] out of int8 and its scale."""
        parts: Sequence[Encoded] = [self.encode(p, rows, hashes) for p in range(len(self.segments))]
        return np.stack([e.vectors.astype(np.float32) * e.scale[:, None] for e in parts], axis=1)
