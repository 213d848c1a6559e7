"""A block keeps its events, travels as records of the clean log, and is not taken for what it is not."""

from __future__ import annotations

import random

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64

from forebay.errors import BlockError, UsageError
from forebay.events import Attributes, Behaviour, Event, ItemUpdate, Tick, UserProfile
from forebay.segments.blocks.block import MAX_BYTES, Block
from forebay.segments.blocks.build import block_of, events_of
from forebay.segments.blocks.schema import Attribute, Header, pack_header, schema_of

NAMES = ("behaviour/0", "behaviour/3")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
VALUES = st.one_of(TEXTS, st.floats(allow_nan=False, allow_infinity=False), st.lists(TEXTS, max_size=3))
OWN = st.dictionaries(st.sampled_from(["a", "b", "a:text", "genres"]), VALUES, max_size=3)
TIMES = st.integers(1, 1 << 52)
THOUSANDTHS = st.integers(-999_999_999, 999_999_999).map(lambda n: n / 1000)
EVENTS = st.one_of(
    st.builds(Behaviour, IDS, IDS, TEXTS, THOUSANDTHS, TIMES, IDS, OWN, OWN),
    st.builds(UserProfile, IDS, OWN, TIMES, IDS),
    st.builds(ItemUpdate, IDS, OWN, TIMES, IDS),
    st.builds(Tick, TIMES),
)


def _block(events: list[Event]) -> Block:
    count = len(events)
    return block_of(events, [7] * count, list(range(count)), [n % 2 for n in range(count)], NAMES)


@given(st.lists(EVENTS, max_size=12))
def test_events_come_out_as_they_went_in(events: list[Event]) -> None:
    """Through a record, attributes of every kind included, one name with several kinds too."""
    decoded = [Block.decode(header, value) for header, value in _block(events).encode()]
    assert [event for block in decoded for event in events_of(block)] == events
    for block in decoded:
        assert block.sources == NAMES and block.numbers("append").tolist() == [7] * len(block)
    assert [o for b in decoded for o in b.numbers("offset").tolist()] == list(range(len(events)))
    assert [s for b in decoded for s in b.numbers("source").tolist()] == [n % 2 for n in range(len(events))]


def test_a_large_block_travels_in_parts() -> None:
    """None of them larger than a broker takes, in order, and nothing is lost at a cut."""
    pick = random.Random(1)
    events: list[Event] = [
        Behaviour("u", pick.randbytes(60).hex(), "rate", 1.0, n + 1, f"e{n}", {"genres": [pick.randbytes(20).hex()]})
        for n in range(9000)
    ]
    records = list(_block(events).encode())
    assert len(records) > 1 and all(len(value) <= MAX_BYTES for _, value in records)
    assert [e for header, value in records for e in events_of(Block.decode(header, value))] == events


def test_an_event_larger_than_a_record_travels_alone() -> None:
    """It is the broker's to refuse, and the worker's to find out which it was."""
    attributes: Attributes = {"a": "x" * 800_000}
    assert len(list(_block([UserProfile("u", attributes, 1, "p"), Tick(2)]).encode())) == 2


@settings(max_examples=300)
@given(st.data())
def test_damaged_records_are_refused_by_name(data: st.DataObject) -> None:
    """A byte changed, bytes lost or added, under a digest that says so or one that was made for them: a block, or
    BlockError; nothing else, and no crash."""
    events: list[Event] = [Behaviour("u", "i", "rate", 1.0, n + 1, f"e{n}", {"genres": ["a", "b"]}) for n in range(3)]
    ((header, value),) = _block(events).encode()
    kind = data.draw(st.sampled_from(["value", "header", "short", "long", "forged"]))
    broken = bytearray(header if kind == "header" else value)
    place = data.draw(st.integers(0, len(broken) - 1))
    if kind in ("value", "header", "forged"):
        broken[place] ^= data.draw(st.integers(1, 255))
    else:
        broken = broken[:place] if kind == "short" else broken + bytes(place % 50)
    if kind == "forged":
        broken[-8:] = xxh3_64(header + bytes(broken[:-8])).digest()
    try:
        block = Block.decode(bytes(broken), value) if kind == "header" else Block.decode(header, bytes(broken))
        events_of(block)
    except BlockError:
        pass


def test_a_block_with_other_columns_is_refused() -> None:
    """Arrow itself takes a batch for any schema that has as many buffers."""
    ((header, value),) = _block([Behaviour("u", "i", "rate", 1.0, 1, "e", {"a": "text"})]).encode()
    numbers = pack_header(NAMES, (Attribute("item", "a", "number"),))
    with pytest.raises(BlockError):
        Block.decode(numbers, value)
    with pytest.raises(BlockError):
        Block.decode(header, b"")
    stray = Block(_block([Tick(1)]).batch, (), ())
    with pytest.raises(BlockError, match="does not have"):
        Block.decode(*next(stray.encode()))


def test_a_newer_version_is_named() -> None:
    """A worker of before does not guess what has been appended."""
    newer = msgspec.json.encode(Header(2, NAMES, ()))
    with pytest.raises(BlockError, match="version 2"):
        Block.decode(newer, b"")


def test_more_names_than_a_block_may_have_are_refused() -> None:
    """The Intake cuts before it comes to that."""
    events: list[Event] = [UserProfile("u", {f"a{n}": 1.0 for n in range(300)}, 1, "p")]
    with pytest.raises(UsageError, match="300 attributes"):
        _block(events)


def test_the_fixed_columns_are_those_of_version_1() -> None:
    """A reader of version 1 knows these, in this order: a column more goes behind them, under another version."""
    assert [(f.name, str(f.type)) for f in schema_of(())] == [
        ("kind", "uint8"), ("time", "int64"), ("append", "int64"), ("offset", "int64"), ("source", "uint16"),
        ("value", "int64"), ("user", "string"), ("item", "string"), ("action", "string"), ("id", "string"),
    ]  # fmt: skip
    assert pa.types.is_list(schema_of((Attribute("item", "genres", "texts"),)).field("item.genres:texts").type)
