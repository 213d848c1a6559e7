"""The compiled reader of our own JSON: many records in one buffer become Fields.

It reads what a publisher writes, with keys in any order and white space between them, and declines whatever is unusual:
escapes, ids outside of printable ASCII, numbers with an exponent or more than 15 digits, null, unknown keys, one key
twice, other kinds of events, and every record that is refused. What it declines is decided by msgspec, one by one. For
each record that it reads, both give the same event (tests/streams/intake/test_reader.py).

A record is read by walking over its bytes once. `at` is where the walk stands; a negative one means that the record is
declined. All kernels stand in this file: numba's cache does not notice that a kernel of another file has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from forebay.events import MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_ID_BYTES, MAX_RECORD_BYTES, MAX_VALUE
from forebay.streams.intake.fields import ABSENT, Fields, Owned

# What a walk returns instead of a place.
_NO = -1
_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _DOT = 34, 92, 44, 58, 45, 46
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = 123, 125, 91, 93
_MOST_DIGITS = 15  # such a whole number is exact in a float64, and so is its quotient by a power of ten up to 10**22
_EVENT, _ITEM, _USER = 0, 1, 2  # scopes, by their places in SCOPES
_POWERS = 10.0 ** np.arange(_MOST_DIGITS + 1)


def read(values: Sequence[bytes]) -> Fields:
    """Fields of n records; `read` is False for those that are declined."""
    count = len(values)
    data = np.frombuffer(b"".join(values), np.uint8)
    lengths = np.fromiter(map(len, values), np.int64, count)
    ends = np.cumsum(lengths)
    found = Fields(
        data, np.zeros(count, np.bool_), np.zeros(count, np.int8), np.full(count, ABSENT, np.int64),
        np.zeros(count, np.int64), np.zeros((count, 4, 2), np.int64), _room(len(data)),
    )  # fmt: skip
    own = found.owned
    owned, members = _read_all(
        data, ends - lengths, ends, found.read, found.kind, found.time, found.value, found.texts,
        own.row, own.scope, own.kind, own.name, own.text, own.number, own.members, _POWERS,
    )  # fmt: skip
    kept = slice(0, owned)
    short = Owned(
        own.row[kept], own.scope[kept], own.kind[kept], own.name[kept], own.text[kept], own.number[kept],
        own.members[:members],
    )  # fmt: skip
    return Fields(data, found.read, found.kind, found.time, found.value, found.texts, short)


def _room(size: int) -> Owned:
    """For as many attributes and members as so many bytes can hold: `"":1,` has five of them, `"",` three."""
    most, members = size // 5 + 1, size // 3 + 1
    return Owned(
        np.empty(most, np.int64), np.empty(most, np.int8), np.empty(most, np.int8), np.empty((most, 2), np.int64),
        np.empty((most, 2), np.int64), np.empty(most, np.float64), np.empty((members, 2), np.int64),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _read_all(
    data: Any, starts: Any, ends: Any, read: Any, kinds: Any, times: Any, values: Any, texts: Any, rows: Any,
    scopes: Any, own_kinds: Any, names: Any, own_texts: Any, numbers: Any, members: Any, powers: Any,
) -> Any:  # fmt: skip
    owned = listed = 0
    for row in range(len(starts)):
        start, end = starts[row], ends[row]
        if end - start > MAX_RECORD_BYTES:
            continue
        at = _space(data, start, end)
        at = at + 1 if at < end and data[at] == _OPEN else _NO
        kind, had, own_from, list_from = -1, 0, owned, listed
        # `attributes` are the event's, the user's or the item's, which `type` tells; it may come behind them.
        plain_from, plain_to = owned, owned
        while at >= 0:  # an empty object lacks all that an event must have, and is declined as it starts with no key
            key = at = _space(data, at, end)
            at = _text(data, at, end)
            if at < 0:
                break
            name_from, name_to = key + 1, at - 1
            at = _after(data, at, end, _COLON)
            if at < 0:
                break
            field = _field(data, name_from, name_to)
            if field < 0 or had >> field & 1:
                at = _NO
                break
            had |= 1 << field
            if field == 0:
                text_from = at + 1
                at = _text(data, at, end)
                kind = _kind(data, text_from, at - 1) if at >= 0 else -1
                if kind < 0:
                    at = _NO
            elif field <= 4:
                text_from = at + 1
                at = _text(data, at, end)
                if at >= 0:
                    texts[row, field - 1, 0], texts[row, field - 1, 1] = text_from, at - 1
                    # An action may be any text; the others are ids.
                    if field != 3 and not _is_id(data, text_from, at - 1):
                        at = _NO
            elif field == 5:
                at, mantissa, digits = _number(data, at, end)
                if at >= 0:
                    values[row] = np.int64(np.rint(mantissa / powers[digits] * 1000.0))
                    if not abs(mantissa / powers[digits]) < MAX_VALUE:
                        at = _NO
            elif field == 6:
                at, mantissa, digits = _number(data, at, end)
                if at >= 0:
                    times[row] = mantissa
                    if digits or mantissa <= 0:
                        at = _NO
            else:
                before = owned
                scope = _ITEM if field == 7 else _EVENT
                at, owned, listed = _attributes(
                    data, at, end, row, scope, owned, listed, rows, scopes, own_kinds, names, own_texts, numbers,
                    members, powers,
                )  # fmt: skip
                if field == 8:
                    plain_from, plain_to = before, owned
            if at < 0:
                break
            at = _space(data, at, end)
            if at < end and data[at] == _CLOSE:
                at += 1
                break
            at = at + 1 if at < end and data[at] == _COMMA else _NO
        if at >= 0 and _space(data, at, end) == end and _complete(kind, had):
            read[row], kinds[row] = True, kind
            if kind == 0:
                if own_from < owned and not _small(names, own_texts, own_kinds, members, plain_from, plain_to):
                    read[row] = False
            else:
                for place in range(plain_from, plain_to):
                    scopes[place] = _USER if kind == 1 else _ITEM
        if not read[row]:
            owned, listed = own_from, list_from
    return owned, listed


@njit(cache=True, nogil=True)
def _attributes(
    data: Any, at: int, end: int, row: int, scope: int, owned: int, listed: int, rows: Any, scopes: Any, kinds: Any,
    names: Any, texts: Any, numbers: Any, members: Any, powers: Any,
) -> Any:  # fmt: skip
    """Behind an object of attributes, which are put down from `owned` on, and their lists' members from `listed` on;
    and both counts after it."""
    if at >= end or data[at] != _OPEN:
        return _NO, owned, listed
    first = owned
    at = _space(data, at + 1, end)
    if at < end and data[at] == _CLOSE:
        return at + 1, owned, listed
    while True:
        name = at + 1
        at = _text(data, at, end)
        fits = owned - first < MAX_ATTRIBUTES and at - 1 - name <= MAX_ID_BYTES
        if at < 0 or not fits or not _is_new(data, name, at - 1, names, first, owned):
            return _NO, owned, listed
        names[owned, 0], names[owned, 1] = name, at - 1
        rows[owned], scopes[owned], numbers[owned] = row, scope, 0.0
        texts[owned, 0] = texts[owned, 1] = 0
        at = _after(data, at, end, _COLON)
        if at < 0 or at >= end:
            return _NO, owned, listed
        if data[at] == _QUOTE:
            kinds[owned], texts[owned, 0] = 0, at + 1
            at = _text(data, at, end)
            texts[owned, 1] = at - 1
        elif data[at] == _OPEN_LIST:
            kinds[owned], texts[owned, 0] = 2, listed
            at, listed = _list(data, at, end, members, listed)
            texts[owned, 1] = listed
        else:
            kinds[owned] = 1
            at, mantissa, digits = _number(data, at, end)
            numbers[owned] = mantissa / powers[digits]
        if at < 0:
            return _NO, owned, listed
        owned += 1
        at = _space(data, at, end)
        if at < end and data[at] == _CLOSE:
            return at + 1, owned, listed
        if at >= end or data[at] != _COMMA:
            return _NO, owned, listed
        at = _space(data, at + 1, end)


@njit(cache=True, nogil=True)
def _space(data: Any, at: int, end: int) -> int:
    """The next byte that is no white space."""
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _after(data: Any, at: int, end: int, sign: int) -> int:
    """Behind `sign` and the white space around it."""
    at = _space(data, at, end)
    if at >= end or data[at] != sign:
        return _NO
    return _space(data, at + 1, end)


@njit(cache=True, nogil=True)
def _text(data: Any, at: int, end: int) -> int:
    """Behind a text in quotes without an escape, in valid UTF-8."""
    if at >= end or data[at] != _QUOTE:
        return _NO
    at += 1
    while at < end:
        byte = data[at]
        if byte == _QUOTE:
            return at + 1
        if byte < 32 or byte == _BACKSLASH:
            return _NO
        if byte < 128:
            at += 1
            continue
        # The table of well-formed sequences: Unicode 15, table 3-7.
        low, high = 0x80, 0xBF
        if 0xC2 <= byte <= 0xDF:
            more = 1
        elif 0xE0 <= byte <= 0xEF:
            more = 2
            if byte == 0xE0:
                low = 0xA0
            elif byte == 0xED:
                high = 0x9F
        elif 0xF0 <= byte <= 0xF4:
            more = 3
            if byte == 0xF0:
                low = 0x90
            elif byte == 0xF4:
                high = 0x8F
        else:
            return _NO
        if at + more >= end:
            return _NO
        for step in range(1, more + 1):
            if data[at + step] < low or data[at + step] > high:
                return _NO
            low, high = 0x80, 0xBF
        at += more + 1
    return _NO


@njit(cache=True, nogil=True)
def _number(data: Any, at: int, end: int) -> Any:
    """Behind a JSON number; its digits as a whole number with its sign, and how many of them stand behind the point."""
    negative = at < end and data[at] == _MINUS
    if negative:
        at += 1
    start, mantissa, digits, point = at, np.int64(0), 0, False
    while at < end:
        byte = data[at]
        if 48 <= byte <= 57:
            mantissa = mantissa * 10 + np.int64(byte - 48)
            digits += point
        elif byte == _DOT and not point and at > start:
            point = True
        else:
            break
        at += 1
        if at - start > _MOST_DIGITS:
            return _NO, np.int64(0), 0
    whole = at - start - digits - point
    # Minus zero is a float of its own; a zero in front is no JSON.
    bad = whole < 1 or (point and digits < 1) or (negative and mantissa == 0) or (data[start] == 48 and whole > 1)
    if bad:  # an exponent is none of the signs that may follow
        return _NO, np.int64(0), 0
    return at, -mantissa if negative else mantissa, digits


@njit(cache=True, nogil=True)
def _list(data: Any, at: int, end: int, members: Any, listed: int) -> Any:
    """Behind a list of texts, which are put down."""
    at = _space(data, at + 1, end)
    if at < end and data[at] == _CLOSE_LIST:
        return at + 1, listed
    while True:
        start = at + 1
        at = _text(data, at, end)
        if at < 0:
            return _NO, listed
        members[listed, 0], members[listed, 1] = start, at - 1
        listed += 1
        at = _space(data, at, end)
        if at < end and data[at] == _CLOSE_LIST:
            return at + 1, listed
        if at >= end or data[at] != _COMMA:
            return _NO, listed
        at = _space(data, at + 1, end)


@njit(cache=True, nogil=True)
def _is(data: Any, start: int, end: int, word: Any) -> bool:
    if end - start != len(word):
        return False
    for place in range(len(word)):  # noqa: SIM110 - compiled
        if data[start + place] != word[place]:
            return False
    return True


@njit(cache=True, nogil=True)
def _field(data: Any, start: int, end: int) -> int:
    """The number of a key: 0 type · 1 user · 2 item · 3 action · 4 id · 5 value · 6 time · 7 item_attributes ·
    8 attributes."""
    size = end - start
    if size == 4:
        if _is(data, start, end, b"type"):
            return 0
        if _is(data, start, end, b"user"):
            return 1
        if _is(data, start, end, b"item"):
            return 2
        if _is(data, start, end, b"time"):
            return 6
    elif size == 2 and _is(data, start, end, b"id"):
        return 4
    elif size == 5 and _is(data, start, end, b"value"):
        return 5
    elif size == 6 and _is(data, start, end, b"action"):
        return 3
    elif size == 10 and _is(data, start, end, b"attributes"):
        return 8
    elif size == 15 and _is(data, start, end, b"item_attributes"):
        return 7
    return _NO


@njit(cache=True, nogil=True)
def _kind(data: Any, start: int, end: int) -> int:
    if _is(data, start, end, b"behaviour"):
        return 0
    if _is(data, start, end, b"user_profile"):
        return 1
    if _is(data, start, end, b"item_update"):
        return 2
    return _NO


@njit(cache=True, nogil=True)
def _complete(kind: int, had: int) -> bool:
    """Whether an event has what it must have, and nothing that is another kind's (msgspec would pass over it)."""
    must, may = 0, 0
    if kind == 0:
        must, may = 0b000001111, 0b111111111
    elif kind == 1:
        must, may = 0b100000011, 0b101010011
    elif kind == 2:
        must, may = 0b100000101, 0b101010101
    return kind >= 0 and had & must == must and had & ~may == 0


