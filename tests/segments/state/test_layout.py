"""Rows: where a block lies, what storage trims, and when old rows stop being readable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.segments.spec import SIDES, Side, parse_spec
from forebay.segments.state.layout import HEADER, Layout

from ..models import spec, tables


@pytest.mark.parametrize("name", ["movielens", "nasty", "listless", "own"])
@pytest.mark.parametrize("side", SIDES)
def test_blocks_fill_the_row_without_gap_or_overlap(name: str, side: Side) -> None:
    """Header first, lists last: young rows then end in zeros, which storage trims."""
    layout = Layout.of(spec(name), side)
    offset = HEADER
    for block in layout.blocks:
        assert block.offset == offset
        offset += block.size
    assert offset == layout.width
    kinds = [b.feature.kind == "last" for b in layout.blocks]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("name", ["movielens", "nasty", "listless", "own"])
@pytest.mark.parametrize("side", SIDES)
def test_a_row_has_what_some_segment_reads_and_nothing_else(name: str, side: Side) -> None:
    """One block for each state of the side's features, and no list that no feature asked for."""
    layout, features = Layout.of(spec(name), side), [f for s in spec(name).side(side) for f in s.features]
    assert sorted(map(repr, (b.feature for b in layout.blocks))) == sorted(
        {repr(f.state) for f in features if f.kind != "id"}
    )
    assert all(block.bits for block in layout.blocks)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=22), st.booleans())
def test_what_is_packed_is_unpacked(numbers: list[int], middle: bool) -> None:
    """Trimmed zeros come back, also inside the last number's bytes."""
    layout = Layout.of(spec("listless"), "item")
    layout = Layout.of(spec("listless"), "user") if layout.width < len(numbers) + 5 else layout
    row = np.zeros(layout.width, dtype=np.int64)
    start = 5 if middle else 0
    row[start : start + len(numbers)] = numbers
    packed = layout.pack(row)
    assert not packed.endswith(b"\0") and len(packed) <= 8 * (start + len(numbers))
    back = layout.unpack(packed)
    assert back.dtype == np.int64 and back.tobytes() == row.tobytes()


def test_an_empty_row_packs_to_nothing() -> None:
    """And nothing is an empty row."""
    layout = Layout.of(spec("nasty"), "user")
    assert layout.pack(np.zeros(layout.width, dtype=np.int64)) == b""
    assert not layout.unpack(b"").any()


Change = Callable[[dict[str, Any]], object]

READABLE: dict[str, Change] = {
    "nothing": lambda d: None,
    "another encoder": lambda d: d["user"]["counts"].update(encoder={"kind": "mlp", "hidden": [16]}),
    "another dimension": lambda d: [s.update(dim=4) for side in SIDES for s in d[side].values()],
    "another label": lambda d: d["label"].update(positive="value > 4"),
    "other bounds": lambda d: d["user"]["counts"].update(late_after="1h", expires_after="2h"),
    "another retirement": lambda d: d["events"].update(retire_users_after="2d"),
    "an attribute that no feature reads": lambda d: d["attributes"]["item"].update(size={"number": True}),
    "another name": lambda d: d.update(user={("tastes" if n == "counts" else n): t for n, t in d["user"].items()}),
    "a wider id": lambda d: d["item"]["id"].update(features=[{"id": 8}, {"latest": ["colour"]}]),
    "a list's ages": lambda d: d["user"]["liked"]["features"][0].update(of=["age", "item"]),
    "another half-life over the same window": lambda d: d["user"]["fading"]["features"][1].update(half_life="3h"),
    "a segment that shares every block": lambda d: d["user"].update(again=d["user"]["counts"]),
}

UNREADABLE: dict[str, tuple[Side, Change]] = {
    "a longer list": ("user", lambda d: d["user"]["recent"]["features"][0].update(last=5)),
    "another column in a list": ("user", lambda d: d["user"]["liked"]["features"][0].update(of=["item", "value"])),
    "two columns swapped": ("user", lambda d: d["user"]["profile"].update(features=[
        {"latest": ["languages", "country", "born"]}, {"count": "events"}])),
    "another condition": ("user", lambda d: d["user"]["counts"]["features"][1].update(where="value >= 2.6")),
    "another bucket": ("user", lambda d: d["user"]["windows"]["features"][1].update(bucket="30m", over="12h")),
    "the same buckets of another length": ("item",
        lambda d: d["item"]["stats"]["features"][3].update(bucket="2s", over="6s")),
    "a longer window": ("item", lambda d: d["item"]["stats"]["features"][1].update(over="7h")),
    "a mean for a count": ("item",
        lambda d: d["item"]["stats"]["features"].__setitem__(0, {"mean": "value", "where": "value>0"})),
    "segments in another order": ("item", lambda d: d.update(item=dict(reversed(d["item"].items())))),
    "a value at the end of a set": ("user", lambda d: d["attributes"]["item"]["genres"]["set"].append("jazz")),
    "two values of a category swapped": ("user", lambda d: d["attributes"]["user"]["country"]["category"].reverse()),
    "a set made a category": ("item", lambda d: d["attributes"]["item"].update(genres={"category": ["war", "love"]})),
    "one more action": ("item", lambda d: d["events"]["actions"].append("share")),
    "the keys of a cross swapped": ("user",
        lambda d: d["user"]["crossed"]["features"][0].update(count=["action", "genres"])),
    "a cross for a key": ("user",
        lambda d: d["user"]["counts"]["features"].__setitem__(0, {"count": ["genres", "action"]})),
    "another half-life that brings its window": ("user",
        lambda d: d["user"]["fading"]["features"][0].update(half_life="3h")),
    "two actions swapped": ("user", lambda d: d["events"]["actions"].reverse()),
}  # fmt: skip


