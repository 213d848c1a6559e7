"""A side's encoders with their readers: from state rows to the vectors that are stored. Used by whoever encodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
import torch

from forebay.arrays import Bools, Floats, Int8s, Ints
from forebay.errors import BundleError
from forebay.segments.bundle import Bundle
from forebay.segments.encoders import SegmentEncoder, build, runner
from forebay.segments.quantize import quantize
from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.spec import SegmentSpec, Side
from forebay.segments.state.staterows import StateRows


class SideEncoders:
    """The encoders of one side of a bundle, on this process's numeric platform. One thread at a time calls it.

    Where an encoder runs is the installation's affair and no part of a bundle: `devices` maps a segment's title to
    `cpu` or `cuda:N` (`cpu` for those that it does not name), and a generation's numeric platform names it. `threads`
    encode segments side by side, with the same bits as one.
    """

    def __init__(self, bundle: Bundle, side: Side, devices: Mapping[str, str] | None = None, threads: int = 1) -> None:
        """Raises BundleError for weights that do not fit, and for a device that is not there."""
        # Two threads in one layer bought nothing at these sizes, and fight the fold for the core.
        torch.set_num_threads(1)
        self.segments: tuple[SegmentSpec, ...] = bundle.spec.side(side)
        self._readers = [bundle.reader(s) for s in self.segments]
        wanted = devices or {}
        self._encoders = [self._load(bundle, s).to(_device(wanted.get(s.title, "cpu"), s.title)) for s in self.segments]
        # After the classes of own encoders were imported: one that asks for "medium" for its training would have the
        # products of all float32 layers in bfloat16 (TF32 on a GPU), and no numeric platform names that.
        torch.set_float32_matmul_precision("highest")
        self._run = [runner(e) for e in self._encoders]
        self._pool = ThreadPoolExecutor(threads, "encode") if threads > 1 else None
        self._stateful = [any(f.kind != "id" for f in s.features) for s in self.segments]
        nothing = [self._quantized(p, _nothing(bundle.layouts[side].width)) for p in range(len(self.segments))]
        # By segment: codes int8 [dim] and scale of an entity of which nothing is known.
        self.defaults = [(codes[0], scale[0]) for codes, scale, _ in nothing]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _load(self, bundle: Bundle, segment: SegmentSpec) -> SegmentEncoder:
        encoder = build(bundle.reader(segment), len(bundle.vocabulary), segment)
        weights = {n: torch.from_numpy(np.array(t)) for n, t in bundle.segment_tensors(segment).items()}
        if not any(n.startswith("bounds.") for n in weights):
            encoder.forget_bounds()
        try:
            encoder.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise BundleError(
                f"the weights of {segment.title} do not fit its spec: {str(error).splitlines()[-1].strip()}",
                where=f"bundle {bundle.name}",
                do="Train the segment again with: forebay train",
            ) from None
        return encoder.eval()

    def encode(self, place: int, rows: Ints, hashes: Ints) -> SegmentVectors:
        """Segment number `place` of state rows int64 [n, width] whose entities have the hashed ids int64 [n]."""
        return self.encode_rows(place, StateRows(rows, hashes))

    def encode_rows(self, place: int, given: StateRows) -> SegmentVectors:
        """`encode`; a list that another segment read of the same rows is not read again."""
        codes, scale, finite = self._quantized(place, given)
        return SegmentVectors(codes, scale, self._readers[place].newest(given.rows), finite, self._stateful[place])

    def _quantized(self, place: int, given: StateRows) -> tuple[Int8s, Floats, Bools]:
        vectors = self._run[place](self._readers[place].read_rows(given))
        finite: Bools = np.asarray(np.isfinite(vectors).all(axis=1))
        if not finite.all():
            vectors = np.where(finite[:, None], vectors, np.float32(0))
        return *quantize(vectors), finite

    def encode_each(self, jobs: Sequence[tuple[int, Ints, Ints]]) -> list[SegmentVectors]:
        """`encode` of each (place, rows, hashes), in their order; side by side where there are threads."""
        if self._pool is None or len(jobs) < 2:
            return [self.encode(*job) for job in jobs]
        return list(self._pool.map(lambda job: self.encode(*job), jobs))

    def encode_exact(self, rows: Ints, hashes: Ints, only: Collection[SegmentSpec] | None = None) -> Floats:
        """All segments as the encoders give them, float32 [n, dims of all segments]: to measure what int8 costs. With
        `only` the columns of all others are zero."""
        parts = [
            run(reader.read(rows, hashes))
            if only is None or segment in only
            else np.zeros((len(rows), segment.dim), dtype=np.float32)
            for segment, run, reader in zip(self.segments, self._run, self._readers, strict=True)
        ]
        return np.concatenate(parts, axis=1)

    def encode_all(self, rows: Ints, hashes: Ints, only: Collection[SegmentSpec] | None = None) -> Floats:
        """All segments, as they are served, side by side: float32 [n, dims of all segments] out of int8 and its scale.
        With `only` the columns of all others are zero."""
        wanted = [p for p, segment in enumerate(self.segments) if only is None or segment in only]
        parts = [np.zeros((len(rows), segment.dim), dtype=np.float32) for segment in self.segments]
        encoded: Sequence[SegmentVectors] = self.encode_each([(p, rows, hashes) for p in wanted])
        for place, e in zip(wanted, encoded, strict=True):
            parts[place] = e.vectors.astype(np.float32) * e.scale[:, None]
        return np.concatenate(parts, axis=1)


def _nothing(width: int) -> StateRows:
    """Of an entity of which nothing is known."""
    return StateRows(np.zeros((1, width), np.int64), np.zeros(1, np.int64))


def _device(name: str, title: str) -> torch.device:
    where, remedy = f"device of {title}", 'Use "cpu", or "cuda:N" with N below the number of GPUs that torch sees'
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BundleError(f"no device is called {name!r}", where=where, do=remedy) from None
    if device.type not in ("cpu", "cuda"):
        raise BundleError(f"encoders run on cpu and cuda, not on {device.type}", where=where, do=remedy)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BundleError(f"{name} is not there: torch sees {torch.cuda.device_count()} GPUs", where=where, do=remedy)
    return device
