"""What a reader finds in raw records: places of texts in a buffer, and numbers. No Python object for an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit

from forebay.arrays import Bools, Bytes, Doubles, Int8s, Ints
from forebay.events import Attribute, Attributes, Behaviour, ItemUpdate, UserProfile
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE, USER_PROFILE, Kind, Scope

SCOPES: tuple[Scope, ...] = ("event", "item", "user")
KINDS: tuple[Kind, ...] = ("text", "number", "texts")
ITEM_SCOPE, TEXTS_KIND = SCOPES.index("item"), KINDS.index("texts")
USER, ITEM, ACTION, ID = range(4)  # columns of `texts`
ABSENT = -1  # a time that is not there


@dataclass(frozen=True)
class Owned:
    """m attributes of events: whose event it is (its row, int64 [m]), `scope` and `kind` int8 [m] (places in SCOPES and
    KINDS), the `name` and `text` as int64 [m, 2] (begin and end in the buffer), the `number` float64 [m]. A list's
    `text` is its range in `members` int64 [k, 2], which has the places of its texts."""

    row: Ints
    scope: Int8s
    kind: Int8s
    name: Ints
    text: Ints
    number: Doubles
    members: Ints

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Fields:
    """n records. `read` bool [n] tells which were read; of the others nothing is known. `kind` int8 [n] as a Block has
    it, `time` (ms, -1 absent) and `value` (thousandths) int64 [n], `texts` int64 [n, 4, 2]: where user, item, action
    and id begin and end in `data` uint8, an absent one with no length."""

    data: Bytes
    read: Bools
    kind: Int8s
    time: Ints
    value: Ints
    texts: Ints
    owned: Owned

    def __len__(self) -> int:
        return len(self.read)


def fields_of(events: Sequence[Behaviour | UserProfile | ItemUpdate]) -> Fields:
    """Of events one by one: the plain way. Each has passed `check`."""
    buffer = _Buffer()
    count = len(events)
    kind, time, value = np.zeros(count, np.int8), np.full(count, ABSENT, np.int64), np.zeros(count, np.int64)
    texts = np.zeros((count, 4, 2), np.int64)
    owned = _Owning(buffer)
    for row, event in enumerate(events):
        time[row] = ABSENT if event.time is None else event.time
        texts[row, ID] = buffer.put(event.id or "")
        match event:
            case Behaviour():
                kind[row], value[row] = BEHAVIOUR, round(event.value * 1000)
                texts[row, USER], texts[row, ITEM] = buffer.put(event.user), buffer.put(event.item)
                texts[row, ACTION] = buffer.put(event.action)
                owned.put(row, "item", event.item_attributes)
                owned.put(row, "event", event.attributes)
            case UserProfile():
                kind[row], texts[row, USER] = USER_PROFILE, buffer.put(event.user)
                owned.put(row, "user", event.attributes)
            case ItemUpdate():
                kind[row], texts[row, ITEM] = ITEM_UPDATE, buffer.put(event.item)
                owned.put(row, "item", event.attributes)
    return Fields(buffer.bytes(), np.ones(count, np.bool_), kind, time, value, texts, owned.arrays())


def updates_of(fields: Fields, rows: Ints) -> list[ItemUpdate]:
    """The item updates at `rows` int64, one by one: the way back. Each has a time."""
    own, place_of = fields.owned, np.full(len(fields), -1, np.int64)
    place_of[rows] = np.arange(len(rows))
    at = np.flatnonzero(place_of[own.row] >= 0)
    carried: list[Attributes] = [{} for _ in range(len(rows))]
    buffer, members = fields.data.data, own.members

    def text(start: int, end: int) -> str:
        return str(buffer[start:end], "utf-8")

    columns = (place_of[own.row[at]], own.kind[at], own.name[at], own.text[at], own.number[at])
    for place, kind, name, (start, end), number in zip(*(column.tolist() for column in columns), strict=True):
        value: Attribute = number if KINDS[kind] == "number" else ""
        if KINDS[kind] == "texts":
            value = [text(*member) for member in members[start:end].tolist()]
        elif KINDS[kind] == "text":
            value = text(start, end)
        carried[place][text(*name)] = value
    spans, times = fields.texts[rows].tolist(), fields.time[rows].tolist()
    return [
        ItemUpdate(text(*span[ITEM]), attributes, time, text(*span[ID]))
        for span, attributes, time in zip(spans, carried, times, strict=True)
    ]


def with_rows(fields: Fields, rows: Ints, others: Fields) -> Fields:
    """`fields` with those of `others`, in order, at `rows` int64: what a compiled reader declined and a plain one
    read."""
    if not len(rows):
        return fields
    kind, time, value = fields.kind.copy(), fields.time.copy(), fields.value.copy()
    read, texts, moved = fields.read.copy(), fields.texts.copy(), len(fields.data)
    kind[rows], time[rows], value[rows], read[rows] = others.kind, others.time, others.value, others.read
    texts[rows] = others.texts + moved
    owned = _joined(fields.owned, others.owned, rows[others.owned.row], moved)
    return Fields(np.concatenate([fields.data, others.data]), read, kind, time, value, texts, owned)


def with_attributes(fields: Fields, rows: Ints, data: Bytes, owned: Owned) -> Fields:
    """`fields` with m attributes more, whose texts are in `data`: they are of the events at `rows` int64 [m]."""
    if not len(rows):
        return fields
    both = _joined(fields.owned, owned, rows, len(fields.data))
    return replace(fields, data=np.concatenate([fields.data, data]), owned=both)


def packed(data: Bytes, owned: Owned, at: Ints) -> tuple[Bytes, Owned]:
    """The attributes at `at` int64 [m], in that order, and a buffer that has their texts alone."""
    listed = owned.kind[at] == TEXTS_KIND
    lists = owned.text[at[listed]]
    lengths = lists[:, 1] - lists[:, 0]
    members = owned.members[ranges(lists[:, 0], lengths)]
    texts = owned.text[at]
    letters, bounds = gathered(data, np.concatenate([owned.name[at], texts[~listed], members]))
    moved = np.stack([bounds[:-1], bounds[1:]], axis=1)
    names, plain = len(at), len(at) + int((~listed).sum())
    ends = np.cumsum(lengths)
    texts[~listed], texts[listed] = moved[names:plain], np.stack([ends - lengths, ends], axis=1)
    row, scope, kind, number = owned.row[at], owned.scope[at], owned.kind[at], owned.number[at]
    return letters, Owned(row, scope, kind, moved[:names], texts, number, moved[plain:])


def gathered(data: Bytes, spans: Ints) -> tuple[Bytes, Ints]:
    """The texts at `spans` int64 [n, 2] of `data`, one behind the other, and their bounds in that int64 [n + 1]."""
    bounds = np.zeros(len(spans) + 1, np.int64)
    np.cumsum(spans[:, 1] - spans[:, 0], out=bounds[1:])
    letters = np.empty(bounds[-1], np.uint8)
    _gather(data, spans, bounds, letters)
    return letters, bounds


@njit(cache=True, nogil=True)
def _gather(data: Any, spans: Any, bounds: Any, letters: Any) -> None:
    for i in range(len(spans)):
        start, to = spans[i, 0], bounds[i]
        for k in range(spans[i, 1] - start):
            letters[to + k] = data[start + k]


def ranges(starts: Ints, counts: Ints) -> Ints:
    """int64: `starts[0]`, and so many after it, then `starts[1]` and so on."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)


