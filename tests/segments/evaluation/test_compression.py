"""Smaller vectors come back close to what they were; smaller encoders are really smaller, and still encoders."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.segments.bundle import Bundle
from forebay.segments.evaluation.compression.encoders import int8_weights, parameters, pruned
from forebay.segments.evaluation.compression.vectors import Float32, ProductQuantizer, VectorCodec, codecs
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, parse_spec
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.readout import Vocabulary

from ..models import spec, tables
from ..models import untrained as untrained_bundle

ITEMS = Vocabulary.of(hash_ids(["i1", "i2"]))


def _vectors(count: int = 2000) -> np.ndarray:
    """Near a few directions, as those of a trained encoder are."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(20, 32))
    return (centres[random.integers(0, 20, count)] + random.normal(size=(count, 32)) * 0.3).astype(np.float32)


@pytest.mark.parametrize("codec", codecs(), ids=lambda c: c.name)
def test_a_codec_gives_back_nearly_what_it_was_given(codec: VectorCodec) -> None:
    """Of vectors that it was not fitted on; zeros stay near zero, and no codec moves one row for another's sake."""
    vectors, more = _vectors()[:1000], _vectors()[1000:]
    codec.fit(vectors)
    restored = codec.restored(more)
    assert restored.shape == more.shape and restored.dtype == np.float32
    error = np.linalg.norm(restored - more) / np.linalg.norm(more)
    assert error <= {"f32": 0.0, "f16": 1e-3, "int8": 0.01, "int4": 0.15, "PQ": 0.3, "1 bit": 0.7}[codec.name]
    assert np.allclose(codec.restored(more[:7]), restored[:7], atol=1e-6)
    assert np.abs(codec.restored(np.zeros((2, 32), np.float32))).max() < 0.75


def test_codecs_are_listed_from_large_to_small() -> None:
    """Bytes of 32 dimensions, scales included."""
    assert [c.bytes_of(32) for c in codecs()] == [128, 64, 36, 20, 8, 8]


def test_the_product_quantizer_learns() -> None:
    """Fitted on the data it is several times nearer than on other data; a part that does not divide is kept."""
    vectors = _vectors()
    own, other = ProductQuantizer(), ProductQuantizer()
    own.fit(vectors)
    other.fit(np.random.default_rng(1).normal(size=(300, 32)).astype(np.float32) * 5)
    errors = [float(np.linalg.norm(q.restored(vectors) - vectors)) for q in (own, other)]
    assert errors[0] * 3 < errors[1]
    odd = vectors[:, :30]
    own.fit(odd)
    assert own.restored(odd).shape == odd.shape and own.bytes_of(30) == 8


def test_int8_weights_are_near_and_few() -> None:
    """About a quarter of the bytes; every vector within a few hundredths of what it was; raw segments untouched."""
    bundle = untrained_bundle(spec("nasty"), ITEMS, seed=2)
    small, before, after = int8_weights(bundle)
    assert after < before / 2 and small.hash != bundle.hash
    for side in SIDES:
        a, b = (_encoded(x, side) for x in (bundle, small))
        assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_pruning_makes_layers_smaller() -> None:
    """Half of the units are gone from weights and spec; what is left loads, encodes and is a bundle of its own."""
    data = tables("nasty")
    for side in SIDES:
        for segment in data[side].values():
            hidden = 32 if segment["encoder"]["kind"] == "attention_pool" else [32, 32]
            segment["encoder"]["hidden"] = hidden
    bundle = untrained_bundle(parse_spec(data), ITEMS, seed=2)
    half = pruned(bundle, 0.5)
    assert parameters(half) < 0.65 * parameters(bundle)
    assert half.tensors["user.counts.layers.0.weight"].shape[0] == 16
    assert half.tensors["user.recent.attend.weight"].shape == (2, 16)
    assert {s.encoder.option("hidden", None) for s in half.spec.segments} == {(16, 16), 16}
    for side in SIDES:
        assert _encoded(half, side).shape == _encoded(bundle, side).shape


def test_units_that_do_nothing_are_pruned_first() -> None:
    """Half of a layer has no way out: without it every vector is what it was."""
    data = tables("nasty")
    data["item"]["content"]["encoder"]["hidden"] = [32]
    bundle = untrained_bundle(parse_spec({**data}), ITEMS, seed=2)
    tensors = {n: t.copy() for n, t in bundle.tensors.items()}
    idle = np.random.default_rng(0).permutation(32)[:16]
    tensors["item.content.layers.3.weight"][:, idle] = 0
    before = Bundle(bundle.spec, tensors)
    place = [s.title for s in before.spec.side("item")].index("item.content")
    after = pruned(before, 0.5)
    assert after.tensors["item.content.layers.0.weight"].shape[0] == 16
    columns = slice(place * 8, place * 8 + 8)
    assert np.allclose(_encoded(before, "item")[:, columns], _encoded(after, "item")[:, columns], atol=1e-5)


def test_pruning_nothing_changes_nothing() -> None:
    """The same units in the same order."""
    bundle = untrained_bundle(spec("nasty"), ITEMS, seed=2)
    same = pruned(bundle, 0.0)
    for side in SIDES:
        assert np.array_equal(_encoded(same, side), _encoded(bundle, side))


def test_float32_is_the_vector_itself() -> None:
    """What the others are measured against."""
    vectors = _vectors(3)
    assert Float32().restored(vectors) is vectors


def _encoded(bundle: Bundle, side: str) -> np.ndarray:
    layout = bundle.layouts[side]  # type: ignore[index]
    rows = np.zeros((40, layout.width), dtype=np.int64)
    for block in layout.blocks:
        if block.feature.kind != "last":
            rows[:, block.offset : block.offset + block.size] = np.random.default_rng(3).integers(
                0, 8, (40, block.size)
            )
    return SideEncoders(bundle, side).encode_exact(rows, np.arange(40))  # type: ignore[arg-type]
