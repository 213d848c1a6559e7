"""Law 8, a segment is a room: without retraining, what is done to one segment changes no other one's vectors, bit for
bit."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

from forebay.events import Tick
from forebay.segments.bundle import Bundle
from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side, parse_spec
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.readout import Vocabulary

from ..logs import entity_on, random_log
from ..models import spec, tables, untrained
from ..played import Played

ITEMS = Vocabulary.of(hash_ids([f"other{n}" for n in range(5)] + ["item0", "item1"]))
Change = Callable[[dict[str, Any]], object]

CHANGES: list[tuple[str, str, str, Change]] = [
    ("movielens", "user.recent", "a shorter list", lambda d: d["user"]["recent"]["features"][0].update(last=20)),
    ("movielens", "user.recent", "a condition",
     lambda d: d["user"]["recent"]["features"][0].update(where="value >= 4")),
    ("movielens", "user.recent", "fewer columns",
     lambda d: d["user"]["recent"]["features"][0].update(of=["item", "age"])),
    ("movielens", "user.taste", "one feature less", lambda d: d["user"]["taste"]["features"].pop(0)),
    ("movielens", "user.profile", "one feature more",
     lambda d: d["user"]["profile"]["features"].append({"count": "genres"})),
    ("movielens", "item.stats", "another window",
     lambda d: d["item"]["stats"]["features"][2].update(bucket="6h", over="3d")),
    ("movielens", "user.taste", "a condition", lambda d: d["user"]["taste"]["features"][0].update(where="value < 3")),
    ("nasty", "user.profile", "a condition",
     lambda d: d["user"]["profile"]["features"][1].update(where="action == 'like'")),
    ("nasty", "user.recent", "a list of one", lambda d: d["user"]["recent"]["features"][0].update(last=1)),
    ("nasty", "user.liked", "another condition", lambda d: d["user"]["liked"]["features"][0].update(where="value > 2")),
    ("nasty", "user.windows", "another bucket",
     lambda d: d["user"]["windows"]["features"][0].update(bucket="2s", over="4s")),
    ("nasty", "user.counts", "another key", lambda d: d["user"]["counts"]["features"][0].update(count="action")),
    ("nasty", "user.fading", "another half-life", lambda d: d["user"]["fading"]["features"][1].update(half_life="3h")),
    ("nasty", "user.fading", "no half-life", lambda d: d["user"]["fading"]["features"][1].pop("half_life")),
    ("nasty", "user.crossed", "keys swapped",
     lambda d: d["user"]["crossed"]["features"][0].update(count=["action", "genres"])),
    ("nasty", "user.crossed", "a key for a cross",
     lambda d: d["user"]["crossed"]["features"][0].update(count="action")),
    ("nasty", "item.content", "fewer attributes",
     lambda d: d["item"]["content"]["features"][0].update(latest=["price"])),
    ("nasty", "item.id", "a wider embedding", lambda d: d["item"]["id"]["features"][0].update(id=8)),
    ("nasty", "user.short", "another encoder", lambda d: d["user"]["short"]["encoder"].update(hidden=16)),
    ("nasty", "user.profile", "taken out", lambda d: d["user"].pop("profile")),
    ("own", "user.near", "another condition",
     lambda d: d["user"]["near"]["features"][0].update(where="device == 'desk'")),
    ("own", "user.recent", "fewer columns",
     lambda d: d["user"]["recent"]["features"][0].update(of=["item", "page", "position"])),
    ("own", "user.counts", "another key", lambda d: d["user"]["counts"]["features"][0].update(count="page")),
    ("own", "item.stats", "another key", lambda d: d["item"]["stats"]["features"][0].update(count="tags")),
    ("nasty", "user.profile", "moved to the end", lambda d: d["user"].update(profile=d["user"].pop("profile"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "title", "what", "change"), CHANGES, ids=[f"{t}: {w}" for _, t, w, _ in CHANGES])
def test_a_change_to_one_segment_stays_in_it(name: str, title: str, what: str, change: Change) -> None:
    """The other segments' encoders keep their weights: their codes, scales, times and tags are what they were."""
    data = tables(name)
    change(data)
    before = untrained(spec(name), ITEMS, seed=1)
    others = {n: t for n, t in before.tensors.items() if not n.startswith(f"{title}.")}
    after = untrained(parse_spec(data), ITEMS, seed=2, keep=others)
    for side in SIDES:
        was, now = _vectors(before, side), _vectors(after, side)
        assert {t for t in was if t != title} == {t for t in now if t != title}
        for other in was.keys() & now.keys() - {title}:
            assert _bytes(was[other]) == _bytes(now[other]), f"{what} changed {other}"
            assert _tag(before, other) == _tag(after, other), f"{what} changed the tag of {other}"
    if what != "taken out":
        assert _tag(before, title) != _tag(after, title)


