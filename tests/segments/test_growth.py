"""Growth: what a bundle with more segments keeps of the one before."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from forebay.errors import BundleError
from forebay.segments.bundle import Bundle
from forebay.segments.growth import Growth
from forebay.segments.spec import SIDES, parse_spec
from forebay.segments.state.blockcoder import BlockCoder
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.layout import HEADER
from forebay.segments.state.readout import Vocabulary

from .logs import entity_on, random_log
from .models import tables, untrained

ITEMS = Vocabulary.of(hash_ids(["i1", "i2", "i3"]))
Change = Callable[[dict[str, Any]], None]


def _with(change: Change, name: str = "nasty") -> dict[str, Any]:
    found = deepcopy(tables(name))
    change(found)
    return found


def _late(tables: dict[str, Any]) -> None:
    """A segment with one feature that others have and two of its own, before all others in the spec."""
    own = {
        "features": [
            {"count": "genres"},
            {"last": 5, "of": ["item", "value"]},
            {"mean": "value", "bucket": "1h", "over": "3h"},
        ],
        "encoder": {"kind": "attention_pool", "queries": 1, "hidden": 8}, "dim": 8,
    }  # fmt: skip
    tables["user"] = {"late": own, **tables["user"]}


def _pair(change: Change, name: str = "nasty") -> tuple[Bundle, Bundle]:
    """A bundle, and one of the changed spec with the weights of the first where names and shapes are the same."""
    old = untrained(parse_spec(tables(name)), ITEMS, seed=1)
    new = untrained(parse_spec(_with(change, name)), ITEMS, seed=2)
    same = {n: t for n, t in old.tensors.items() if n in new.tensors and t.shape == new.tensors[n].shape}
    return old, Bundle(new.spec, {**new.tensors, **same})


def test_an_added_segment_changes_no_other() -> None:
    """One segment is new, no vector of another one is different, and the item side is as it was."""
    growth = Growth.between(*_pair(_late))
    assert [s.title for s in growth.added] == ["user.late"] and not growth.changed
    user, item = growth.sides["user"], growth.sides["item"]
    assert user.encode == 1 and user.places == tuple(range(1, 9))
    assert user.lacks is not None and [b.feature.kind for b in user.lacks.blocks] == ["mean", "last"]
    assert item.lacks is None and item.encode == 0 and (item.source == item.target).all()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", range(15))
def test_rows_of_old_blocks_and_of_what_they_lack_are_the_rows_that_a_fold_makes(
    side: Any, seed: int, make_rows: Any
) -> None:
    """Law 2: a row that is put together of two folds has the bytes of one fold of everything."""
    from random import Random

    old, new = _pair(_late)
    log = random_log(Random(seed), new.spec, side, 60)
    names = sorted({entity for e in log if (entity := entity_on(side, e))})
    part = Growth.between(old, new).sides[side]
    lacked = None if part.lacks is None else make_rows(new.spec, part.lacks, log, names)
    found = part.rows(make_rows(old.spec, part.old, log, names), lacked)
    assert (found == make_rows(new.spec, part.new, log, names)).all()
    assert found[:, :HEADER].any()


@pytest.fixture
def make_rows() -> Any:
    """`make_rows(spec, layout, log, names)`: state rows int64 [names, width] after a log."""
    from forebay.segments.blocks.build import block_of

    def make(spec: Any, layout: Any, log: Any, names: list[str]) -> Any:
        rows, order = np.zeros((len(names), layout.width), np.int64), hash_ids(names)
        place = {int(h): n for n, h in enumerate(order)}
        none, clock = np.zeros(len(names), np.int64), 0
        fold, coder = Fold(layout), BlockCoder(spec, layout.side)
        block = block_of(log, [0] * len(log), range(len(log)), [0] * len(log), ("tests/0",))
        for stretch in coder.stretches(block):
            for columns, folds in ((stretch.behaviours, True), (stretch.updates, False)):
                at = np.array([place[int(h)] for h in columns.entities.hashes], np.int64)
                if folds:
                    by = Fold.order(at, columns)
                    fold.behaviours(rows, at[by], columns.take(by), clock, none.copy())
                else:
                    fold.updates(rows, at, columns, none.copy())
            if stretch.tick > clock:
                fold.advance(rows, clock, np.full(len(names), stretch.tick), none.copy())
                clock = stretch.tick
        return rows

    return make


def test_masks_go_with_their_segments() -> None:
    """What waits of an old segment waits at its new place."""
    part = Growth.between(*_pair(_late)).sides["user"]
    assert part.masks(np.array([0, 1, 0b1000_0001])).tolist() == [0, 0b10, 0b1_0000_0010]


def test_a_feature_that_others_have_needs_no_history() -> None:
    """It reads blocks that are there."""

    def shared(tables: dict[str, Any]) -> None:
        features = [{"count": "genres"}, {"latest": ["born"]}]
        tables["user"]["shared"] = {"features": features, "encoder": {"kind": "mlp"}, "dim": 8}

    growth = Growth.between(*_pair(shared))
    assert growth.sides["user"].lacks is None and growth.sides["user"].encode == 1 << 8


def test_a_new_attribute_changes_only_who_reads_it() -> None:
    """Each tag is another one, and each vector the same: only what is declared differs."""

    def change(tables: dict[str, Any]) -> None:
        tables["attributes"]["item"] = {"weight": {"number": True}, **tables["attributes"]["item"]}
        features = [{"latest": ["weight"]}]
        tables["item"]["heavy"] = {"features": features, "encoder": {"kind": "mlp"}, "dim": 8}

    old, new = _pair(change)
    growth = Growth.between(old, new)
    assert not growth.changed and [s.title for s in growth.added] == ["item.heavy"]
    before, after = (next(s for s in bundle.spec.segments if s.title == "item.stats") for bundle in (old, new))
    assert old.encoder_tag(before) != new.encoder_tag(after)


def _weights(bundle: Bundle) -> Bundle:
    tensors = dict(bundle.tensors)
    name = next(n for n in tensors if n.startswith("user.counts."))
    tensors[name] = np.nextafter(tensors[name], np.float32(np.inf))
    return Bundle(bundle.spec, tensors)


def _other_items(bundle: Bundle) -> Bundle:
    return untrained(bundle.spec, Vocabulary.of(hash_ids(["i1", "i4", "i5"])), seed=2, keep=bundle.tensors)


def test_other_weights_are_other_vectors_over_the_same_state() -> None:
    """By the last bit of one number; another vocabulary is one of every segment."""
    old, new = _pair(_late)
    growth = Growth.between(old, _weights(new))
    assert growth.changed == {"user.counts": "its weights"}
    place = [s.title for s in new.spec.side("user")].index("user.counts")
    assert growth.sides["user"].encode == 1 | 1 << place
    assert set(Growth.between(old, _other_items(new)).changed.values()) == {"the vocabulary of items"}


def _decays(tables: dict[str, Any]) -> None:
    _late(tables)
    tables["user"]["fading"]["features"][1]["half_life"] = "50m"


def _smaller(tables: dict[str, Any]) -> None:
    _late(tables)
    tables["user"]["fading"]["encoder"]["hidden"] = []


@pytest.mark.parametrize(("change", "said"), [(_decays, "its features"), (_smaller, "its encoder")])
def test_what_reads_the_same_state_otherwise_is_encoded_anew(change: Change, said: str) -> None:
    """Its history is there."""
    assert Growth.between(*_pair(change)).changed == {"user.fading": said}


def _nothing(tables: dict[str, Any]) -> None:
    del tables


def _removed(tables: dict[str, Any]) -> None:
    _late(tables)
    del tables["user"]["counts"]


def _longer(tables: dict[str, Any]) -> None:
    _late(tables)
    tables["user"]["recent"]["features"][0]["last"] = 7


def _values(tables: dict[str, Any]) -> None:
    _late(tables)
    tables["attributes"]["item"]["genres"]["set"].append("noir")


def _actions(tables: dict[str, Any]) -> None:
    _late(tables)
    tables["events"]["actions"].append("share")


def _retires(tables: dict[str, Any]) -> None:
    _late(tables)
    tables["events"]["retire_users_after"] = "90d"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_nothing, "no segment that is new"),
        (_removed, r"it has no user\.counts"),
        (_longer, r"other state for user\.recent "),
        (_values, r"other state for .*user\.recent.*item\.content"),
        (_actions, r"other state for .*user\.recent.*item\.stats"),
        (_retires, "retire after another time"),
    ],
)
def test_what_cannot_be_carried_is_refused(change: Change, said: str) -> None:
    """By the names of the segments, and with what to do instead."""
    with pytest.raises(BundleError, match=said) as caught:
        Growth.between(*_pair(change))
    assert "forebay backfill" in caught.value.do


def test_a_segment_that_is_renamed_is_one_that_is_gone() -> None:
    """Its vectors are under another name: that the two mean the same nobody says."""

    def rename(tables: dict[str, Any]) -> None:
        tables["user"]["tastes"] = tables["user"].pop("taste")

    with pytest.raises(BundleError, match=r"it has no user\.taste "):
        Growth.between(*_pair(rename, "listless"))


def test_a_class_of_ones_own_may_read_every_attribute() -> None:
    """Of its vectors nothing is taken for granted: a new attribute makes them others."""

    def own(tables: dict[str, Any]) -> None:
        tables["user"]["counts"]["encoder"] = {"kind": "somewhere:Encoder", "version": "1"}

    def grown(tables: dict[str, Any]) -> None:
        own(tables)
        _late(tables)
        tables["attributes"]["item"]["weight"] = {"number": True}

    old, new = (Bundle(parse_spec(_with(c)), {"vocabulary.item": ITEMS.hashes}) for c in (own, grown))
    assert Growth.between(old, new).changed == {"user.counts": "attributes or actions that it reads"}