@pytest.mark.parametrize("change", READABLE)
@pytest.mark.parametrize("side", SIDES)
def test_the_digest_stays_where_rows_stay(change: str, side: Side) -> None:
    """Changes that leave every column's meaning as it was: the state of yesterday is taken over."""
    data = tables("nasty")
    READABLE[change](data)
    assert Layout.of(parse_spec(data), side).digest == Layout.of(spec("nasty"), side).digest


@pytest.mark.parametrize("change", UNREADABLE)
def test_the_digest_changes_where_rows_change(change: str) -> None:
    """Each of these gives an old column another place or another meaning."""
    side, apply = UNREADABLE[change]
    data = tables("nasty")
    apply(data)
    assert Layout.of(parse_spec(data), side).digest != Layout.of(spec("nasty"), side).digest


OWN: dict[str, tuple[tuple[Side, ...], Change]] = {
    "one that no feature reads": ((), lambda d: d["attributes"]["event"].update(seat={"number": True})),
    "another order": ((), lambda d: d["attributes"].update(event=dict(reversed(d["attributes"]["event"].items())))),
    "more buckets": (("user", "item"), lambda d: d["attributes"]["event"].update(page={"category": {"buckets": 5}})),
    "a list for buckets": (("user", "item"),
        lambda d: d["attributes"]["event"].update(page={"category": list("abcd")})),
    "values swapped": (("user", "item"), lambda d: d["attributes"]["event"]["device"]["category"].reverse()),
    "one more member": (("user", "item"), lambda d: d["attributes"]["event"]["tags"]["set"].append("used")),
    "an item's buckets": (("user", "item"),
        lambda d: d["attributes"]["item"].update(shop={"category": {"buckets": 6}})),
    "a user's buckets": (("user",), lambda d: d["attributes"]["user"].update(town={"category": {"buckets": 6}})),
    "a condition": (("item",), lambda d: d["item"]["stats"]["features"][3].update(where="position < 1e4")),
}  # fmt: skip


@pytest.mark.parametrize("change", OWN)
def test_the_digest_follows_event_attributes_and_buckets(change: str) -> None:
    """On the sides whose rows a change gives another meaning, and on no other."""
    sides, apply = OWN[change]
    data = tables("own")
    apply(data)
    changed = [s for s in SIDES if Layout.of(parse_spec(data), s).digest != Layout.of(spec("own"), s).digest]
    assert tuple(changed) == sides


def test_half_lives_over_one_window_share_its_block() -> None:
    """And the same window without a half-life is the same state too: all their segments are pending together."""
    data = tables("nasty")
    window = {"count": "genres", "bucket": "30m", "over": "10h"}
    data["user"]["counts"]["features"] += [window, {**window, "half_life": "9h"}]
    changed = parse_spec(data)
    layout, names = Layout.of(changed, "user"), [s.name for s in changed.side("user")]
    counts, fading = (changed.side("user")[names.index(n)].features for n in ("counts", "fading"))
    assert layout.block(counts[-1]) is layout.block(counts[-2]) is layout.block(fading[1])
    assert layout.block(fading[1]).bits == 1 << names.index("counts") | 1 << names.index("fading")


@pytest.mark.parametrize(
    ("name", "side", "digest"),
    [
        ("listless", "item", "42f9668f66448a60"),  # from before there were crosses and half-lives
        ("listless", "user", "cdc3446e68e4a7dc"),  # the first without a list that only told duplicates
        ("own", "user", "a92e8cbf3a6908a8"),  # from when there was such a list, with one of its own
        ("own", "item", "02e04ce4eccdc81e"),
    ],
)
def test_layouts_of_stored_rows_keep_their_digest(name: str, side: Side, digest: str) -> None:
    """Frozen: whoever changes one makes every stored row unreadable."""
    assert Layout.of(spec(name), side).digest == digest


def test_what_one_side_keeps_is_not_the_other_sides_business() -> None:
    """A new user attribute or a longer user list leaves the item side's rows as they are."""
    data = tables("nasty")
    data["attributes"]["user"]["country"]["category"].append("de")
    data["user"]["recent"]["features"][0]["last"] = 9
    changed = parse_spec(data)
    assert Layout.of(changed, "user").digest != Layout.of(spec("nasty"), "user").digest
    assert Layout.of(changed, "item").digest == Layout.of(spec("nasty"), "item").digest