def test_a_tag_tells_vectors_of_other_weights_apart() -> None:
    """The same spec with one bit of one weight changed: that segment's tag, and no other."""
    bundle = untrained(spec("nasty"), ITEMS, seed=1)
    tensors = {n: t.copy() for n, t in bundle.tensors.items()}
    tensors["user.liked.out.bias"].view(np.int32)[0] ^= 1
    changed = Bundle(bundle.spec, tensors)
    for segment in bundle.spec.segments:
        same = bundle.encoder_tag(segment) == changed.encoder_tag(segment)
        assert same is (segment.title != "user.liked")


def test_a_tag_tells_half_lives_apart() -> None:
    """The same rows and the same weights, read out otherwise."""
    bundle = untrained(spec("nasty"), ITEMS, seed=1)
    data = tables("nasty")
    data["user"]["fading"]["features"][1]["half_life"] = "3h"
    changed = Bundle(parse_spec(data), bundle.tensors)
    for a, b in zip(bundle.spec.segments, changed.spec.segments, strict=True):
        assert (bundle.encoder_tag(a) == changed.encoder_tag(b)) is (a.title != "user.fading")


def test_a_tag_ignores_what_no_vector_depends_on() -> None:
    """Freshness bounds, the label and when users retire may be tuned without encoding anything again."""
    data = tables("nasty")
    data["user"]["liked"].update(late_after="1h", expires_after="7d")
    data["label"]["positive"] = "value > 1"
    data["events"]["retire_users_after"] = "2d"
    bundle = untrained(spec("nasty"), ITEMS, seed=1)
    changed = Bundle(parse_spec(data), bundle.tensors)
    assert changed.hash != bundle.hash
    for a, b in zip(bundle.spec.segments, changed.spec.segments, strict=True):
        assert bundle.encoder_tag(a) == changed.encoder_tag(b)


def test_the_tag_is_of_everything_else_too() -> None:
    """Another vocabulary or another list of attribute values gives a row another meaning."""
    bundle = untrained(spec("nasty"), ITEMS, seed=1)
    liked = bundle.spec.side("user")[2]
    vocabulary = {**bundle.tensors, "vocabulary.item": ITEMS.hashes + 1}
    assert Bundle(bundle.spec, vocabulary).encoder_tag(liked) != bundle.encoder_tag(liked)
    data = tables("nasty")
    data["attributes"]["item"]["genres"]["set"].reverse()
    other = parse_spec(data)
    assert Bundle(other, bundle.tensors).encoder_tag(other.side("user")[2]) != bundle.encoder_tag(liked)


def _tag(bundle: Bundle, title: str) -> int:
    return bundle.encoder_tag(next(s for s in bundle.spec.segments if s.title == title))


def _bytes(encoded: SegmentVectors) -> tuple[bytes, ...]:
    return tuple(a.tobytes() for a in (encoded.vectors, encoded.scale, encoded.newest, encoded.finite))


def _vectors(bundle: Bundle, side: Side) -> dict[str, SegmentVectors]:
    """Vectors of every segment by title, of the entities of one log that both bundles see."""
    of = "own" if bundle.spec.event_attributes else "nasty" if "view" in bundle.spec.events.actions else "movielens"
    log = random_log(Random(f"isolation {side}"), spec(of), side, size=200)
    entities = sorted({entity_on(side, e) for e in log if not isinstance(e, Tick)})
    with Played(bundle.spec, side) as played:
        played.apply(log)
        rows = np.stack([played.row(e) for e in entities])
    encoders = SideEncoders(bundle, side)
    return {s.title: encoders.encode(p, rows, hash_ids(entities)) for p, s in enumerate(encoders.segments)}
