"""The naive fold: the definition of what the compiled kernels compute, byte for byte.

An entity's row is a function of a set: its accepted behaviours, its updates and the newest tick of its partition.
Nothing here has an order, a batch, an earlier row or a numpy operation on more than one number. Events are coded anew,
from the words of columns.py, so that a mistake there shows as well; only the hash of an id is taken over.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from forebay.arrays import Ints
from forebay.events import Attribute, Behaviour, ItemUpdate, UserProfile
from forebay.segments.spec import FeatureSpec, Side, Spec
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.state.ids import hash_id
from forebay.segments.state.layout import ACCEPTED, NEWEST, UPDATED, Block, Layout

Updating = UserProfile | ItemUpdate


def row(
    spec: Spec, layout: Layout, behaviours: Collection[Behaviour], updates: Collection[Updating], clock: int = 0
) -> Ints:
    """The row int64 [layout.width] of one entity; `clock` is the newest tick (ms), 0 for none."""
    out = [0] * layout.width
    out[NEWEST] = max((time_of(e) for e in behaviours), default=0)
    out[ACCEPTED] = len(behaviours)
    out[UPDATED] = max((time_of(e) for e in updates), default=0)
    for block in layout.blocks:
        where = block.feature.where
        chosen = [e for e in behaviours if where is None or meets(spec, where.text, e)]
        match block.feature.kind:
            case "last":
                columns = _last(spec, layout.side, block, chosen)
            case "latest":
                columns = _latest(spec, layout.side, block, updates)
            case _:
                columns = _sums(spec, block, chosen, max(out[NEWEST], clock))
        for place, number in columns.items():
            assert 0 <= place < block.size
            out[block.offset + place] = number
    return np.array(out, dtype=np.int64)


def time_of(event: Behaviour | Updating) -> int:
    """The event time, which every accepted event has."""
    assert event.time is not None
    return event.time


def order_of(event: Behaviour | Updating) -> tuple[int, int]:
    """What newest means: the greatest (time, hashed id)."""
    return time_of(event), hash_id(event.id or "")


class Absent:
    """An event attribute that is not there, or has no known value: unequal to everything, in no order with anything,
    without members."""

    def __lt__(self, _: object) -> bool:
        return False

    __le__ = __gt__ = __ge__ = __lt__

    def __contains__(self, _: object) -> bool:
        return False


def meets(spec: Spec, text: str, event: Behaviour) -> bool:
    """Whether an event meets a condition, by Python's own reading of it."""
    names: dict[str, object] = {"action": event.action, "value": thousandths(event.value) / 1000}
    for attribute in spec.event_attributes:
        value = event.attributes.get(attribute.name)
        known = {"category": isinstance(value, str) and value in attribute.values, "set": isinstance(value, list)}
        if attribute.kind == "number":
            names[attribute.name] = thousandths(value) / 1000 if isinstance(value, int | float) else Absent()
        else:
            names[attribute.name] = value if known[attribute.kind] else Absent()
    return bool(eval(text, {"__builtins__": {}}, names))


def thousandths(value: float) -> int:
    """A half goes to the even neighbour."""
    return round(value * 1000)


def code(attribute: AttributeSpec, value: Attribute | None) -> int:
    """The one integer that an attribute is kept as."""
    match attribute.kind:
        case "number":
            return 2 * thousandths(value) + 1 if isinstance(value, int | float) else 0
        case "category" if attribute.buckets:
            return hash_id(value) % 2**64 % attribute.buckets + 1 if isinstance(value, str) else 0
        case "category":
            return attribute.values.index(value) + 1 if value in attribute.values else 0
        case "set":
            members = value if isinstance(value, list) and value else ["of no known value"]
            return sum({1 << (attribute.values.index(m) + 1 if m in attribute.values else 0) for m in members})


