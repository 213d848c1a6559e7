"""Blocks of events one by one: the plain way, and the definition of what a compiled reader makes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from forebay.errors import UsageError
from forebay.events import Attributes, Behaviour, Event, ItemUpdate, Tick, UserProfile
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import (
    BEHAVIOUR,
    ITEM_UPDATE,
    MAX_ATTRIBUTES,
    TEXTS,
    TICK,
    USER_PROFILE,
    Attribute,
    Scope,
    schema_of,
)

THOUSANDTHS = 1000
_Row = tuple[int, int, float, str, str, str, str]  # kind, time, value, and the texts


def block_of(
    events: Sequence[Event],
    appends: Sequence[int],
    offsets: Sequence[int],
    sources: Sequence[int],
    names: tuple[str, ...],
) -> Block:
    """A block of accepted events, each with its append time (ms), offset and the number of its source among `names`.

    Raises UsageError where they have more than 256 attributes together: cut the batch. A lone surrogate raises
    UnicodeEncodeError: check texts where they come in.
    """
    rows = [_row(event) for event in events]
    found: dict[Attribute, None] = {}
    carried = [[(scope, own) for scope, own in _carried(event) if own] for event in events]
    for parts in carried:
        for scope, own in parts:
            found.update(dict.fromkeys(attribute_of(scope, name, value) for name, value in own.items()))
    attributes = tuple(sorted(found))
    if len(attributes) > MAX_ATTRIBUTES:
        raise UsageError(f"{len(attributes)} attributes in one block", do=f"Use blocks of at most {MAX_ATTRIBUTES}")
    schema = schema_of(attributes)
    columns = [
        pa.array([row[0] for row in rows], pa.uint8()),
        pa.array([row[1] for row in rows], pa.int64()),
        pa.array(appends, pa.int64()),
        pa.array(offsets, pa.int64()),
        pa.array(sources, pa.uint16()),
        pa.array([round(row[2] * THOUSANDTHS) for row in rows], pa.int64()),
        *(pa.array([row[3 + place] for row in rows], pa.string()) for place in range(len(TEXTS))),
    ]
    for attribute in attributes:
        values = [_value(parts, attribute) for parts in carried]
        columns.append(pa.array(values, schema.field(attribute.column).type))
    return Block(pa.record_batch(columns, schema=schema), names, attributes)


def attribute_of(scope: Scope, name: str, value: object) -> Attribute:
    """The column of an attribute's value."""
    if isinstance(value, str):
        return Attribute(scope, name, "text")
    return Attribute(scope, name, "texts" if isinstance(value, list) else "number")


def events_of(block: Block) -> list[Event]:
    """The events again, for people and tests. A value is what its thousandths say."""
    found: list[Event] = []
    for row in block.batch.to_pylist():
        own: dict[Scope, Attributes] = {"event": {}, "item": {}, "user": {}}
        for attribute in block.attributes:
            if (value := row[attribute.column]) is not None:
                own[attribute.scope][attribute.name] = value
        time, user, item, name = row["time"], row["user"], row["item"], row["id"]
        match row["kind"]:
            case 0:
                value = row["value"] / THOUSANDTHS
                found.append(Behaviour(user, item, row["action"], value, time, name, own["item"], own["event"]))
            case 1:
                found.append(UserProfile(user, own["user"], time, name))
            case 2:
                found.append(ItemUpdate(item, own["item"], time, name))
            case _:
                found.append(Tick(time))
    return found


def _row(event: Event) -> _Row:
    match event:
        case Behaviour():
            return BEHAVIOUR, event.time or 0, event.value, event.user, event.item, event.action, event.id or ""
        case UserProfile():
            return USER_PROFILE, event.time or 0, 0.0, event.user, "", "", event.id or ""
        case ItemUpdate():
            return ITEM_UPDATE, event.time or 0, 0.0, "", event.item, "", event.id or ""
        case Tick():
            return TICK, event.time, 0.0, "", "", "", ""
    raise UsageError(f"a {type(event).__name__} is not in the clean log")


def _carried(event: Event) -> list[tuple[Scope, Attributes]]:
    match event:
        case Behaviour():
            return [("item", event.item_attributes), ("event", event.attributes)]
        case UserProfile():
            return [("user", event.attributes)]
        case ItemUpdate():
            return [("item", event.attributes)]
    return []


def _value(parts: list[tuple[Scope, Attributes]], attribute: Attribute) -> object:
    for scope, own in parts:
        if scope == attribute.scope and attribute.name in own:
            value = own[attribute.name]
            return value if attribute_of(scope, attribute.name, value) == attribute else None
    return None
