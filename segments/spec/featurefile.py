"""Reading `features = [{ … }]` of a segments.toml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forebay.errors import SpecError
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.expression import Condition
from forebay.segments.spec.spec import CROSS, FeatureSpec, Holder, Side
from forebay.segments.spec.toml import duration_ms, known, strings, table, whole

# A bucket's events share one age. A quarter of the half-life keeps that within a factor of 2^(1/4), 19 %; five
# half-lives leave out what would weigh 1/32 or less.
BUCKETS_OF_A_HALF_LIFE = 4
HALF_LIVES_KEPT = 5
MAX_CROSS = 1024  # pairs of keys: 8 KiB of a row for each time bucket, twice that for a mean

Attributes = Mapping[Holder, tuple[AttributeSpec, ...]]


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
        "count": {"where", "bucket", "over", "half_life"},
        "mean": {"by", "where", "bucket", "over", "half_life"},
    }
    known(given, {kind, *keys.get(kind, set())}, where)
    own = attributes.get("event", ())
    condition = Condition(given["where"], actions, where, own) if "where" in given else None
    match kind:
        case "last":
            of = strings(given.get("of", ()), where)
            allowed = {"item", "value", "age", "action", *(a.name for a in (*attributes["item"], *own))}
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
    named = given["count"] if kind == "count" else given.get("by", "events")
    keys_of = strings(named if isinstance(named, list | tuple) else [named], where)
    if kind == "mean" and given["mean"] != "value":
        raise SpecError(f"mean of {given['mean']!r}", where=where, do='Only "value" has a mean')
    for key in keys_of:
        _check_key(side, key, attributes["item"], own, where)
    if isinstance(named, list | tuple):
        _check_cross(keys_of, (*attributes["item"], *own), actions, where)
    bucket, over, half_life = _window(given, where)
    return FeatureSpec(
        "count" if kind == "count" else "mean",
        key=CROSS.join(keys_of),
        where=condition,
        bucket_ms=bucket,
        over_ms=over,
        half_life_ms=half_life,
    )


def _check_key(
    side: Side, key: str, items: tuple[AttributeSpec, ...], own: tuple[AttributeSpec, ...], where: str
) -> None:
    if key in ("events", "action"):
        return
    if side != "user" and key not in {a.name for a in own}:
        raise SpecError(
            f"{key!r} on side item",
            where=where,
            do='Events of an item have "events", "action" and what is declared under [attributes.event]',
        )
    attributes = (*items, *own)
    _declared(attributes, "item", (key,), where)
    if any(a.name == key and a.kind == "number" for a in attributes):
        raise SpecError(f"{key!r} is a number and has no buckets", where=where, do="Count by a category or a set")


def _check_cross(
    keys: tuple[str, ...], attributes: tuple[AttributeSpec, ...], actions: tuple[str, ...], where: str
) -> None:
    if len(keys) != 2 or "events" in keys:
        raise SpecError(
            f"a cross of {list(keys)}",
            where=where,
            do='Name two of "action", the item attributes and the event attributes, or one key without a list',
        )
    widths = {"action": len(actions) + 1, **{a.name: a.width for a in attributes}}
    first, second = (widths[k] for k in keys)
    if first * second > MAX_CROSS:
        raise SpecError(
            f"{' × '.join(keys)} has {first} × {second} = {first * second} pairs",
            where=where,
            do=f"A cross has at most {MAX_CROSS}: join rare values into one, or count by each key alone",
        )


def _window(given: Mapping[str, Any], where: str) -> tuple[int, int, int]:
    """(bucket, over, half-life) in ms, 0 for none. A half-life without a window brings its own."""
    half_life = duration_ms(given["half_life"], where) if "half_life" in given else 0
    if "half_life" in given and half_life <= 0:
        raise SpecError(f"half_life {given['half_life']}", where=where, do='Make it longer than nothing: "7d"')
    if ("bucket" in given) != ("over" in given):
        raise SpecError("bucket and over belong together", where=where, do="Write both or none")
    bucket = duration_ms(given["bucket"], where) if "bucket" in given else 0
    over = duration_ms(given["over"], where) if "over" in given else 0
    if half_life and "over" not in given:
        bucket = max(1, half_life // BUCKETS_OF_A_HALF_LIFE)
        return bucket, bucket * BUCKETS_OF_A_HALF_LIFE * HALF_LIVES_KEPT, half_life
    if "over" in given and (bucket <= 0 or over <= 0 or over % bucket or over // bucket > 1000):
        raise SpecError(
            f"over {given['over']} in buckets of {given['bucket']}",
            where=where,
            do="Make `over` 1 to 1000 whole buckets",
        )
    return bucket, over, half_life


def _declared(attributes: tuple[AttributeSpec, ...], side: Side, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if name not in {a.name for a in attributes}:
            raise SpecError(f"attribute {name!r} is not declared", where=where, do=f"Add it under [attributes.{side}]")