def _joined(mine: Owned, theirs: Owned, rows: Ints, moved: int) -> Owned:
    """Both, one behind the other. `theirs` are of the events at `rows` int64 [m], and their texts lie `moved` bytes
    further on."""
    lists = (theirs.kind == TEXTS_KIND)[:, None]
    return Owned(
        np.concatenate([mine.row, rows]),
        np.concatenate([mine.scope, theirs.scope]),
        np.concatenate([mine.kind, theirs.kind]),
        np.concatenate([mine.name, theirs.name + moved]),
        np.concatenate([mine.text, theirs.text + np.where(lists, len(mine.members), moved)]),
        np.concatenate([mine.number, theirs.number]),
        np.concatenate([mine.members, theirs.members + moved]),
    )


class _Buffer:
    """Texts one behind the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def put(self, text: str) -> tuple[int, int]:
        data = text.encode()
        self._parts.append(data)
        self._size += len(data)
        return self._size - len(data), self._size

    def bytes(self) -> Bytes:
        return np.frombuffer(b"".join(self._parts), np.uint8)


class _Owning:
    """Attributes one behind the other."""

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer = buffer
        self._rows: list[tuple[int, int, int, tuple[int, int], tuple[int, int], float]] = []
        self._members: list[tuple[int, int]] = []

    def put(self, row: int, scope: Scope, own: Attributes) -> None:
        for name, value in own.items():
            text, number, kind = (0, 0), 0.0, 0
            if isinstance(value, str):
                text = self._buffer.put(value)
            elif isinstance(value, list):
                kind, start = 2, len(self._members)
                self._members += [self._buffer.put(member) for member in value]
                text = (start, len(self._members))
            else:
                kind, number = 1, float(value)
            self._rows.append((row, SCOPES.index(scope), kind, self._buffer.put(name), text, number))

    def arrays(self) -> Owned:
        columns = list(zip(*self._rows, strict=True)) or [()] * 6
        return Owned(
            np.array(columns[0], np.int64),
            np.array(columns[1], np.int8),
            np.array(columns[2], np.int8),
            np.array(columns[3], np.int64).reshape(-1, 2),
            np.array(columns[4], np.int64).reshape(-1, 2),
            np.array(columns[5], np.float64),
            np.array(self._members, np.int64).reshape(-1, 2),
        )
