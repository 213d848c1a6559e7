"""Events into integers: where words, floats and attributes lose what state does not keep, and nothing else."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from forebay.events import Attribute, Behaviour, ItemUpdate, UserProfile
from forebay.segments.spec.attribute import bucket_of
from forebay.segments.state.columns import ColumnCoder, Columns
from forebay.segments.state.ids import hash_id, hash_ids

from ..models import spec


def _attributes(**attributes: Attribute) -> Columns:
    """Columns of one update of an item of the nasty spec: genres, colour, price."""
    return ColumnCoder(spec("nasty"), "item").updates([ItemUpdate("i", attributes, 1, "e")])


def test_the_columns_of_a_behaviour_are_as_documented() -> None:
    """Item hash, action code, thousandths, then the item's attributes in the order of the spec."""
    event = Behaviour("u", "i", "like", 2.5, 7, "e", {"genres": ["love"], "colour": "blue", "price": 1.5})
    columns = ColumnCoder(spec("nasty"), "user").behaviours([event])
    assert columns.entities.to_strings() == ["u"]
    assert (columns.times[0], columns.ids[0]) == (7, hash_id("e"))
    assert columns.matrix.tolist() == [[hash_id("i"), 2, 2500, 0b100, 2, 3001]]


def test_the_columns_of_a_behaviour_on_side_item_are_as_documented() -> None:
    """The user's hash, action and value, keyed by the item: what the event says of its item is no column here."""
    event = Behaviour("u", "i", "buy", -1.0, 7, "e", {"genres": ["love"], "colour": "blue", "price": 1.5})
    columns = ColumnCoder(spec("nasty"), "item").behaviours([event])
    assert columns.entities.to_strings() == ["i"]
    assert (columns.times[0], columns.ids[0]) == (7, hash_id("e"))
    assert columns.matrix.tolist() == [[hash_id("u"), 3, -1000]]


def test_the_columns_of_event_attributes_are_the_last_ones() -> None:
    """Position, device, page and tags of the own spec: after the item's attributes on side user, after the value on
    side item."""
    own: dict[str, Attribute] = {
        "position": 1.5,
        "device": "desk",
        "page": "/cart",
        "tags": ["sale"],
        "request_id": "r",
    }
    page = hash_id("/cart") % 2**64 % 4 + 1
    acted = ColumnCoder(spec("own"), "user").behaviours([Behaviour("u", "i", "click", 1.0, 7, "e", {}, own)])
    assert acted.matrix.tolist() == [[hash_id("i"), 2, 1000, 1, 0, 3001, 2, page, 0b100]]
    of_item: dict[str, Attribute] = {"genres": ["war"], "shop": "s"}
    seen = ColumnCoder(spec("own"), "item").behaviours([Behaviour("u", "i", "click", 1.0, 7, "e", of_item, own)])
    assert seen.matrix.tolist() == [[hash_id("u"), 2, 1000, 3001, 2, page, 0b100]]
    without = ColumnCoder(spec("own"), "item").behaviours([Behaviour("u", "i", "click", 1.0, 7, "e", of_item)])
    assert without.matrix.tolist() == [[hash_id("u"), 2, 1000, 0, 0, 0, 1]]


def test_a_bucket_is_the_same_on_every_machine() -> None:
    """xxh3 modulo the buckets, spelled out; 0 is an absent value or one that is no text, and any text that JSON can
    write has one."""
    assert [bucket_of(text, 64) for text in ("", "a", "/cart", "é")] == [3, 32, 4, 52]
    assert {bucket_of(str(n), 5) for n in range(99)} == {1, 2, 3, 4, 5}
    values: list[Attribute] = ["a", "\ud800", 3.0, ["a"]]
    updates = [UserProfile("u", {"town": v}, 1, "e") for v in values] + [UserProfile("u", {}, 1, "e")]
    codes = ColumnCoder(spec("own"), "user").updates(updates).matrix[:, 0].tolist()
    assert codes[0] == bucket_of("a", 16) and codes[1] > 0 and codes[2:] == [0, 0, 0]


def test_an_unlisted_action_has_the_code_zero() -> None:
    """The unknown bucket; capitals make another word."""
    events = [Behaviour("u", "i", action, 1.0, 1, "e") for action in ("view", "View", "share")]
    assert ColumnCoder(spec("nasty"), "user").behaviours(events).matrix[:, 1].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("value", "thousandths"),
    [
        (0.0004, 0),
        (0.0005, 0),
        (0.0015, 2),
        (-0.0005, 0),
        (-0.0015, -2),
        (0.1 + 0.2, 300),
        (999_999.9996, 1_000_000_000),
    ],
)
def test_a_value_is_rounded_to_thousandths(value: float, thousandths: int) -> None:
    """Half to even, once, before anything is summed."""
    events = [Behaviour("u", "i", "view", value, 1, "e")]
    assert ColumnCoder(spec("nasty"), "user").behaviours(events).matrix[0, 2] == thousandths


