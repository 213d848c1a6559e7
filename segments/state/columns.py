"""Events as columns: where strings, floats and attributes become the integers that state is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from forebay.arrays import Ints, Places
from forebay.events import Attribute, Attributes, Behaviour, ItemUpdate, UserProfile
from forebay.segments.spec import Side, Spec
from forebay.segments.spec.attribute import MAX_NUMBER, THOUSANDTHS, AttributeSpec, bucket_of
from forebay.segments.state.ids import Ids, hash_ids

Updating: TypeAlias = UserProfile | ItemUpdate


@dataclass(frozen=True)
class Columns:
    """A batch of n events: `entities`, event `times` (ms) and hashed `ids` int64 [n], `matrix` int64 [n, columns].

    The matrix has a Layout's `event_columns` or `update_columns`. Ids in it are hashes, `value` and numbers are
    thousandths, an action or a category is its code (0 = unknown), or its bucket (0 = absent), a set is a bit mask (bit
    0 = unknown), a number attribute is 2 · thousandths + 1 (0 = absent, which no number is).
    """

    entities: Ids
    times: Ints
    ids: Ints
    matrix: Ints

    def __len__(self) -> int:
        return len(self.times)

    def take(self, index: Places) -> Columns:
        """The events at `index`, in that order."""
        return Columns(self.entities.take(index), self.times[index], self.ids[index], self.matrix[index])


class ColumnCoder:
    """Turns one side's events into columns. It keeps nothing of an event."""

    def __init__(self, spec: Spec, side: Side) -> None:
        self._side = side
        self._actions = {action: place + 1 for place, action in enumerate(spec.events.actions)}
        self._item = [_AttributeCoder(a) for a in spec.attributes["item"]]
        self._own = [_AttributeCoder(a) for a in spec.attributes[side]]
        self._event = [_AttributeCoder(a) for a in spec.event_attributes]

    def behaviours(self, events: Sequence[Behaviour]) -> Columns:
        """Columns of behaviours as this side's entities see them; each has an id and a time."""
        count, action = len(events), self._actions.get
        coders: list[_AttributeCoder] = []
        attributes: list[Attributes] = []
        if self._side == "user":
            entities, others = [e.user for e in events], [e.item for e in events]
            attributes, coders = [e.item_attributes for e in events], self._item
        else:
            entities, others = [e.item for e in events], [e.user for e in events]
        matrix = np.empty((count, 3 + len(coders) + len(self._event)), dtype=np.int64)
        matrix[:, 0] = hash_ids(others)
        matrix[:, 1] = [action(e.action, 0) for e in events]
        values = np.array([e.value for e in events], dtype=np.float64)
        matrix[:, 2] = np.rint(values * THOUSANDTHS)
        for place, coder in enumerate(coders):
            matrix[:, 3 + place] = coder.codes(attributes)
        if self._event:
            attributes = [e.attributes for e in events]
        for place, coder in enumerate(self._event, start=3 + len(coders)):
            matrix[:, place] = coder.codes(attributes)
        return Columns(Ids.of(entities), _times(events), hash_ids([e.id or "" for e in events]), matrix)

    def updates(self, events: Sequence[Updating]) -> Columns:
        """Columns of attribute updates of this side's entities."""
        entities = [e.user if isinstance(e, UserProfile) else e.item for e in events]
        matrix = np.empty((len(events), len(self._own)), dtype=np.int64)
        attributes = [e.attributes for e in events]
        for place, coder in enumerate(self._own):
            matrix[:, place] = coder.codes(attributes)
        return Columns(Ids.of(entities), _times(events), hash_ids([e.id or "" for e in events]), matrix)


def _times(events: Sequence[Behaviour | Updating]) -> Ints:
    return np.array([e.time for e in events], dtype=np.int64)


class _AttributeCoder:
    def __init__(self, spec: AttributeSpec) -> None:
        self._spec = spec
        self._known = {value: place + 1 for place, value in enumerate(spec.values)}
        self._bits = {value: 1 << place for value, place in self._known.items()}

    def codes(self, attributes: Sequence[Mapping[str, Attribute]]) -> list[int]:
        name = self._spec.name
        match self._spec.kind:
            case "set":
                return [self._mask(a.get(name)) for a in attributes]
            case "category" if buckets := self._spec.buckets:
                return [bucket_of(v, buckets) if isinstance(v := a.get(name), str) else 0 for a in attributes]
            case "category":
                known = self._known
                return [known.get(v, 0) if isinstance(v := a.get(name), str) else 0 for a in attributes]
            case "number":
                return [_number(a.get(name)) for a in attributes]

    def _mask(self, value: Attribute | None) -> int:
        if not isinstance(value, list) or not value:
            return 1
        # A list seen before is not looked up as a whole: that saved 50 ns of an event's 25 µs, and kept every list a
        # producer made up.
        mask, bit = 0, self._bits.get
        for member in value:
            mask |= bit(member, 1)
        return mask


def _number(value: Attribute | None) -> int:
    if not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        return 0
    return round(value * THOUSANDTHS) * 2 + 1
