"""What every fusion promises: its torch-free forward is its twin's, split in halves as it likes, and blind to what it
must not see."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from forebay.arrays import Floats
from forebay.errors import BundleError, SpecError
from forebay.segments.fusions.contract import Fusion, InnerProduct, Shape
from forebay.segments.fusions.joinkernels import join_rows
from forebay.segments.fusions.kinds import FUSIONS, build
from forebay.segments.spec import Spec, Use, parse_spec
from forebay.segments.training.twins import TWINS, Twin, twin

# Two widths, so that not every part meets every other; `many` is taken apart into two vectors.
TABLES = """
[label]
positive = "value > 0"
[attributes.item]
genre = { category = ["a", "b", "c"] }
[user.one]
features = [{ count = "events" }]
encoder = { kind = "mlp" }
dim = 8
[user.two]
features = [{ mean = "value" }]
encoder = { kind = "mlp" }
dim = 8
[user.raw]
features = [{ count = "genre" }, { mean = "value", by = "genre" }, { mean = "value" }]
encoder = { kind = "affinity" }
dim = 8
[item.one]
features = [{ count = "events" }]
encoder = { kind = "mlp" }
dim = 8
[item.raw]
features = [{ latest = ["genre"] }]
encoder = { kind = "affinity" }
dim = 4
[item.two]
features = [{ mean = "value" }]
encoder = { kind = "mlp" }
dim = 8
"""


class FusionContract:
    """A new kind adds a subclass with the table that selects it."""

    table: ClassVar[dict[str, Any]]
    use: Use = "rank"

    @pytest.fixture
    def spec(self) -> Spec:
        return parse_spec({**tomllib.loads(TABLES), "fusion": {self.use: self.table}})

    @pytest.fixture
    def twin(self, spec: Spec) -> Twin:
        """With every weight random: a start of zeros would hide half of a fusion."""
        with torch.random.fork_rng():
            torch.manual_seed(3)
            made = twin(spec.fusions[self.use], Shape.of(spec, self.use)).eval()
            with torch.no_grad():
                for weight in made.parameters():
                    weight.normal_(std=0.5)
        return made

    @pytest.fixture
    def fusion(self, spec: Spec, twin: Twin) -> Fusion:
        return build(spec, self.use, {f"fusion.{self.use}.{n}": t.numpy() for n, t in twin.state_dict().items()})

    def test_it_scores_as_its_twin_does(self, fusion: Fusion, twin: Twin) -> None:
        """300 users with 7 candidates each: equal to a millionth of the scores' spread (of float32's rounding, that
        is)."""
        users, items = _vectors(fusion, 300, 7 * 300)
        with torch.inference_mode():
            expected = twin(torch.from_numpy(users.repeat(7, axis=0)), torch.from_numpy(items)).numpy()
        found = np.concatenate([fusion.scores(u, items[7 * i : 7 * i + 7]) for i, u in enumerate(users)])
        assert found.dtype == np.float32 and expected.std() > 0.1
        assert np.abs(found - expected).max() < 5e-6 * np.abs(expected).max()

    def test_halves_do_not_depend_on_their_neighbours(self, fusion: Fusion) -> None:
        """An item's half is computed when the item changes, alone, and kept among thousands."""
        users, items = _vectors(fusion, 1, 50)
        halves = fusion.item_half(items)
        assert halves.shape == (50, fusion.half_width)
        alone = np.concatenate([fusion.item_half(i[None]) for i in items])
        assert (alone == halves).all(), "to the bit: a restart computes together what was computed one by one"
        some = np.random.default_rng(2).permutation(50)[:33]
        assert (fusion.item_half(items[some]) == halves[some]).all()
        query = fusion.user_half(users[0])
        one = np.concatenate([fusion.join(query, h[None]) for h in halves])
        assert np.allclose(one, fusion.join(query, halves), rtol=1e-5, atol=1e-5)

    def test_the_compiled_join_is_the_plain_one(self, fusion: Fusion) -> None:
        """To the bound that joined.py states, of some halves among many; and unknown rows have the half that is given
        for them."""
        users, items = _vectors(fusion, 3, 50)
        halves, rows = fusion.item_half(items), np.array([3, -1, 49, 3, *range(50)])
        for user in users:
            query = fusion.user_half(user)
            joined, plain = fusion.compiled(query), fusion.join(query, halves)
            if joined is None:  # of what numpy's library does faster, and of what folds
                deep = fusion.kind == "concat_fc" and len(fusion.spec.option("hidden", ())) > 1
                assert deep or fusion.kind in ("attention", "weighted_sum", "gated_sum") or ":" in fusion.spec.kind
                continue
            found = np.empty(len(rows), np.float32)
            join_rows(joined, halves, rows, halves[7], found)
            expected = plain[np.where(rows < 0, 7, rows)]
            assert np.abs(found - expected).max() < 1e-5 * np.abs(plain).max()
            spoilt = halves.copy()
            spoilt[5] = np.nan  # what is no number stays none
            join_rows(joined, spoilt, rows, halves[7], found)
            assert np.isnan(found[rows == 5]).all() and np.isnan(found).sum() == 1

    def test_no_candidates_are_no_scores(self, fusion: Fusion) -> None:
        """An empty list is answered, not refused."""
        users, items = _vectors(fusion, 1, 0)
        assert fusion.scores(users[0], items).shape == (0,)

    def test_shares_tell_what_a_segment_adds(self, fusion: Fusion) -> None:
        """A segment at its default vector adds nothing against itself; any other adds something."""
        users, items = _vectors(fusion, 2, 9)
        user, default = users
        user[8:16] = default[8:16]
        if isinstance(fusion, InnerProduct):
            shares = fusion.shares(user, items, default)
            assert np.allclose(shares.sum(1), fusion.scores(user, items) - fusion.bias, atol=1e-4)
            return
        shares = fusion.shares(user, items, default)
        assert shares.shape == (9, 3) and (shares[:, 1] == 0).all()
        assert all(np.abs(shares[:, s]).max() > 1e-3 for s in {p.segment for p in fusion.shape.user} - {1})

    def test_a_missing_tensor_is_named(self, spec: Spec, twin: Twin) -> None:
        """Each one: a bundle of another version must not load half."""
        tensors = {f"fusion.{self.use}.{n}": t.numpy() for n, t in twin.state_dict().items()}
        for name in tensors:
            if ".layers." not in name:
                with pytest.raises(BundleError, match=name):
                    build(spec, self.use, {n: t for n, t in tensors.items() if n != name})

    def test_segments_that_it_does_not_read_do_not_matter(self, twin: Twin) -> None:
        """Named with user = […] and item = […]: whatever is in the other columns, the score is the same."""
        reading = {"user": ["two"], "item": ["one"]}
        spec = parse_spec({**tomllib.loads(TABLES), "fusion": {self.use: {**self.table, **reading}}})
        made = twin_of(spec, self.use)
        fusion = build(spec, self.use, {f"fusion.{self.use}.{n}": t.numpy() for n, t in made.state_dict().items()})
        users, items = _vectors(fusion, 2, 12)
        users[1, 8:16], items[6:, :8] = users[0, 8:16], items[:6, :8]
        scores = fusion.scores(users[0], items)
        assert np.allclose(scores[:6], scores[6:], atol=1e-6) and np.allclose(scores, fusion.scores(users[1], items))
        with torch.inference_mode():
            expected = made(torch.from_numpy(users[:1].repeat(12, axis=0)), torch.from_numpy(items)).numpy()
        assert np.allclose(scores, expected, atol=1e-5)

    def test_halves_have_nothing_of_segments_that_are_not_read(self) -> None:
        """They would take room in each row, and be read with it. What folds keeps no halves, and one's own fusion keeps
        what it likes."""
        reading = {"user": ["one", "two"], "item": ["one", "two"]}
        spec = parse_spec({**tomllib.loads(TABLES), "fusion": {self.use: {**self.table, **reading}}})
        made = twin_of(spec, self.use)
        fusion = build(spec, self.use, {f"fusion.{self.use}.{n}": t.numpy() for n, t in made.state_dict().items()})
        if isinstance(fusion, InnerProduct) or ":" in fusion.spec.kind:
            return
        users, items = _vectors(fusion, 1, 12)
        plain = fusion.scores(users[0], items)
        items[:, 8:12] = np.nan
        halves, query = fusion.item_half(items), fusion.user_half(users[0])
        assert np.isfinite(halves).all() and fusion.half_parts[-1] == fusion.half_width == halves.shape[1]
        np.testing.assert_array_equal(fusion.join(query, halves), plain)
        joined, found = fusion.compiled(query), np.empty(12, np.float32)
        if joined is not None:
            join_rows(joined, halves, np.arange(12), halves[0], found)
            assert np.abs(found - plain).max() < 1e-5 * np.abs(plain).max()


