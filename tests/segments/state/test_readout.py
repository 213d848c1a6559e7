"""The read-out: rows written by hand, and the floats that must come of them."""

from __future__ import annotations

from math import log1p
from random import Random

import numpy as np
import pytest

from forebay.events import Attribute, Behaviour, ItemUpdate, Tick, UserProfile
from forebay.segments.spec import SIDES, Side
from forebay.segments.spec.attribute import bucket_of
from forebay.segments.state.ids import hash_id, hash_ids
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import Inputs, SegmentReader, Vocabulary

from .. import naive
from ..logs import entity_on, random_log
from ..models import spec
from ..played import Played
from . import plaindense, plainlists

KNOWN = Vocabulary.of(hash_ids(["i1", "i2", "i3"]))


def _reader(title: str, name: str = "nasty") -> tuple[SegmentReader, Layout]:
    segment = next(s for s in spec(name).segments if s.title == title)
    layout = Layout.of(spec(name), segment.side)
    return SegmentReader(spec(name), segment, layout, KNOWN), layout


def _read(title: str, side: Side, *events: Behaviour | UserProfile | ItemUpdate, clock: int = 0) -> Inputs:
    """What a segment of the nasty spec reads of one entity with these events."""
    reader, layout = _reader(title)
    acted = [e for e in events if isinstance(e, Behaviour)]
    updated = [e for e in events if not isinstance(e, Behaviour)]
    row = naive.row(spec("nasty"), layout, acted, updated, clock)
    return reader.read(row[None, :], np.array([hash_id("i2")]))


def _view(time: int, item: str = "i1", action: str = "view", value: float = 1.0, **attributes: object) -> Behaviour:
    return Behaviour("u", item, action, value, time, f"e{time}", attributes)  # type: ignore[arg-type]


def test_counts_are_logs_and_shares() -> None:
    """Three events of war, one of them love as well: sizes beside what part each had; alone a count has no share."""
    events = [_view(1, genres=["war"]), _view(2, genres=["war", "love"]), _view(3, genres=["war"], value=3.0)]
    dense = _read("user.counts", "user", *events).dense[0]
    assert np.allclose(dense[:4], [0, log1p(3), log1p(1), 0])
    assert np.allclose(dense[4:8], [0, 3 / 4, 1 / 4, 0])
    assert np.allclose(dense[8:12], [0, log1p(1), 0, 0])  # where value >= 2.5
    profile = _read("user.profile", "user", *events).dense[0]
    assert np.isclose(profile[-1], log1p(3)) and len(profile) == 3 + 3 + 2 + 1


def test_means_are_sum_and_count_over_count_plus_five() -> None:
    """Two likes of 4 and 2 make 6 / 7 and 2 / 7; what never happened is zero."""
    dense = _read("user.counts", "user", _view(1, action="like", value=4.0), _view(2, action="like", value=2.0)).dense[
        0
    ]
    by_action = dense[16:24]  # unknown, view, like, buy: sums, then counts
    assert np.allclose(by_action, [0, 0, 6 / 7, 0, 0, 0, 2 / 7, 0])


def test_windows_are_summed_over_their_buckets() -> None:
    """Events one second apart, five kept; a tick three seconds later leaves two of them."""
    events = [_view(1000 * second) for second in range(1, 8)]
    assert np.isclose(_read("user.windows", "user", *events).dense[0, 0], log1p(5))
    assert np.isclose(_read("user.windows", "user", *events, clock=10_000).dense[0, 0], log1p(2))


def test_a_half_life_halves_what_is_that_much_older() -> None:
    """Buckets of 30 minutes and a half-life of 40: war two hours before love weighs an eighth of it, and 1/9 of the
    whole."""
    start = 1_700_000_100_000 // 1_800_000 * 1_800_000
    events = [_view(start + 7_200_000 + 5, genres=["love"]), _view(start + 1_799_999, genres=["war"])]
    reader, _ = _reader("user.fading")
    columns = reader.dense_columns[1][1]
    dense = _read("user.fading", "user", *events).dense[0, columns]
    assert np.allclose(dense, [0, log1p(1 / 8), log1p(1), 0, 0, 1 / 9, 8 / 9, 0])