@njit(cache=True, nogil=True)
def _is_id(data: Any, start: int, end: int) -> bool:
    """Whether it is one for certain: printable ASCII of 1 to 256 bytes."""
    if not 0 < end - start <= MAX_ID_BYTES:
        return False
    for place in range(start, end):  # noqa: SIM110 - compiled
        if data[place] > 126:
            return False
    return True


@njit(cache=True, nogil=True)
def _is_new(data: Any, start: int, end: int, names: Any, first: int, last: int) -> bool:
    """Whether no attribute from `first` to before `last` has this name."""
    for other in range(first, last):
        size = names[other, 1] - names[other, 0]
        if size != end - start:
            continue
        same = True
        for place in range(size):
            if data[start + place] != data[names[other, 0] + place]:
                same = False
                break
        if same:
            return False
    return True


@njit(cache=True, nogil=True)
def _small(names: Any, texts: Any, kinds: Any, members: Any, first: int, last: int) -> bool:
    """Whether the event's own attributes are within what `check` takes."""
    total = 0
    for place in range(first, last):
        total += names[place, 1] - names[place, 0]
        size = texts[place, 1] - texts[place, 0]
        if kinds[place] == 0:
            total += size
            if size > MAX_ID_BYTES:
                return False
        elif kinds[place] == 2:
            if size > MAX_ATTRIBUTES:
                return False
            for member in range(texts[place, 0], texts[place, 1]):
                length = members[member, 1] - members[member, 0]
                total += length
                if length > MAX_ID_BYTES:
                    return False
    return total <= MAX_ATTRIBUTE_BYTES