class Folding(FusionContract):
    """What an index serves besides."""

    use: Use = "retrieve"

    def test_it_folds_to_one_inner_product_exactly(self, fusion: Fusion, twin: Twin) -> None:
        """The folded query times an item's vector is the score to 1e-6 of the scores' size; and so it is in
        training."""
        assert isinstance(fusion, InnerProduct) and fusion.indexable
        users, items = _vectors(fusion, 20, 40)
        for user in users:
            folded = items.astype(np.float64) @ fusion.query(user).astype(np.float64) + fusion.bias
            pairs = sum(
                np.float64(fusion.weights(user)[p, q])
                * (items[:, v.start : v.stop].astype(np.float64) @ user[u.start : u.stop].astype(np.float64))
                for p, u in enumerate(fusion.shape.user)
                for q, v in enumerate(fusion.shape.item)
                if u.width == v.width
            )
            assert np.abs(folded - (pairs + fusion.bias)).max() < 1e-6 * np.abs(folded).max()
        with torch.inference_mode():
            queries = twin.query(torch.from_numpy(users)).numpy()  # type: ignore[operator]
        assert np.allclose(queries, [fusion.query(u) for u in users], atol=1e-5)


class TestWeightedSum(Folding):
    table: ClassVar = {"kind": "weighted_sum"}