@pytest.mark.parametrize(
    ("genres", "mask"),
    [
        (["war"], 0b0010),
        (["war", "crime"], 0b1010),
        (["crime", "war", "war"], 0b1010),
        (["war", "jazz"], 0b0011),
        (["jazz"], 0b0001),
        ([], 0b0001),
        ("war", 0b0001),
        (3.0, 0b0001),
    ],
)
def test_a_set_is_a_mask_with_an_unknown_bucket(genres: Attribute, mask: int) -> None:
    """Bit 0 is what is not known: another value, none at all, or something that is no list."""
    assert _attributes(genres=genres).matrix[0, 0] == mask


def test_lists_of_attributes_that_never_come_again_leave_nothing_behind() -> None:
    """Each event is as large as one may be and names other genres: 3,000 such ones would have kept 3 GB."""
    coder, pick = ColumnCoder(spec("nasty"), "user"), random.Random(1)

    def events(count: int) -> list[Behaviour]:
        genres = [[f"{pick.getrandbits(32):08x}" for _ in range(5900)] for _ in range(count)]  # 64 KiB of JSON each
        return [Behaviour("u", "i", "view", 1.0, 1, "e", {"genres": found}) for found in genres]

    coder.behaviours(events(10))
    tracemalloc.start()
    try:
        for _ in range(10):
            assert coder.behaviours(events(20)).matrix[:, 3].tolist() == [1] * 20
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1 << 20, f"{kept >> 20} MiB are kept"


@pytest.mark.parametrize(("colour", "code"), [("red", 1), ("blue", 2), ("green", 0), ("", 0), (["red"], 0), (1.0, 0)])
def test_a_category_is_a_code_with_an_unknown_bucket(colour: Attribute, code: int) -> None:
    """0 is what is not known, whatever it is."""
    assert _attributes(colour=colour).matrix[0, 1] == code


@pytest.mark.parametrize(
    ("price", "code"),
    [
        (0.0, 1),
        (-0.0, 1),
        (0.0004, 1),
        (1.5, 3001),
        (-1.5, -2999),
        ("1.5", 0),
        ([], 0),
        (float("nan"), 0),
        (float("inf"), 0),
        (1e15, 0),
        (-9.99e14, -9.99e14 * 2000 + 1),
    ],
)
def test_a_number_is_never_mistaken_for_no_number(price: Attribute, code: float) -> None:
    """Numbers have odd codes, so that 0 can mean absent, of another type, or past what an int64 can hold."""
    assert _attributes(price=price).matrix[0, 2] == code


def test_what_is_absent_is_unknown_and_what_is_not_declared_is_ignored() -> None:
    """Producers and specs change at different times."""
    assert _attributes(weight=3.0).matrix.tolist() == [[1, 0, 0]]


def test_updates_use_the_attributes_of_their_own_side() -> None:
    """languages, country, born: a user's attribute called colour is not the item's."""
    coder = ColumnCoder(spec("nasty"), "user")
    update = UserProfile("u", {"languages": ["fr"], "country": "ch", "born": 1990.0, "colour": "red"}, 1, "e")
    columns = coder.updates([update])
    assert columns.entities.to_strings() == ["u"] and columns.matrix.tolist() == [[0b100, 2, 3_980_001]]


def test_an_empty_batch_has_its_columns() -> None:
    """A poll may bring ticks only."""
    coder = ColumnCoder(spec("nasty"), "user")
    assert coder.behaviours([]).matrix.shape == (0, 6)
    assert coder.updates([]).matrix.shape == (0, 3)


def test_take_picks_events_in_the_order_that_is_asked_for() -> None:
    """Entities, times, ids and the matrix stay together."""
    events = [Behaviour("u", f"i{n}", "view", float(n), n + 1, f"e{n}") for n in range(4)]
    columns = ColumnCoder(spec("nasty"), "user").behaviours(events)
    taken = columns.take(np.array([3, 0]))
    assert taken.times.tolist() == [4, 1] and taken.matrix[:, 2].tolist() == [3000, 0]
    assert taken.ids.tolist() == [hash_id("e3"), hash_id("e0")] and len(taken) == 2


def test_hashes_are_the_same_on_every_machine() -> None:
    """xxh3 as a signed int64, spelled out: state on disk and on the wire depends on it."""
    assert hash_id("") == 0x2D06800538D394C2
    assert hash_ids(["", "a", "é"]).tolist() == [hash_id(""), hash_id("a"), hash_id("é")]
    assert min(hash_ids([str(n) for n in range(20)]).tolist()) < 0  # the sign bit is used
