"""The fusions by the name that a spec gives them."""

from __future__ import annotations

from collections.abc import Mapping

from forebay.arrays import Floats
from forebay.segments.fusions.contract import Fusion, Shape
from forebay.segments.fusions.layers import Affinity, ConcatFc
from forebay.segments.fusions.maps import Attention, ConcatConv
from forebay.segments.fusions.sums import GatedSum, MaxSim, WeightedSum
from forebay.segments.plugin import own_class
from forebay.segments.spec import FusionSpec, Spec, Use

FUSIONS: dict[str, type[Fusion]] = {
    f.kind: f for f in (WeightedSum, GatedSum, MaxSim, Affinity, ConcatFc, ConcatConv, Attention)
}


def build(spec: Spec, use: Use, tensors: Mapping[str, Floats]) -> Fusion:
    """The fusion for `use` out of a bundle's tensors, `fusion.{use}.{name}`. Raises BundleError."""
    prefix = f"fusion.{use}."
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    fusion = spec.fusions[use]
    return fusion_class(fusion)(fusion, Shape.of(spec, use), own)


def fusion_class(fusion: FusionSpec) -> type[Fusion]:
    """The class that a spec names, one's own included. Raises BundleError for one that cannot be had."""
    if ":" not in fusion.kind:
        return FUSIONS[fusion.kind]
    return own_class(fusion.kind, Fusion, f"[fusion] {fusion.use}")  # type: ignore[type-abstract]