def _last(spec: Spec, side: Side, block: Block, chosen: list[Behaviour]) -> dict[int, int]:
    columns = {0: min(len(chosen), block.feature.size)}
    for number, event in enumerate(sorted(chosen, key=order_of)[-block.feature.size :]):
        values = (*order_of(event), *(_column(spec, side, event, c) for c in block.feature.of if c != "age"))
        columns.update({1 + number * len(values) + place: v for place, v in enumerate(values)})
    return columns


def _latest(spec: Spec, side: Side, block: Block, updates: Collection[Updating]) -> dict[int, int]:
    if not updates:
        return {}
    newest = max(updates, key=order_of)
    codes = [code(spec.attribute(side, name), newest.attributes.get(name)) for name in block.feature.of]
    return dict(enumerate((*order_of(newest), *codes)))


def _sums(spec: Spec, block: Block, chosen: list[Behaviour], end: int) -> dict[int, int]:
    feature = block.feature
    columns = {0: max((time_of(e) for e in chosen), default=0)}
    for event in chosen:
        bucket = 0
        if feature.over_ms:
            bucket = time_of(event) // feature.bucket_ms
            if bucket <= end // feature.bucket_ms - feature.buckets:
                continue
        for key in keys_of(spec, feature.key, event):
            place = 1 + bucket % feature.buckets * block.keys + key
            columns[place] = columns.get(place, 0) + 1
            if feature.kind == "mean":
                place += feature.buckets * block.keys
                columns[place] = columns.get(place, 0) + thousandths(event.value)
    return columns


def decayed(
    spec: Spec, feature: FeatureSpec, behaviours: Collection[Behaviour], clock: int, keys: int
) -> list[list[float]]:
    """[counts, sums] by key of one entity's events, each weighed by the age of its bucket before the newest one
    counted."""
    where = feature.where
    chosen = [e for e in behaviours if where is None or meets(spec, where.text, e)]
    end = max([clock, *map(time_of, behaviours)]) // feature.bucket_ms
    newest = max(map(time_of, chosen), default=0) // feature.bucket_ms
    counts, sums = [0.0] * keys, [0.0] * keys
    for event in chosen:
        bucket = time_of(event) // feature.bucket_ms
        if bucket <= end - feature.buckets:
            continue
        weight = 0.5 ** ((newest - bucket) * feature.bucket_ms / feature.half_life_ms)
        for key in keys_of(spec, feature.key, event):
            counts[key] += weight
            sums[key] += weight * thousandths(event.value) / 1000
    return [counts, sums]


def keys_of(spec: Spec, key: str, event: Behaviour) -> list[int]:
    """The places of one event among a feature's keys; of a cross, those of every pair."""
    if " × " in key:
        one, two = key.split(" × ")
        width = len(spec.events.actions) + 1 if two == "action" else _width(_carried(spec, two))
        return [i * width + j for i in keys_of(spec, one, event) for j in keys_of(spec, two, event)]
    if key == "events":
        return [0]
    if key == "action":
        return [_action(spec, event)]
    attribute = _carried(spec, key)
    number = code(attribute, _value(spec, event, key))
    return [number] if attribute.kind == "category" else [k for k in range(_width(attribute)) if number >> k & 1]


def _carried(spec: Spec, name: str) -> AttributeSpec:
    """The attribute of that name that an event carries: its own, or its item's."""
    (found,) = [a for a in (*spec.attributes["item"], *spec.event_attributes) if a.name == name]
    return found


def _value(spec: Spec, event: Behaviour, name: str) -> Attribute | None:
    if any(a.name == name for a in spec.event_attributes):
        return event.attributes.get(name)
    return event.item_attributes.get(name)


def _width(attribute: AttributeSpec) -> int:
    return (attribute.buckets or len(attribute.values)) + 1


def _column(spec: Spec, side: Side, event: Behaviour, name: str) -> int:
    match name:
        case "item":
            return hash_id(event.item)
        case "action":
            return _action(spec, event)
        case "value":
            return thousandths(event.value)
    assert side == "user"
    return code(_carried(spec, name), _value(spec, event, name))


def _action(spec: Spec, event: Behaviour) -> int:
    return spec.events.actions.index(event.action) + 1 if event.action in spec.events.actions else 0