def test_every_decayed_count_is_the_naive_one() -> None:
    """Random logs through the compiled fold, read out, against weights summed event by event."""
    weighed = 0
    for seed in range(120):
        for side in SIDES:
            log = random_log(Random(f"decay {side} {seed}"), spec("nasty"), side, size=60)
            with Played(spec("nasty"), side) as played:
                played.apply(log)
                rows = {entity: played.row(entity)[None].copy() for entity in played.entities}
            for segment in spec("nasty").side(side):
                reader, _ = _reader(segment.title)
                for feature, columns in reader.dense_columns:
                    if not feature.half_life_ms:
                        continue
                    keys = played.layout.block(feature).keys
                    for entity, row in rows.items():
                        own = [e for e in log if isinstance(e, Behaviour) and entity_on(side, e) == entity]
                        clock = max((e.time for e in log if isinstance(e, Tick)), default=0)
                        counts, sums = map(np.array, naive.decayed(spec("nasty"), feature, own, clock, keys))
                        if feature.kind == "mean":
                            expected = np.concatenate([sums / (counts + 5), counts / (counts + 5)])
                        else:
                            shares = counts / max(counts.sum(), 1) if keys > 1 else []
                            expected = np.concatenate([np.log1p(counts), shares])
                        read = reader.read(row, np.zeros(1, np.int64)).dense[0, columns]
                        assert np.allclose(read, expected, rtol=1e-5, atol=1e-6), f"{seed} {entity} {feature}"
                        weighed += bool(((counts % 1) > 0).any())
    assert weighed > 100  # the logs had something to decay


def test_decay_counts_from_the_newest_event_that_is_counted() -> None:
    """Neither an event that the condition leaves out, nor a tick inside the window, nor the date changes a bit."""
    reader, _ = _reader("user.fading")
    columns = reader.dense_columns[2][1]  # where value != 4, half-life 7d
    day, start = 86_400_000, 1_700_006_400_000 // 151_200_000 * 151_200_000
    events = [_view(start + n * day, action="like", value=n) for n in (1, 2, 6)]
    read = _read("user.fading", "user", *events).dense[0, columns].tobytes()
    assert read == _read("user.fading", "user", *events, _view(start + 9 * day, value=4.0)).dense[0, columns].tobytes()
    assert read == _read("user.fading", "user", *events, clock=start + 12 * day).dense[0, columns].tobytes()
    # Seven buckets later the ring stands otherwise, and the sum is made in the same order all the same.
    later = [_view(e.time + 7 * 151_200_000, action="like", value=e.value) for e in events if e.time]
    assert read == _read("user.fading", "user", *later).dense[0, columns].tobytes()


def test_a_cross_counts_pairs_the_second_key_fastest() -> None:
    """Genres (unknown, war, love, crime) by actions (unknown, view, like, buy): 16 sizes, then 16 shares."""
    events = [_view(1, action="like", genres=["war", "love"]), _view(2, action="buy", genres=["war"])]
    dense = _read("user.crossed", "user", *events).dense[0, :32].reshape(2, 4, 4)
    expected = np.zeros((4, 4))
    expected[1, 2] = expected[2, 2] = expected[1, 3] = 1
    assert np.allclose(dense[0], np.log1p(expected)) and np.allclose(dense[1], expected / 3)


def test_attributes_are_one_hot_multi_hot_and_number_with_presence() -> None:
    """Country, languages, born; bucket 0 is the unknown one, and 0.0 is a number while none is not."""
    known = UserProfile("u", {"country": "ch", "languages": ["de", "xx"], "born": 1990.0}, 1, "e")
    assert _read("user.profile", "user", known).dense[0, :8].tolist() == [0, 0, 1, 1, 1, 0, 1990.0, 1]
    zero = UserProfile("u", {"born": 0.0}, 1, "e")
    assert _read("user.profile", "user", zero).dense[0, :8].tolist() == [1, 0, 0, 1, 0, 0, 0, 1]
    negative = UserProfile("u", {"born": -1.5}, 1, "e")
    assert _read("user.profile", "user", negative).dense[0, 6:8].tolist() == [-1.5, 1]
    none = UserProfile("u", {}, 1, "e")
    assert _read("user.profile", "user", none).dense[0, :8].tolist() == [1, 0, 0, 1, 0, 0, 0, 0]


def test_a_list_is_read_oldest_first_with_its_columns_in_order() -> None:
    """Value and ages of two entries, then zeros to the list's size; the item's place is beside, not among them."""
    read = _read("user.liked", "user", _view(1000, "i3", "like"), _view(5000, "i1", "buy"), _view(9000, "i2"))
    assert read.length.tolist() == [2]
    assert read.items.tolist() == [[*KNOWN.places(hash_ids(["i3", "i1"])).tolist(), 0]]
    assert np.allclose(read.sequence[0, :, 0], [log1p(4), 0, 0])


