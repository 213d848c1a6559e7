"""A side's encoders as workers use them: rows in, int8 vectors out, and nothing that is not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forebay.errors import BundleError
from forebay.segments.bundle import Bundle
from forebay.segments.encoders import encode_by_torch
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.readout import Inputs, Vocabulary
from forebay.segments.state.staterows import StateRows

from .models import spec, untrained

ITEMS = Vocabulary.of(hash_ids(["i1", "i2"]))
ZERO = np.zeros(2, dtype=np.int64)


def test_what_is_served_is_within_half_a_step_of_what_is_encoded() -> None:
    """Empty rows of every segment against the bundle's float default vectors."""
    bundle = untrained(spec("nasty"), ITEMS, seed=1)
    encoders = SideEncoders(bundle, "user")
    rows = np.zeros((2, bundle.layouts["user"].width), dtype=np.int64)
    served = encoders.encode_all(rows, ZERO)
    defaults = bundle.defaults("user")
    step = np.abs(defaults.reshape(8, 8)).max(axis=1).repeat(8) / 127
    assert served.shape == (2, 64) and (served[0] == served[1]).all()
    assert (np.abs(served[0] - defaults) <= step * 0.501).all()


def test_a_vector_that_is_not_finite_is_named_and_zero() -> None:
    """Weights near the end of float32 overflow on one row and not on the other: only that one is held back."""
    bundle = untrained(spec("nasty"), ITEMS, seed=1)
    weight = np.full_like(bundle.tensors["item.content.layers.0.weight"], 3e38)
    rows = np.zeros((2, bundle.layouts["item"].width), dtype=np.int64)
    content = next(b for b in bundle.layouts["item"].blocks if b.feature.of == ("genres", "colour", "price"))
    rows[0, content.offset : content.offset + content.size] = (5, 9, 0b1111, 1, 2_000_001)
    mean = np.zeros_like(bundle.tensors["item.content.mean"])
    mean[4] = 1.0  # an empty row's category is the unknown one: centred, it adds nothing
    tensors = {**bundle.tensors, "item.content.layers.0.weight": weight, "item.content.mean": mean}
    encoders = SideEncoders(Bundle(bundle.spec, tensors), "item")
    encoded = encoders.encode(1, rows, ZERO)
    assert encoded.finite.tolist() == [False, True]
    assert not encoded.vectors[0].any() and encoded.vectors[1].any()
    assert encoded.newest.tolist() == [5, 0]


@pytest.mark.parametrize("damage", ["wrong shape", "missing", "left over"])
def test_weights_that_do_not_fit_the_spec_are_refused(damage: str) -> None:
    """By the segment they belong to, before anything is encoded with half of them."""
    tensors = dict(untrained(spec("nasty"), ITEMS, seed=1).tensors)
    if damage == "wrong shape":
        tensors["user.short.out.bias"] = np.zeros(9, dtype=np.float32)
    elif damage == "missing":
        del tensors["user.short.out.bias"]
    else:
        tensors["user.short.more"] = np.zeros(1, dtype=np.float32)
    bundle = Bundle(spec("nasty"), tensors)
    with pytest.raises(BundleError, match=r"user\.short do not fit") as caught:
        SideEncoders(bundle, "user")
    assert bundle.name in caught.value.where and caught.value.do
    SideEncoders(bundle, "item")


@pytest.mark.parametrize("name", ["movielens", "nasty"])
def test_segments_encoded_side_by_side_have_the_same_bits(name: str) -> None:
    """Law 3: on four threads, in any order of finishing, each segment's vectors are those of one thread."""
    bundle = untrained(spec(name), ITEMS, seed=4)
    width = bundle.layouts["user"].width
    rows, hashes = np.zeros((700, width), dtype=np.int64), np.arange(700)
    rows[:, 0:3] = np.random.default_rng(0).integers(1, 1000, (700, 3))
    alone, together = SideEncoders(bundle, "user"), SideEncoders(bundle, "user", threads=4)
    jobs = [(place, rows[: 700 - place], hashes[: 700 - place]) for place in range(len(alone.segments))] * 3
    for one, other in zip(alone.encode_each(jobs), together.encode_each(jobs), strict=True):
        assert one.vectors.tobytes() == other.vectors.tobytes() and one.scale.tobytes() == other.scale.tobytes()
    together.close()


@pytest.mark.parametrize("device", ["cuda:99", "cuda:-1", "abacus", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    """When the encoders are loaded, with the segment's name; and not for a segment that runs elsewhere."""
    bundle = untrained(spec("nasty"), ITEMS, seed=1)
    with pytest.raises(BundleError, match=r"device of user\.liked"):
        SideEncoders(bundle, "user", {"user.liked": device})
    SideEncoders(bundle, "item", {"user.liked": device})


def test_a_list_that_two_segments_read_is_read_once_with_the_same_vectors() -> None:
    """`recent` and `next` of the spec for MovieLens: one entry of `lists`, and vectors as of rows of their own."""
    bundle = untrained(spec("movielens"), ITEMS, seed=1)
    encoders, random = SideEncoders(bundle, "user"), np.random.default_rng(0)
    rows = random.integers(0, 9, (50, bundle.layouts["user"].width))
    hashes = random.integers(0, 9, 50)
    given = StateRows(rows, hashes)
    for place in range(len(encoders.segments)):
        found, alone = encoders.encode_rows(place, given), encoders.encode(place, rows, hashes)
        assert (found.vectors == alone.vectors).all() and (found.scale == alone.scale).all()
        assert (found.newest == alone.newest).all()
    assert len(given.lists) == 1


def test_products_are_in_float32_whatever_a_class_of_ones_own_has_asked_for() -> None:
    """On a CPU that has it, "medium" is bfloat16 in all float32 layers of the process: no platform would say so."""
    bundle, random = untrained(spec("movielens"), ITEMS, seed=1), np.random.default_rng(0)
    place = next(n for n, s in enumerate(bundle.spec.side("user")) if s.name == "recent")
    blank = bundle.reader(bundle.spec.side("user")[place]).blank(200)
    sequence = random.standard_normal(blank.sequence.shape).astype(np.float32)
    inputs = Inputs(blank.dense, sequence, blank.items, blank.length + 30, blank.own)
    before = torch.get_float32_matmul_precision()
    try:
        plain = encode_by_torch(SideEncoders(bundle, "user")._encoders[place], inputs)
        torch.set_float32_matmul_precision("medium")
        encoders = SideEncoders(bundle, "user")
        assert torch.get_float32_matmul_precision() == "highest"
        assert encode_by_torch(encoders._encoders[place], inputs).tobytes() == plain.tobytes()
    finally:
        torch.set_float32_matmul_precision(before)
