"""Reading `[fusion]` of a segments.toml: for each use a kind, its options and the segments that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forebay.errors import SpecError
from forebay.segments.spec.spec import SIDES, USES, FusionSpec, SegmentSpec, Side, Use
from forebay.segments.spec.toml import known, strings, table, whole

# Kind -> its options. The first two fold to one inner product, which is what an index can search.
_OPTIONS = {
    "weighted_sum": (),
    "gated_sum": (),
    "maxsim": (),
    "affinity": ("hidden",),
    "concat_fc": ("hidden",),
    "concat_conv": ("channels", "window"),
    "attention": ("heads",),
}
INDEXABLE = ("weighted_sum", "gated_sum")
_ONE_WIDTH = ("concat_conv", "attention")


def read_fusions(given: Any, segments: tuple[SegmentSpec, ...]) -> Mapping[Use, FusionSpec]:
    """Both uses; one that is absent is a weighted sum over every segment. Raises SpecError."""
    known(given, set(USES), "[fusion]")
    return {use: _fusion(use, given.get(use, "weighted_sum"), segments) for use in USES}


def _fusion(use: Use, given: Any, segments: tuple[SegmentSpec, ...]) -> FusionSpec:
    where = f"[fusion] {use}"
    options = dict(table({"kind": given} if isinstance(given, str) else given, where))
    kind = options.pop("kind", None)
    own = ":" in kind if isinstance(kind, str) else False
    if not own and kind not in _OPTIONS:
        raise SpecError(f"unknown fusion {kind!r}", where=where, do=f"Known: {', '.join(_OPTIONS)}, or module:Class")
    read = {side: _segments(side, options.pop(side, None), segments, where) for side in SIDES}
    if own and not isinstance(options.get("version"), str):
        raise SpecError(
            f"{kind} has no version",
            where=where,
            do='Write version = "1", and another one whenever its code gives other scores',
        )
    if not own:
        known(options, set(_OPTIONS[kind]), where)
        for name, value in options.items():
            if name == "hidden" and kind == "concat_fc" and isinstance(value, list | tuple):
                options[name] = tuple(whole(w, 1, 4096, f"{where} hidden") for w in value)
            else:
                whole(value, 1, 4096, f"{where} {name}")
    if options.get("window", 1) % 2 == 0:
        raise SpecError(f"window = {options['window']}", where=where, do="Use an odd number: it has a middle")
    fusion = FusionSpec(use, kind, read["user"], read["item"], tuple(sorted(options.items())))
    if use == "retrieve" and kind not in INDEXABLE and not own:
        raise SpecError(
            f"{kind} cannot be searched: it does not fold to one inner product",
            where=where,
            do=f"Use {' or '.join(INDEXABLE)} here, and {kind} under rank",
        )
    _meet(fusion, where)
    return fusion


def _segments(side: Side, names: Any, segments: tuple[SegmentSpec, ...], where: str) -> tuple[SegmentSpec, ...]:
    mine = tuple(s for s in segments if s.side == side)
    if names is None:
        return mine
    wanted = strings(names, f"{where} {side}")
    for name in wanted:
        if name not in {s.name for s in mine}:
            raise SpecError(f"no segment {side}.{name}", where=where, do=f"Known: {', '.join(s.name for s in mine)}")
    if not wanted:
        raise SpecError(f"no segment of side {side}", where=where, do="Name one, or leave the list out to read all")
    return tuple(s for s in mine if s.name in wanted)


def _meet(fusion: FusionSpec, where: str) -> None:
    """Refuse segments that nothing on the other side can meet: a dot product needs equal dimensions."""
    widths = {
        side: {s.title: s.dim // s.parts for s in segments}
        for side, segments in (("user", fusion.user), ("item", fusion.item))
    }
    shown = ", ".join(f"{title} {width}" for side in SIDES for title, width in widths[side].items())
    if fusion.kind in _ONE_WIDTH and len({w for side in SIDES for w in widths[side].values()}) > 1:
        raise SpecError(
            f"{fusion.kind} needs one dimension for all its segments, here {shown}",
            where=where,
            do="Give them the same dim, or name with user = […] and item = […] those that it reads",
        )
    heads = fusion.option("heads", 2)
    if fusion.kind == "attention" and any(w % heads for side in SIDES for w in widths[side].values()):
        raise SpecError(f"heads = {heads} for {shown}", where=where, do="Use a divisor of the dimension")
    if fusion.kind == "concat_fc" or ":" in fusion.kind:
        return
    for side, other in (("user", "item"), ("item", "user")):
        for title, width in widths[side].items():
            if width not in widths[other].values():
                raise SpecError(
                    f"{title} has {width} dimensions and meets no segment of side {other}: {shown}",
                    where=where,
                    do=f"Give it the dim of one of side {other}, or name the segments that this fusion reads",
                )