def test_every_column_of_a_list_is_spread() -> None:
    """action 4, value 1, age 1, genres 4, colour 3, price 2 wide: one entry, spelled out."""
    event = _view(1, action="like", value=2.5, genres=["war", "xx"], colour="blue", price=0.5)
    row = _read("user.recent", "user", event).sequence[0]
    expected = [0, 0, 1, 0, 2.5, 0, 1, 1, 0, 0, 0, 0, 1, 0.5, 1]
    assert np.allclose(row[0], expected) and not row[1:].any()


def test_event_attributes_and_buckets_are_spread_in_a_list() -> None:
    """position 2, device 3, page 5, tags 3 and shop 6 wide; a bucket is one-hot, and its first place is an absent
    value."""
    reader, layout = _reader("user.recent", "own")
    own: dict[str, Attribute] = {"position": 2.0, "device": "phone", "page": "/cart", "tags": ["new", "sale"]}
    events = [
        Behaviour("u", "i1", "view", 0.0, 1, "a", {"shop": "s"}, own),
        Behaviour("u", "i1", "view", 0.0, 2, "b"),
    ]
    read = reader.read(naive.row(spec("own"), layout, events, [])[None, :], np.zeros(1, np.int64)).sequence[0]
    page, shop = np.eye(5)[bucket_of("/cart", 4)], np.eye(6)[bucket_of("s", 5)]
    assert np.allclose(read[0], [2.0, 1, 0, 1, 0, *page, 0, 1, 1, *shop])
    assert np.allclose(read[1], [0, 0, 1, 0, 0, *np.eye(5)[0], 1, 0, 0, *np.eye(6)[0]])


def test_ages_count_from_the_newest_event_of_the_list() -> None:
    """Never from a clock: the same events a year later, and a tick far ahead, read the same."""
    early = [_view(t, action="like") for t in (1000, 61_000, 3_661_000)]
    late = [_view(t + 31_536_000_000, action="like") for t in (1000, 61_000, 3_661_000)]
    ages = _read("user.liked", "user", *early).sequence
    assert np.allclose(ages[0, :, 0], [log1p(3660), log1p(3600), 0])
    assert ages.tobytes() == _read("user.liked", "user", *late).sequence.tobytes()
    assert ages.tobytes() == _read("user.liked", "user", *early, clock=10**12).sequence.tobytes()


def test_an_unknown_item_has_the_place_zero() -> None:
    """In a list and as the entity itself; known ones have 1 to m by their hash."""
    unknown = _read("user.liked", "user", _view(1, "new", "like")).items
    assert unknown.tolist() == [[0, 0, 0]]
    places = KNOWN.places(np.sort(hash_ids(["i1", "i2", "i3"])))
    assert places.tolist() == [1, 2, 3]
    assert KNOWN.places(hash_ids(["new", "newer"])).tolist() == [0, 0]
    assert Vocabulary.of(np.zeros(0, dtype=np.int64)).places(hash_ids(["i1"])).tolist() == [0]
    own = _read("item.id", "item").own
    assert own.tolist() == KNOWN.places(hash_ids(["i2"])).tolist() != [0]


def test_the_greatest_hash_is_no_special_case() -> None:
    """A hash above every known one is looked up past the end of the vocabulary."""
    vocabulary = Vocabulary(np.array([-5, 7], dtype=np.int64))
    asked = np.array([[-6, -5], [7, 8]], dtype=np.int64)
    assert vocabulary.places(asked).tolist() == [[0, 1], [2, 0]]


def test_an_empty_row_reads_as_nothing() -> None:
    """All zeros and unknowns, of the declared widths, and no newest event: what a default vector is made of."""
    for segment in spec("nasty").segments:
        reader, layout = _reader(segment.title)
        read = reader.read(np.zeros((2, layout.width), dtype=np.int64), np.zeros(2, dtype=np.int64))
        assert read.dense.shape == (2, reader.dense_width) and read.dense.dtype == np.float32
        assert read.sequence.shape == (2, reader.list_size, reader.sequence_width)
        assert not read.sequence.any() and not read.length.any() and not read.own.any()
        assert reader.newest(np.zeros((2, layout.width), dtype=np.int64)).tolist() == [0, 0]


