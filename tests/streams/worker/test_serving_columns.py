"""What requests may ask of rows travels with the vectors: each record has it as the state does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.events import Behaviour, Event, ItemUpdate
from forebay.segments.bundle import Bundle
from forebay.segments.spec import Side, parse_spec
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.layout import Layout
from forebay.segments.training import untrained
from forebay.store.codec import codec_of
from forebay.streams.topics import Topics
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source

from .cleanlog import NOW, Rec, batches_of, log_of


@pytest.fixture(scope="module")
def serving(spec_tables: dict[str, Any]) -> Bundle:
    """The small model, with one item attribute more that no feature reads."""
    items = {**spec_tables["attributes"]["item"], "in_stock": {"number": True}}
    tables = {
        **spec_tables,
        "attributes": {**spec_tables["attributes"], "item": items},
        "serving": {"filter": ["in_stock", *spec_tables["attributes"]["item"]], "remember": 3},
    }
    return untrained(parse_spec(tables), hash_ids(["i1", "i2"]))


def _columns(bundle: Bundle, side: Side, folder: Path, batches: list[list[Rec]]) -> list[dict[str, list[int]]]:
    """What the records of each batch say, by entity; the processor is closed and opened between two."""
    said = []
    for records in batches:
        processor = Processor(bundle, side, Topics(), "g1", 1, folder)
        processor.open(0, Source(processor.topic, 0, "topic-1"), 0)
        outcome = processor.apply(batches_of(records))
        codec, values = codec_of(bundle, side), [r.value for r in outcome.records if r.value is not None]
        rows, names = codec.unpack(values)
        said.append(dict(zip(names, codec.columns(rows).tolist(), strict=True)))
        processor.flush()
        processor.close(0)
    return said


def _cut(events: list[Event], side: Side, size: int) -> list[list[Rec]]:
    records = log_of(events, side, count=1)
    return [records[at : at + size] for at in range(0, len(records), size)]


def test_an_items_row_has_the_attributes_of_its_newest_update(serving: Bundle, tmp_path: Path) -> None:
    """Whatever order they come in; an attribute that the newest one lacks is not known."""
    genre = serving.spec.attribute("item", "genres").values[0]
    events: list[Event] = [
        ItemUpdate("i1", {"in_stock": 1.0, "year": 1990.0}, NOW - 50, "a"),
        Behaviour("u1", "i1", "rate", 4.0, NOW - 45, "b"),
        ItemUpdate("i1", {"in_stock": 0.0, "genres": [genre, "no such"]}, NOW - 40, "c"),
        ItemUpdate("i1", {"in_stock": 1.0}, NOW - 60, "d"),
    ]
    place = {a.name: n for n, a in enumerate(codec_of(serving, "item").served.attributes)}
    said = [rows["i1"] for rows in _columns(serving, "item", tmp_path, _cut(events, "item", 1)) if rows]
    assert [row[place["in_stock"]] for row in said[:3]] == [2001, 2001, 1]
    assert [row[place["year"]] for row in said[:3]] == [1990 * 2000 + 1, 1990 * 2000 + 1, 0]
    assert said[2][place["genres"]] == 0b11 and said[-1] == said[2]


def test_a_users_row_has_the_newest_items_first(serving: Bundle, tmp_path: Path) -> None:
    """As many as the spec says, by the time of the events; zeros where there are none yet."""
    events: list[Event] = [Behaviour("u1", f"i{n}", "rate", 4.0, NOW - 50 + n, f"e{n}") for n in (2, 0, 4, 1, 3)]
    said = [rows["u1"] for rows in _columns(serving, "user", tmp_path, _cut(events, "user", 1))]
    orders = (["i2"], ["i2", "i0"], ["i4", "i2", "i0"], ["i4", "i2", "i1"], ["i4", "i3", "i2"])
    assert said == [[*hash_ids(order).tolist(), *[0] * (3 - len(order))] for order in orders]


def test_serving_moves_no_column_and_changes_no_vector_of_a_segment(
    serving: Bundle, spec_tables: dict[str, Any]
) -> None:
    """What is kept for requests lies behind what segments read; and a spec without it has the rows that it had."""
    plain = untrained(parse_spec(spec_tables), hash_ids(["i1", "i2"]))
    for side in ("user", "item"):
        with_, without = serving.layouts[side], Layout.of(serving.spec, side)
        assert [(b.feature, b.offset) for b in with_.blocks[: len(without.blocks)]] == [
            (b.feature, b.offset) for b in without.blocks
        ]
        assert len(with_.blocks) == len(without.blocks) + 1 and with_.digest != without.digest
        assert plain.layouts[side] == Layout.of(plain.spec, side)
        codec = codec_of(plain, side)
        assert codec.version == 1 and codec.empty(1)["version"] == 1 and "served" not in (codec.dtype.names or ())
        assert np.array_equal(codec_of(serving, side).bounds, codec.bounds)
