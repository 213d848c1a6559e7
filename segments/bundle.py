"""A Bundle: a spec, its encoders' and its fusion's weights, under one content hash.

On disk a folder named by the hash's first twelve hex digits:

    manifest.json         spec, hash, SHA-256 of the weights file, training record
    weights.safetensors   every tensor, the vocabulary and the default vectors included

Bytes are hashed in memory before they are written (a full disk can shorten a file without an error) and again after
they are read, before they are parsed: of 300 single-bit flips safetensors loads 297 as other weights. Loading needs no
torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from forebay import files
from forebay.arrays import Array, Floats
from forebay.errors import BundleError
from forebay.segments.fusions.contract import Fusion
from forebay.segments.fusions.kinds import build
from forebay.segments.spec import SIDES, USES, SegmentSpec, Side, Spec, Use, parse_spec
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import SegmentReader, Vocabulary

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
MAX_WEIGHTS_BYTES = 8 << 30


@dataclass(frozen=True)
class Bundle:
    """`tensors` are named `{side}.{segment}.{weight}`, `default.{side}` float32 [dims of all segments],
    `vocabulary.item` and `fusion.{use}.{weight}`.

    `record` says how it was trained; it is no part of the hash.
    """

    spec: Spec
    tensors: Mapping[str, Array] = field(repr=False)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def weights(self) -> bytes:
        """The tensors as one safetensors file."""
        return bytes(format_tensors({name: np.ascontiguousarray(t) for name, t in sorted(self.tensors.items())}))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the spec and the weights, 64 hex digits."""
        return _hash(self.spec.canonical, self.weights)

    @property
    def name(self) -> str:
        """What people call it: the hash's first twelve digits."""
        return self.hash[:12]

    @cached_property
    def layouts(self) -> dict[Side, Layout]:
        return {side: Layout.of(self.spec, side, serving=True) for side in SIDES}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tensors["vocabulary.item"])

    @cached_property
    def fusions(self) -> dict[Use, Fusion]:
        """One for each use. Raises BundleError where a tensor of one is missing."""
        return {use: build(self.spec, use, self.tensors) for use in USES}

    def segments(self, side: Side) -> tuple[SegmentSpec, ...]:
        """The side's segments, in the order of the spec."""
        return self.spec.side(side)

    def defaults(self, side: Side) -> Floats:
        """float32 [dims of all segments]: what stands in for a segment that is missing; learned, the vector of an empty
        state."""
        return np.asarray(self.tensors[f"default.{side}"], dtype=np.float32)

    def reader(self, segment: SegmentSpec) -> SegmentReader:
        return SegmentReader(self.spec, segment, self.layouts[segment.side], self.vocabulary)

    def segment_tensors(self, segment: SegmentSpec) -> dict[str, Array]:
        """The segment's own weights, without their prefix."""
        prefix = f"{segment.title}."
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}

    def encoder_tag(self, segment: SegmentSpec) -> int:
        """64 bits of a hash over all that this segment's vectors depend on besides state; every stored vector carries
        it."""
        digest = hashlib.sha256(repr((segment.title, segment.features, segment.encoder, segment.dim)).encode())
        own = {f"w.{n}": np.ascontiguousarray(t) for n, t in sorted(self.segment_tensors(segment).items())}
        digest.update(format_tensors({**own, "vocabulary": self.vocabulary.hashes}))
        digest.update(repr((self.spec.attributes, self.spec.events.actions)).encode())
        return int.from_bytes(digest.digest()[:8], "little")

    def save(self, folder: Path) -> Path:
        """Write to `folder`/`name` and return it. A crash leaves no half bundle under that name."""
        target = folder / self.name
        if target.exists():
            return target
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {
            "hash": self.hash,
            "spec": json.loads(self.spec.canonical),
            "weights_sha256": hashlib.sha256(self.weights).hexdigest(),
            "record": dict(self.record),
            "record_sha256": _record_hash(self.record),
        }
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
            draft = Path(scratch) / "bundle"
            draft.mkdir()
            files.write(draft / WEIGHTS, self.weights)
            files.write(draft / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
            try:
                os.rename(draft, target)
            except OSError:
                if not target.exists():  # else another process has written the same bytes meanwhile
                    raise
        files.sync_folder(folder)
        return target

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read and check a bundle. Raises BundleError that names the file which is damaged."""
        # `save` leaves what has the name as it is: a damaged folder must go first.
        remedy = "Delete the folder, then copy the bundle again or train it again: forebay train"
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            if (size := (folder / WEIGHTS).stat().st_size) > MAX_WEIGHTS_BYTES:
                raise BundleError(f"weights of {size} bytes", where=str(folder / WEIGHTS))
            weights = (folder / WEIGHTS).read_bytes()
            canonical = json.dumps(manifest["spec"], separators=(",", ":"), ensure_ascii=False)
            stated, record = str(manifest["hash"]), manifest["record"]
            of_weights, of_record = manifest["weights_sha256"], manifest["record_sha256"]
        except FileNotFoundError as error:
            raise BundleError(
                "there is no bundle",
                where=str(error.filename),
                do="Bring it from where it was trained, or train one: forebay train",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"the manifest cannot be read: {error!r}", where=str(folder / MANIFEST), do=remedy
            ) from None
        whole = _hash(canonical, weights) == stated
        weights_whole = hashlib.sha256(weights).hexdigest() == of_weights
        if not whole or not weights_whole or _record_hash(record) != of_record:
            raise BundleError(
                f"not the bytes that were written: the bundle does not have the hash {stated[:12]}",
                where=str(folder / (MANIFEST if whole or weights_whole else WEIGHTS)),
                do=remedy,
            )
        try:
            tensors = parse_tensors(weights)
        except (SafetensorError, ValueError) as error:
            raise BundleError(f"the weights cannot be read: {error}", where=str(folder / WEIGHTS), do=remedy) from None
        for name, tensor in tensors.items():
            if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
                raise BundleError(f"tensor {name} is not finite", where=str(folder / WEIGHTS), do=remedy)
        bundle = cls(parse_spec(manifest["spec"]), tensors, record)
        bundle.__dict__["weights"] = weights
        return bundle


def _hash(canonical: str, weights: bytes) -> str:
    digest = hashlib.sha256(len(canonical.encode()).to_bytes(8, "little"))
    digest.update(canonical.encode())
    digest.update(weights)
    return digest.hexdigest()


def _record_hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
