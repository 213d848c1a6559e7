"""The compiled reader and msgspec give the same event for each record that the first one reads; what it declines is the
other's."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from forebay.errors import EventError
from forebay.events import Behaviour, ItemUpdate, UserProfile, encode
from forebay.segments.blocks.build import block_of, events_of
from forebay.streams.intake.assemble import assemble
from forebay.streams.intake.fields import ABSENT, Fields, fields_of, with_rows
from forebay.streams.intake.plain import read_one
from forebay.streams.intake.reader import read

from .records import canonical, event, mutated

SEED = 20


def _events(fields: Fields, rows: Any) -> list[Any]:
    """The events at rows."""
    zeros = np.zeros(len(fields), np.int64)
    return events_of(assemble(fields, rows, zeros, zeros, zeros, ("s/0",)))


def _plain(value: bytes) -> Any:
    """As a block has it: a value in thousandths, attributes by name, and what is absent in its own way."""
    found: Any = read_one(value)
    changes: dict[str, Any] = {
        "time": ABSENT if found.time is None else found.time, "id": "" if found.id is None else found.id
    }  # fmt: skip
    changes["attributes"] = dict(sorted(found.attributes.items()))
    if isinstance(found, Behaviour):
        changes["value"] = round(found.value * 1000) / 1000
        changes["item_attributes"] = dict(sorted(found.item_attributes.items()))
    return msgspec.structs.replace(found, **changes)


def _same(values: list[bytes]) -> int:
    """Hold both readers against each other; returns how many records the compiled one has read."""
    fields = read(values)
    rows = np.flatnonzero(fields.read)
    for row, found in zip(rows.tolist(), _events(fields, rows), strict=True):
        try:
            expected = _plain(values[row])
        except EventError as error:
            raise AssertionError(f"{values[row]!r} is read, and is refused: {error}") from None
        # By their text as well: 0.0 is -0.0, and an int may stand for a float.
        assert found == expected and encode(found) == encode(expected), values[row]
    # And what an event of its kind has not: a text that is passed over is nowhere.
    plain, zeros = fields_of([read_one(values[row]) for row in rows]), np.zeros(len(values), np.int64)
    mine = assemble(fields, rows, zeros, zeros, zeros, ("s/0",))
    assert mine.batch.equals(assemble(plain, np.arange(len(rows)), zeros, zeros, zeros, ("s/0",)).batch)
    return len(rows)


def _fuzzed(count: int, seed: int) -> None:
    pick = random.Random(seed)
    for _ in range(0, count, 2000):
        values = [canonical(pick) for _ in range(2000)]
        assert _same([mutated(value, pick) if n % 4 else value for n, value in enumerate(values)]) > 400


def test_both_readers_agree_on_forty_thousand_odd_records() -> None:
    """A quarter of them is as producers write them."""
    _fuzzed(40_000, SEED)


@pytest.mark.full
def test_both_readers_agree_on_a_million_odd_records() -> None:
    """The same with more patience."""
    _fuzzed(1_000_000, SEED + 1)


def test_what_a_publisher_writes_is_read() -> None:
    """Nothing of it is declined but escapes, ids outside of ASCII, and numbers that are no short decimals."""
    pick = random.Random(SEED)
    events = [
        Behaviour(f"u{n}", f"i{n}", "rate", round(pick.uniform(-9, 9), 2), 1_790_000_000_000 + n, f"{n:032x}",
                  {"genres": ["Film-Noir", "日本"], "year": 1995.0, "kind": "film"}, {"page": "home", "place": 3.0})
        for n in range(500)
    ]  # fmt: skip
    others = [UserProfile("u1", {"age": 33.0}, 5, "p"), ItemUpdate("i1", {}, None, None), Behaviour("u", "i", "view")]
    values = [encode(e) for e in [*events, *others]]
    assert read(values).read.all() and _same(values) == len(values)


def test_nothing_is_nothing() -> None:
    """No record, and records of no bytes."""
    assert len(read([])) == 0
    assert read([b"", b" ", b"{}", b"["]).read.tolist() == [False] * 4


def test_declined_records_take_their_places_among_the_others() -> None:
    """Their texts lie behind those of the rest, and so do the members of their lists."""
    pick = random.Random(SEED)
    values = [encode(event(pick)) for _ in range(300)]
    fields = read(values)
    declined = np.flatnonzero(~fields.read)
    assert 20 < len(declined) < 280
    whole = with_rows(fields, declined, fields_of([read_one(values[row]) for row in declined]))
    assert whole.read.all()
    assert _events(whole, np.arange(300)) == [_plain(value) for value in values]
    assert _events(with_rows(fields, declined[:0], whole), np.flatnonzero(fields.read)) == [
        _plain(value) for value, was in zip(values, fields.read, strict=True) if was
    ]


def test_a_block_is_the_same_from_either_side() -> None:
    """Of fields, and of events one by one: the same columns, in the same order, to the byte."""
    pick = random.Random(SEED)
    events = [msgspec.structs.replace(event(pick), time=n + 1, id=f"e{n}") for n in range(200)]
    numbers = np.arange(200)
    chosen = np.sort(np.array(pick.sample(range(200), 120)))
    one = assemble(fields_of(events), chosen, numbers + 5, numbers, numbers % 3, ("a/0", "a/1", "b/0"))
    other = block_of([events[n] for n in chosen], chosen + 5, chosen, chosen % 3, ("a/0", "a/1", "b/0"))
    assert one.attributes == other.attributes
    assert one.batch.equals(other.batch) and next(one.encode())[0] == next(other.encode())[0]
