"""The catalogue is a dictionary of the newest update of each item, held against one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.events import Attributes, Behaviour, Event, ItemUpdate, UserProfile, encode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import events_of
from forebay.segments.state.ids import hash_id
from forebay.streams.intake.accept import read_all
from forebay.streams.intake.assemble import assemble
from forebay.streams.intake.catalogue import Catalogue
from forebay.streams.intake.fields import Fields, fields_of, updates_of
from forebay.streams.intake.items import Items

NAMES = ("items/0",)
ITEMS = st.sampled_from(["i1", "i2", "i3", "é", "i" * 250])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=4)
VALUES = st.one_of(TEXTS, st.floats(allow_nan=False, allow_infinity=False), st.lists(TEXTS, max_size=3))
OWN = st.dictionaries(st.sampled_from(["genres", "year", "é", ""]), VALUES, max_size=3)
UPDATES = st.builds(ItemUpdate, ITEMS, OWN, st.integers(1, 4), st.sampled_from(["e1", "e2", "e3"]))
BEHAVIOURS = st.builds(
    Behaviour, st.just("u"), ITEMS, st.just("rate"), st.just(1.0), st.just(5), st.just("e"),
    st.one_of(st.just({}), OWN), OWN,
)  # fmt: skip
PROFILES = st.builds(UserProfile, st.just("i1"), OWN, st.just(5), st.just("p"))
STEPS = st.one_of(
    st.tuples(st.just("learn"), st.lists(UPDATES, max_size=6)),
    st.tuples(st.just("accept"), st.lists(st.one_of(UPDATES, BEHAVIOURS, PROFILES), max_size=9)),
    st.tuples(st.just("drop"), st.just([])),
    st.tuples(st.just("forget"), st.lists(UPDATES, min_size=1, max_size=2)),
)


class Twin:
    """What a Catalogue is, with a dictionary for what is read and one for what is ahead."""

    def __init__(self) -> None:
        self.known, self.ahead = dict[str, ItemUpdate](), dict[str, ItemUpdate]()

    def learn(self, events: Sequence[Event]) -> None:
        for event in events:
            assert isinstance(event, ItemUpdate)
            if _is_newer(event, self.known.get(event.item)):
                self.known[event.item] = event
        self.ahead = {i: e for i, e in self.ahead.items() if _is_newer(e, self.known.get(i))}

    def take(self, events: Sequence[Event]) -> list[int]:
        """The places of the events that are written to the topic."""
        before, place_of = {**self.known, **self.ahead}, dict[str, int]()
        for place, event in enumerate(events):
            if isinstance(event, ItemUpdate) and _is_newer(event, before.get(event.item)):
                before[event.item] = self.ahead[event.item] = event
                place_of[event.item] = place
        return sorted(place_of.values())

    def fill(self, events: Sequence[Event]) -> list[Attributes]:
        """The item attributes of each behaviour."""
        both = {**self.known, **self.ahead}
        return [
            e.item_attributes or (both[e.item].attributes if e.item in both else {})
            for e in events
            if isinstance(e, Behaviour)
        ]


def _is_newer(event: ItemUpdate, than: ItemUpdate | None) -> bool:
    return than is None or (event.time, hash_id(event.id or "")) > (than.time, hash_id(than.id or ""))


def _block(fields: Fields) -> Block:
    zeros = np.zeros(len(fields), np.int64)
    return assemble(fields, np.arange(len(fields)), zeros, zeros, zeros, NAMES)


def _learn(catalogue: Catalogue, updates: Sequence[Event]) -> None:
    """As they come from the topic."""
    fields, refused = read_all([encode(update) for update in updates])
    assert not refused
    catalogue.learn(fields, np.arange(len(updates)))


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, max_size=14))
def test_it_is_a_dictionary_of_the_newest_updates(steps: list[tuple[str, list[Event]]]) -> None:
    """Whatever is learnt, accepted, dropped and forgotten, in any order: the same updates go to the topic, and the same
    attributes into behaviours. Events that had some of their own keep them."""
    catalogue, twin = Catalogue(), Twin()
    for step, events in steps:
        match step:
            case "learn":
                _learn(catalogue, events)
                twin.learn(events)
            case "drop":
                catalogue.drop()
                twin.ahead.clear()
            case "forget":
                items = [event.item for event in events if isinstance(event, ItemUpdate)]
                catalogue.forget([item.encode() for item in items])
                twin.known = {item: e for item, e in twin.known.items() if item not in items}
            case _:
                fields, every = fields_of(events), np.arange(len(events))
                assert catalogue.take(fields, every).tolist() == twin.take(events)
                filled = events_of(_block(catalogue.fill(fields, every))) if events else []
                assert [e.item_attributes for e in filled if isinstance(e, Behaviour)] == twin.fill(events)
                others = [e for e in filled if not isinstance(e, Behaviour)]
                assert others == [e for e in events if not isinstance(e, Behaviour)]
                assert [e.attributes for e in filled] == [e.attributes for e in events]  # type: ignore[union-attr]


@settings(deadline=None)
@given(st.lists(st.one_of(UPDATES, BEHAVIOURS, PROFILES), max_size=9))
def test_updates_are_what_a_reader_found(events: list[Event]) -> None:
    """One by one and in order, whatever stands between them."""
    rows = np.array([n for n, event in enumerate(events) if isinstance(event, ItemUpdate)], np.int64)
    for fields in (fields_of(events), read_all([encode(event) for event in events])[0]):  # type: ignore[arg-type]
        assert updates_of(fields, rows) == [events[row] for row in rows]


def test_only_those_that_are_asked_for_are_filled() -> None:
    """A record that was refused is nobody's event."""
    catalogue = Catalogue()
    _learn(catalogue, [ItemUpdate("i", {"year": 1.0}, 1, "e")])
    fields = fields_of([Behaviour("u", "i", "rate", 1.0, 2, f"e{n}") for n in range(3)])
    filled = events_of(_block(catalogue.fill(fields, np.array([0, 2]))))
    assert [e.item_attributes for e in filled if isinstance(e, Behaviour)] == [{"year": 1.0}, {}, {"year": 1.0}]


def test_memory_does_not_grow_with_updates_of_the_same_items() -> None:
    """What was replaced is given back."""
    catalogue, sizes = Catalogue(), list[int]()
    for turn in range(60):
        updates = [ItemUpdate(f"i{n}", {"t": f"{turn}-{n}", "l": ["a"] * 3}, turn + 1, "e") for n in range(200)]
        _learn(catalogue, updates)
        sizes.append(catalogue.nbytes)
    assert len(catalogue) == 200 and max(sizes[20:]) <= max(sizes[:20])
    fields = fields_of([Behaviour("u", f"i{n}", "rate", 1.0, 2, f"e{n}") for n in range(200)])
    filled = events_of(_block(catalogue.fill(fields, np.arange(200))))
    wanted = [{"t": f"59-{n}", "l": ["a"] * 3} for n in range(200)]
    assert [e.item_attributes for e in filled if isinstance(e, Behaviour)] == wanted


def test_many_items_are_found_among_those_that_are_not_there() -> None:
    """The index grows with them."""
    items, random = Items(), np.random.default_rng(1)
    hashes = np.unique(random.integers(-(2**63), 2**63 - 1, 5000))
    random.shuffle(hashes)
    none = fields_of([])
    for start in range(0, 4000, 321):
        some = hashes[start : min(start + 321, 4000)]
        items.put(some, some, some, none.data, none.owned)
    assert len(items) == 4000
    assert (items.find(hashes[:4000]) == np.arange(4000)).all() and (items.find(hashes[4000:]) == -1).all()
