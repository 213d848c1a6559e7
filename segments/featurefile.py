"""Reading `features = [{ … }]` of a segments.toml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forebay.errors import SpecError
from forebay.segments.expression import Condition
from forebay.segments.spec import AttributeSpec, FeatureSpec, Side
from forebay.segments.tables import duration_ms, known, strings, table, whole

Attributes = Mapping[Side, tuple[AttributeSpec, ...]]


def read_feature(side: Side, given: Any, attributes: Attributes, actions: tuple[str, ...], where: str) -> FeatureSpec:
    """One feature of a segment of `side`. Raises SpecError that says what is wrong with it."""
    table(given, where)
    kinds = [k for k in ("last", "count", "mean", "latest", "id") if k in given]
    if len(kinds) != 1:
        raise SpecError(
            f"{dict(given)} names {len(kinds)} folds", where=where, do="Name one: last, count, mean, latest, id"
        )
    kind = kinds[0]
    keys = {
        "last": {"of", "where"},
        "count": {"where", "bucket", "over"},
        "mean": {"by", "where", "bucket", "over"},
    }
    known(given, {kind, *keys.get(kind, set())}, where)
    condition = Condition(given["where"], actions, where) if "where" in given else None
    match kind:
        case "last":
            of = strings(given.get("of", ()), where)
            allowed = {"item", "value", "age", "action", *(a.name for a in attributes["item"])}
            if side != "user" or not of or not set(of) <= allowed:
                raise SpecError(
                    f"{dict(given)}", where=where, do=f"On side user: last = 1…1000, of = some of {sorted(allowed)}"
                )
            return FeatureSpec("last", of=of, size=whole(given["last"], 1, 1000, where), where=condition)
        case "latest":
            of = strings(given["latest"], where)
            if not of:
                raise SpecError("latest of nothing", where=where, do="Name the attributes that it keeps")
            _declared(attributes[side], side, of, where)
            return FeatureSpec("latest", of=of)
        case "id":
            if side != "item":  # most users of tomorrow are unknown to the vocabulary of today
                raise SpecError("an id on side user", where=where, do="Make user vectors of events: use `last`")
            return FeatureSpec("id", size=whole(given["id"], 1, 1024, where))
    (key,) = strings([given["count"] if kind == "count" else given.get("by", "events")], where)
    if kind == "mean" and given["mean"] != "value":
        raise SpecError(f"mean of {given['mean']!r}", where=where, do='Only "value" has a mean')
    if key not in ("events", "action"):
        if side != "user":
            raise SpecError(f"{key!r} on side item", where=where, do='An interaction record has "events" and "action"')
        _declared(attributes["item"], "item", (key,), where)
        if any(a.name == key and a.kind == "number" for a in attributes["item"]):
            raise SpecError(f"{key!r} is a number and has no buckets", where=where, do="Count by a category or a set")
    if ("bucket" in given) != ("over" in given):
        raise SpecError("bucket and over belong together", where=where, do="Write both or none")
    bucket = duration_ms(given["bucket"], where) if "bucket" in given else 0
    over = duration_ms(given["over"], where) if "over" in given else 0
    if "over" in given and (bucket <= 0 or over <= 0 or over % bucket or over // bucket > 1000):
        raise SpecError(
            f"over {given['over']} in buckets of {given['bucket']}",
            where=where,
            do="Make `over` 1 to 1000 whole buckets",
        )
    return FeatureSpec("count" if kind == "count" else "mean", key=key, where=condition, bucket_ms=bucket, over_ms=over)


def _declared(attributes: tuple[AttributeSpec, ...], side: Side, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if name not in {a.name for a in attributes}:
            raise SpecError(f"attribute {name!r} is not declared", where=where, do=f"Add it under [attributes.{side}]")
