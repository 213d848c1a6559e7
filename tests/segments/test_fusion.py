"""The weighted sum: request-time numpy, its torch twin and the definition, a double loop over segment pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forebay.errors import BundleError
from forebay.segments.features import Inputs, SegmentReader, Vocabulary
from forebay.segments.fusion import WeightedSum
from forebay.segments.ids import hash_ids
from forebay.segments.layout import Layout
from forebay.segments.spec import SIDES
from forebay.segments.training import TwoSides

from .models import spec, untrained

RNG = np.random.default_rng(7)
USER = RNG.normal(size=(3, 8)).astype(np.float32)
ITEMS = RNG.normal(size=(50, 2, 8)).astype(np.float32)
FUSION = WeightedSum(RNG.normal(size=(3, 2)).astype(np.float32), 0.25)


def _looped(user: np.ndarray, item: np.ndarray) -> float:
    """Σ w[i, j] · <u_i, v_j> + bias, as it is written."""
    score = FUSION.bias
    for i in range(3):
        for j in range(2):
            for d in range(8):
                score += float(FUSION.weights[i, j]) * float(user[i, d]) * float(item[j, d])
    return score


def test_the_score_is_the_double_loop() -> None:
    """To 1e-6 of the largest, for fifty items at once."""
    scores = FUSION.join(FUSION.user_half(USER), ITEMS)
    expected = [_looped(USER, item) for item in ITEMS]
    assert scores.dtype == np.float32 and scores.shape == (50,)
    assert np.allclose(scores, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_it_folds_to_one_inner_product() -> None:
    """An inner-product index over the items' joined vectors ranks exactly as trained: the query takes in the weights."""
    query = FUSION.user_half(USER)
    assert query.shape == (16,)
    folded = ITEMS.reshape(50, 16).astype(np.float64) @ query.astype(np.float64) + FUSION.bias
    expected = np.array([_looped(USER, item) for item in ITEMS])
    assert np.allclose(folded, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert np.argsort(folded).tolist() == np.argsort(expected).tolist()


def test_shares_sum_to_the_score_without_bias() -> None:
    """Each pair's part, which is what an inspect page shows."""
    for item in ITEMS:
        shares = FUSION.shares(USER, item)
        assert shares.shape == (3, 2)
        assert np.isclose(shares.sum(), _looped(USER, item) - FUSION.bias, rtol=1e-5, atol=1e-5)


def test_a_weight_of_zero_takes_its_pair_out() -> None:
    """Of two segments a side, with one weight set, only that pair counts."""
    weights = np.zeros((3, 2), dtype=np.float32)
    weights[2, 0] = 2.0
    scores = WeightedSum(weights, 0.0).join(WeightedSum(weights, 0.0).user_half(USER), ITEMS)
    assert np.allclose(scores, 2 * ITEMS[:, 0] @ USER[2], atol=1e-5)


def test_no_candidates_is_no_special_case() -> None:
    """A caller may ask to rank nothing."""
    assert FUSION.join(FUSION.user_half(USER), np.zeros((0, 2, 8), dtype=np.float32)).shape == (0,)


def test_a_bundle_without_fusion_weights_is_refused() -> None:
    """By the name of the tensor that is missing."""
    with pytest.raises(BundleError, match=r"fusion\.bias"):
        WeightedSum.from_tensors({"fusion.weights": FUSION.weights})


def test_the_torch_twin_scores_the_same() -> None:
    """The model that is trained and the fusion that is served agree to 1e-6, encoders included, on random inputs."""
    vocabulary = Vocabulary.of(hash_ids(["a", "b"]))
    layouts = {side: Layout.of(spec("nasty"), side) for side in SIDES}
    readers = {s.title: SegmentReader(spec("nasty"), s, layouts[s.side], vocabulary) for s in spec("nasty").segments}
    bundle = untrained(spec("nasty"), vocabulary, seed=3)
    model = TwoSides(spec("nasty"), readers, len(vocabulary)).eval()
    for segment in spec("nasty").segments:
        weights = {n: torch.from_numpy(t) for n, t in bundle.segment_tensors(segment).items()}
        model.encoder(segment).load_state_dict(weights)
    model.weights.data = torch.from_numpy(np.array(bundle.tensors["fusion.weights"]))
    model.bias.data = torch.from_numpy(np.array(bundle.tensors["fusion.bias"]))
    inputs = {s.title: _random_inputs(readers[s.title], 20) for s in spec("nasty").segments}
    sides = [{s.name: inputs[s.title] for s in spec("nasty").side(side)} for side in SIDES]
    with torch.inference_mode():
        twin = model(*sides).numpy()
        user, item = (
            np.stack([model._encode(side, n, i).numpy() for n, i in part.items()], 1)
            for side, part in zip(SIDES, sides, strict=True)
        )
    served = [bundle.fusion.join(bundle.fusion.user_half(u), v[None])[0] for u, v in zip(user, item, strict=True)]
    assert np.allclose(served, twin, rtol=1e-6, atol=1e-6 * np.abs(twin).max())


def _random_inputs(reader: SegmentReader, count: int) -> Inputs:
    random = np.random.default_rng(1)
    return Inputs(
        dense=random.normal(size=(count, reader.dense_width)).astype(np.float32),
        sequence=random.normal(size=(count, reader.list_size, reader.sequence_width)).astype(np.float32),
        items=random.integers(0, 3, (count, reader.list_size)),
        length=random.integers(0, reader.list_size + 1, count),
        own=random.integers(0, 3, count),
    )