class TestGatedSum(Folding):
    table: ClassVar = {"kind": "gated_sum"}


class TestMaxSim(FusionContract):
    table: ClassVar = {"kind": "maxsim"}


class TestAffinity(FusionContract):
    table: ClassVar = {"kind": "affinity", "hidden": 16}


class TestConcatFc(FusionContract):
    table: ClassVar = {"kind": "concat_fc", "hidden": [16, 8]}


class TestConcatFcOfOneLayer(FusionContract):
    table: ClassVar = {"kind": "concat_fc", "hidden": [16]}


class TestConcatConv(FusionContract):
    table: ClassVar = {"kind": "concat_conv", "channels": 4, "user": ["one", "two"], "item": ["one", "two"]}


class TestConcatConvWide(FusionContract):
    table: ClassVar = {"kind": "concat_conv", "channels": 2, "window": 5, "user": ["one"], "item": ["one", "two"]}


class TestAttention(FusionContract):
    table: ClassVar = {"kind": "attention", "heads": 4, "user": ["one", "two"], "item": ["one", "two"]}


class TestAFusionOfOnesOwn(FusionContract):
    """The example of docs/own-fusion.md."""

    table: ClassVar = {"kind": "tests_own_fusion:BestPair", "version": "1"}

    @pytest.fixture(autouse=True)
    def modules(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        text = (Path(__file__).parents[3] / "docs" / "own-fusion.md").read_text(encoding="utf-8")
        for name, block in zip(("tests_own_fusion", "tests_own_twin"), text.split("```python\n")[1:], strict=True):
            (tmp_path / f"{name}.py").write_text(block.split("```")[0].replace("mypackage.twins", "tests_own_twin"))
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        yield
        for name in ("tests_own_fusion", "tests_own_twin"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", ["no_such_module:X", "math:pi", "math:tau2"])
def test_a_class_that_cannot_be_had_is_named(kind: str) -> None:
    """When the bundle's fusions are made, not when the spec is read; one without a version is refused at once."""
    spec = parse_spec({**tomllib.loads(TABLES), "fusion": {"rank": {"kind": kind, "version": "1"}}})
    with pytest.raises(BundleError, match=r"\[fusion\] rank"):
        build(spec, "rank", {})
    with pytest.raises(SpecError, match="no version"):
        parse_spec({**tomllib.loads(TABLES), "fusion": {"rank": {"kind": kind}}})


def test_every_kind_is_under_the_contract() -> None:
    """A fusion without a subclass here is not one that people can trust."""
    tested = {
        c.table["kind"] for c in [*FusionContract.__subclasses__(), *Folding.__subclasses__()] if c is not Folding
    }
    assert {kind for kind in tested if ":" not in kind} == set(FUSIONS) == set(TWINS)


def twin_of(spec: Spec, use: Use) -> Twin:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = twin(spec.fusions[use], Shape.of(spec, use)).eval()
        with torch.no_grad():
            for weight in made.parameters():
                weight.normal_(std=0.5)
    return made


def _vectors(fusion: Fusion, users: int, items: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(2)
    shape = fusion.shape
    return (
        random.normal(size=(users, shape.user_dim)).astype(np.float32),
        random.normal(size=(items, shape.item_dim)).astype(np.float32),
    )
