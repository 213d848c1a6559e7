"""Reading `encoder = { … }` of a segments.toml, and whether it suits the segment's features."""

from __future__ import annotations

from typing import Any

from forebay.errors import SpecError
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.spec import EncoderSpec, FeatureSpec, Side
from forebay.segments.spec.toml import known, table, whole

_OPTIONS = {
    "affinity": (),
    "attention_pool": ("dropout", "embedding", "hidden", "queries", "vectors"),
    "bag": ("dropout", "embedding"),
    "gru": ("dropout", "embedding", "hidden"),
    "mlp": ("dropout", "embedding", "hidden", "vectors"),
}
_OF_LISTS = ("attention_pool", "bag", "gru")


def read_encoder(given: Any, where: str) -> EncoderSpec:
    """Raises SpecError that names the option."""
    kind = table(given, where).get("kind")
    if isinstance(kind, str) and ":" in kind:
        return _own(kind, given, where)
    if kind not in _OPTIONS:
        raise SpecError(f"unknown encoder {kind!r}", where=where, do=f"Known: {', '.join(_OPTIONS)}, or module:Class")
    known(given, {"kind", *_OPTIONS[kind]}, where)
    options = {n: v for n, v in given.items() if n != "kind"}
    for name, value in options.items():
        if name == "dropout":
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise SpecError(f"dropout = {value!r}", where=where, do="Use a number from 0 to below 1")
        elif kind == "mlp" and name == "hidden":
            if not isinstance(value, list | tuple):
                raise SpecError(f"hidden = {value!r}", where=where, do="List the layers' widths: hidden = [64]")
            options[name] = tuple(whole(width, 1, 65_536, f"{where} hidden") for width in value)
        else:
            whole(value, 1, 65_536, f"{where} {name}")
            if kind == "attention_pool" and name == "hidden" and value % 8:
                raise SpecError(f"hidden = {value}", where=where, do="Use a multiple of 8: rows of other widths differ")
    return EncoderSpec(kind, tuple(sorted(options.items())))


def check_encoder(
    encoder: EncoderSpec,
    side: Side,
    features: tuple[FeatureSpec, ...],
    dim: int,
    attributes: tuple[AttributeSpec, ...],
    where: str,
) -> None:
    """Refuse features that the encoder cannot read, and a dimension that it cannot give. `attributes` are those of
    items."""
    kind = encoder.kind
    lists = sum(f.kind == "last" for f in features)
    if (":" not in kind and (kind in _OF_LISTS) != (lists == 1)) or lists > 1:
        raise SpecError(
            f"{lists} `last` features under a {kind}",
            where=where,
            do=f"{', '.join(_OF_LISTS)} read exactly one, the others none",
        )
    vectors = encoder.option("vectors", 1)
    if dim % vectors:
        raise SpecError(f"dim = {dim} for {vectors} vectors", where=where, do="Make dim a multiple of vectors")
    if kind == "affinity":
        _check_affinity(side, features, dim, attributes, where)


def _check_affinity(
    side: Side, features: tuple[FeatureSpec, ...], dim: int, attributes: tuple[AttributeSpec, ...], where: str
) -> None:
    if side == "item":
        keys = {c for f in features for c in f.of}
        fits = len(features) == 1 and features[0].kind == "latest" and len(keys) == 1
        remedy = "On side item: features = [{ latest = [K] }] with one category or set K"
    else:
        keys = {f.key for f in features if f.key != "events"}
        plain = [f.kind for f in features if f.key == "events"]
        fits = len(keys) == 1 and plain == ["mean"] and all(f.kind in ("mean", "count") for f in features)
        remedy = 'On side user: counts and means of value by one category or set, and { mean = "value" }'
    found = [a for a in attributes if {a.name} == keys and a.kind != "number"]
    if not fits or not found:
        raise SpecError("an affinity over these features", where=where, do=remedy)
    parts = 1 if side == "item" else sum(f.key != "events" for f in features)
    if dim != parts * found[0].width:
        raise SpecError(
            f"dim = {dim} for {parts} affinities by {found[0].name}",
            where=where,
            do=f"Write dim = {parts * found[0].width}: its {found[0].width - 1} values and the unknown one, each time",
        )


def _own(kind: str, given: Any, where: str) -> EncoderSpec:
    """An encoder of one's own. Its code is not in the bundle: `version` says which code the weights are for."""
    if not isinstance(given.get("version"), str):
        raise SpecError(
            f"{kind} has no version",
            where=where,
            do='Write version = "1", and another one whenever its code gives other vectors',
        )
    options = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items() if n != "kind"}
    for name, value in options.items():
        if not isinstance(value, str | int | float | tuple):
            raise SpecError(f"{name} = {value!r}", where=where, do="Use text, numbers or lists of them")
    return EncoderSpec(kind, tuple(sorted(options.items())))
