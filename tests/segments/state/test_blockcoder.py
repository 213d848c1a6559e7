"""A block's columns are what ColumnCoder makes of its events one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.events import Behaviour, ItemUpdate, Tick, UserProfile
from forebay.segments.blocks.build import block_of
from forebay.segments.spec import SIDES, parse_spec
from forebay.segments.state.blockcoder import BlockCoder
from forebay.segments.state.columns import ColumnCoder

from ..played import stretches

SPEC = parse_spec(
    {
        "events": {"actions": ["rate", "view"]},
        "label": {"positive": "value >= 4"},
        "attributes": {
            "item": {"genres": {"set": ["a", "b", "c"]}, "year": {"number": True}, "kind": {"category": ["x", "y"]}},
            "user": {"age": {"number": True}, "plan": {"category": ["free", "paid"]}, "tags": {"set": ["a"]}},
            "event": {"page": {"category": {"buckets": 5}}, "place": {"number": True}, "on": {"category": ["x"]}},
        },
        "user": {"one": {"features": [{"count": "events"}], "encoder": {"kind": "mlp"}, "dim": 8}},
        "item": {"one": {"features": [{"count": "events"}], "encoder": {"kind": "mlp"}, "dim": 8}},
    }
)
TEXTS = st.one_of(st.sampled_from(["a", "b", "c", "x", "y", "free", "paid", "rate", "view", ""]), st.text(max_size=300))
CLEAN = TEXTS.filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text))
NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-4000, 4000).map(lambda n: n / 2000))
VALUES = st.one_of(CLEAN, NUMBERS, st.lists(CLEAN, max_size=4))
NAMES = ["genres", "year", "kind", "age", "plan", "tags", "page", "place", "on", "unknown"]
OWN = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
IDS = st.sampled_from([*"uvw", "é" * 100])
TIMES = st.integers(1, 1 << 52)
VALUE = st.floats(-1e6, 1e6, exclude_min=True, exclude_max=True)
BEHAVIOURS = st.builds(Behaviour, IDS, IDS, CLEAN, VALUE, TIMES, IDS, OWN, OWN)
EVENTS = {
    "user": st.one_of(BEHAVIOURS, st.builds(UserProfile, IDS, OWN, TIMES, IDS), st.builds(Tick, TIMES)),
    "item": st.one_of(BEHAVIOURS, st.builds(ItemUpdate, IDS, OWN, TIMES, IDS), st.builds(Tick, TIMES)),
}


@settings(deadline=None)  # the first one compiles
@given(st.sampled_from(SIDES), st.data())
def test_the_same_columns_as_one_by_one(side: Any, data: st.DataObject) -> None:
    """Of behaviours and updates, in the same stretches: values of every kind under every name, and long texts."""
    events = data.draw(st.lists(EVENTS[side], max_size=10))
    count = len(events)
    block = block_of(events, [1] * count, list(range(count)), [0] * count, ("s/0",))
    start = data.draw(st.integers(0, count))
    expected = stretches(ColumnCoder(SPEC, side), events[start:])
    found = BlockCoder(SPEC, side).stretches(block.slice(start, count))
    assert [s.tick for s in found] == [s.tick for s in expected]
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in ((one.behaviours, other.behaviours), (one.updates, other.updates)):
            assert mine.entities.to_strings() == theirs.entities.to_strings()
            assert (mine.times == theirs.times).all() and (mine.ids == theirs.ids).all()
            assert (mine.entities.hashes == theirs.entities.hashes).all()
            assert np.array_equal(mine.matrix, theirs.matrix)