def test_newest_is_the_newest_event_that_the_segment_reads() -> None:
    """A view is no news to a segment of likes; an update counts where attributes are read."""
    events = [_view(10, action="like"), _view(20)]
    profile = UserProfile("u", {"born": 1.0}, 15, "e")
    for title, expected in (("user.liked", 10), ("user.recent", 20), ("user.short", 20), ("user.profile", 20)):
        reader, layout = _reader(title)
        row = naive.row(spec("nasty"), layout, events, [profile])
        assert reader.newest(row[None, :]).tolist() == [expected], title
    reader, layout = _reader("user.profile")
    assert reader.newest(naive.row(spec("nasty"), layout, [], [profile])[None, :]).tolist() == [15]


def test_a_row_reads_the_same_beside_any_other() -> None:
    """Rows of a batch are independent, and `take` gives them back in any order."""
    reader, layout = _reader("user.recent")
    one = naive.row(spec("nasty"), layout, [_view(t) for t in range(1, 4)], [])
    two = naive.row(spec("nasty"), layout, [_view(t, "i2", "buy", 4.0) for t in range(1, 9)], [])
    zero = np.zeros(2, dtype=np.int64)
    both = reader.read(np.stack([one, two]), zero)
    swapped = reader.read(np.stack([two, one]), zero).take(np.array([1, 0]))
    for a, b in zip(vars(both).values(), vars(swapped).values(), strict=True):
        assert a.tobytes() == b.tobytes()
    assert len(both.take(slice(0, 1))) == 1


LISTS = [
    (name, segment.title)
    for name in ("movielens", "nasty", "listless", "own")
    for segment in spec(name).segments
    if any(f.kind == "last" for f in segment.features)
]


@pytest.mark.parametrize(("name", "title"), LISTS)
def test_lists_are_read_as_their_plain_twin_reads_them(name: str, title: str) -> None:
    """To the bit: every kind of column, known and unknown items, empty and full lists, codes of nothing."""
    random, (reader, layout) = np.random.default_rng(1), _reader(title, name)
    (segment,) = [s for s in spec(name).segments if s.title == title]
    (feature,) = [f for f in segment.features if f.kind == "last"]
    block = layout.block(feature)
    rows = np.zeros((500, layout.width), np.int64)
    rows[:, block.offset] = random.integers(0, feature.size + 1, len(rows))
    entries = rows[:, block.offset + 1 : block.offset + block.size].reshape(-1, feature.size, block.stride)
    entries[:] = random.integers(0, 40, entries.shape)
    entries[:, :, 0] = np.sort(random.integers(1, 1 << 42, entries.shape[:2]), axis=1)
    for place, column in enumerate(block.columns):
        if column == "item":
            entries[:, :, 2 + place] = random.choice([*KNOWN.hashes, 0, -1, 7], entries.shape[:2])
        elif column == "value":
            entries[:, :, 2 + place] = random.integers(-(1 << 40), 1 << 40, entries.shape[:2])
    read = reader.read(rows, np.zeros(len(rows), np.int64))
    sequence, items, length = plainlists.read(spec(name), segment, layout, KNOWN, rows)
    assert read.sequence.tobytes() == sequence.tobytes()
    assert (read.items == items).all() and (read.length == length).all() and items.any() == ("item" in feature.of)


DENSE = [
    (name, segment.title)
    for name in ("movielens", "nasty", "listless", "own")
    for segment in spec(name).segments
    if any(f.kind in ("count", "mean", "latest") for f in segment.features)
    and not any(f.half_life_ms for f in segment.features)
]


@pytest.mark.parametrize(("name", "title"), DENSE)
def test_dense_features_are_read_as_their_plain_twin_reads_them(name: str, title: str) -> None:
    """To the bit: sums of one bucket and of many, small and great ones, attributes of every kind, codes of nothing."""
    random, (reader, layout) = np.random.default_rng(2), _reader(title, name)
    (segment,) = [s for s in spec(name).segments if s.title == title]
    rows = np.where(
        random.random((500, layout.width)) < 0.5,
        random.integers(0, 9, (500, layout.width)),
        random.integers(0, 1 << 40, (500, layout.width)),
    )
    rows[0], rows[1:100] = 0, random.random((99, layout.width)) < 0.03  # one event or two
    read, plain = reader.dense(rows), plaindense.read(spec(name), segment, layout, rows)
    assert read.tobytes() == plain.tobytes() and read.any()
