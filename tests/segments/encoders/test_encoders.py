"""Law 3, the encoders' part: a row's vector is the same, bit for bit, whoever computes it and whatever is computed
beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch

import forebay
from forebay.arrays import Floats, Ints
from forebay.events import Behaviour
from forebay.segments.bundle import Bundle
from forebay.segments.encoders import (
    CANONICAL,
    ENCODERS,
    Aligned,
    SegmentEncoder,
    build,
    encode,
    encode_by_torch,
    tensors,
)
from forebay.segments.encoders import compiled as kernels
from forebay.segments.encoders.compiled import compiled
from forebay.segments.spec import SIDES, SegmentSpec, Spec, parse_spec
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import Inputs, SegmentReader, Vocabulary

from ..models import spec, untrained
from ..played import Played
from . import plain

ITEMS = Vocabulary.of(hash_ids([f"i{n}" for n in range(40)]))
Way: TypeAlias = Callable[[SegmentEncoder, Inputs], Floats]
WAYS = pytest.mark.parametrize("run", [encode, encode_by_torch])  # a kernel where there is one; a GPU has torch alone
SIZES = (1, 2, 7, CANONICAL - 1, CANONICAL, CANONICAL + 1, 300)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch's thread count is the process's: it is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _random_inputs(reader: SegmentReader, count: int, seed: int = 0, size: float = 1.0) -> Inputs:
    random = np.random.default_rng(seed)
    length = random.integers(0, reader.list_size + 1, count)
    used = np.arange(reader.list_size) < length[:, None]
    sequence = random.normal(size=(count, reader.list_size, reader.sequence_width)) * size
    return Inputs(
        dense=(random.normal(size=(count, reader.dense_width)) * size).astype(np.float32),
        sequence=(sequence * used[:, :, None]).astype(np.float32),
        items=random.integers(0, len(ITEMS) + 1, (count, reader.list_size)) * used,
        length=length,
        own=random.integers(0, len(ITEMS) + 1, count),
    )


# The kinds that no other spec of the tests has.
EVERY = parse_spec(
    tomllib.loads("""
[label]
positive = "value > 0"
[attributes.item]
genres = { set = ["war", "love", "crime"] }
[user.bag]
features = [{ last = 20, of = ["item", "value", "age"] }, { count = "events" }]
encoder = { kind = "bag", embedding = 24 }
dim = 8
[user.plain_bag]
features = [{ last = 5, of = ["item"] }]
encoder = { kind = "bag" }
dim = 8
[user.gru]
features = [{ last = 12, of = ["item", "genres", "value"] }, { mean = "value" }]
encoder = { kind = "gru", hidden = 20 }
dim = 8
[user.interests]
features = [{ last = 10, of = ["item", "value"] }]
encoder = { kind = "attention_pool", queries = 4, hidden = 16, vectors = 4 }
dim = 32
[user.affinity]
features = [
  { mean = "value", by = "genres" }, { count = "genres" },
  { count = "genres", where = "value > 3" }, { mean = "value" },
]
encoder = { kind = "affinity" }
dim = 12
[user.own]
features = [{ last = 6, of = ["item", "value"] }]
encoder = { kind = "tests_own_encoder:LastItem", version = "1", width = 12 }
dim = 8
[item.content]
features = [{ latest = ["genres"] }]
encoder = { kind = "mlp" }
dim = 8
[item.affinity]
features = [{ latest = ["genres"] }]
encoder = { kind = "affinity" }
dim = 4
""")
)


@pytest.fixture(autouse=True, scope="module")
def own_encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The example of docs/own-encoder.md as a module that can be imported."""
    folder = tmp_path_factory.mktemp("own")
    text = (Path(__file__).parents[3] / "docs" / "own-encoder.md").read_text(encoding="utf-8")
    (folder / "tests_own_encoder.py").write_text(text.split("```python\n")[1].split("```")[0])
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("tests_own_encoder", None)


class EncoderContract:
    """What every encoder promises. A new kind adds a subclass with a segment that uses it."""

    of: str  # the spec that has the segment
    title: str

    @property
    def spec(self) -> Spec:
        return EVERY if self.of == "every" else spec(self.of)

    @property
    def segment(self) -> SegmentSpec:
        return next(s for s in self.spec.segments if s.title == self.title)

    @property
    def reader(self) -> SegmentReader:
        return SegmentReader(self.spec, self.segment, Layout.of(self.spec, self.segment.side), ITEMS)

    def encoder(self) -> SegmentEncoder:
        torch.manual_seed(5)
        encoder = build(self.reader, len(ITEMS), self.segment)
        if encoder.scaled:
            encoder.mean.normal_()
            encoder.scale.uniform_(0.5, 2.0)
        return encoder

    def test_vectors_have_the_segments_shape(self) -> None:
        """float32 [n, dim] for any n, none included."""
        for count in (0, *SIZES):
            vectors = encode(self.encoder(), _random_inputs(self.reader, count))
            assert vectors.shape == (count, self.segment.dim) and vectors.dtype == np.float32

    @WAYS
    def test_a_vector_does_not_depend_on_the_number_of_rows(self, run: Way) -> None:
        """Law 3: alone, in half a batch and in three, every row has the same bits."""
        encoder, inputs = self.encoder(), _random_inputs(self.reader, max(SIZES))
        whole = run(encoder, inputs)
        for count in SIZES:
            assert run(encoder, inputs.take(slice(0, count))).tobytes() == whole[:count].tobytes(), count

    @WAYS
    def test_a_vector_does_not_depend_on_its_place(self, run: Way) -> None:
        """Law 3: rows in another order give the same rows in that order."""
        encoder, inputs = self.encoder(), _random_inputs(self.reader, 300)
        order = np.random.default_rng(1).permutation(300)
        assert run(encoder, inputs.take(order)).tobytes() == run(encoder, inputs)[order].tobytes()

    @WAYS
    def test_a_vector_does_not_depend_on_its_neighbours(self, run: Way) -> None:
        """Law 3: other rows, extreme ones too, leave it as it was."""
        encoder, one = self.encoder(), _random_inputs(self.reader, 1)
        alone = run(encoder, one)
        for size in (1.0, 1e15):
            crowd = _random_inputs(self.reader, 200, seed=9, size=size)
            for field, array in vars(one).items():
                getattr(crowd, field)[77] = array[0]
            assert run(encoder, crowd)[77].tobytes() == alone[0].tobytes(), size

    @WAYS
    def test_two_threads_give_the_bits_of_one(self, run: Way, two_threads: None) -> None:
        """Law 3."""
        encoder, inputs = self.encoder(), _random_inputs(self.reader, 300)
        vectors = run(encoder, inputs)
        torch.set_num_threads(1)
        assert run(encoder, inputs).tobytes() == vectors.tobytes()

    @pytest.mark.parametrize("fitted", [True, False])
    def test_a_kernel_computes_what_torch_does(self, fitted: bool) -> None:
        """Up to the last bits of a float32, within bounds and beyond them; and exactly what its plain twin does."""
        encoder, inputs = self.encoder(), _random_inputs(self.reader, 60, seed=3)
        if fitted:
            encoder.fit(_random_inputs(self.reader, 40, seed=4, size=0.5))
        found, by_torch = encode(encoder, inputs), encode_by_torch(encoder, inputs)
        assert np.allclose(found, by_torch, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(by_torch).max())))
        if compiled(encoder) is None:
            return
        for row in range(0, 60, 3):
            assert found[row].tobytes() == plain.vector(encoder, inputs, row).tobytes(), row

    def test_a_row_moves_its_own_vector_only(self) -> None:
        """Read off `forward` in training's way, without canonical batches: no statistics of the batch are used."""
        encoder, inputs = self.encoder().eval(), _random_inputs(self.reader, 6)
        assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in encoder.modules())
        before = encode(encoder, inputs)
        for array in vars(inputs).values():
            array[2] = 1 if array.size and array.dtype == np.int64 else 0.5
        assert (encode(encoder, inputs) != before).any(axis=1).tolist() == [False, False, True, False, False, False]

    @pytest.mark.parametrize("size", [0.0, 1e6, 1e15])
    def test_any_input_gives_a_finite_vector(self, size: float) -> None:
        """1e15 bounds what a number attribute may be; lists are empty, half full and full."""
        assert np.isfinite(encode(self.encoder(), _random_inputs(self.reader, 50, size=size))).all()

    def test_an_empty_state_has_the_default_vector(self) -> None:
        """What stands in for a missing segment is what the encoder makes of nothing, to the bit, in any batch."""
        bundle = untrained(self.spec, ITEMS, seed=2)
        place = bundle.spec.side(self.segment.side).index(self.segment)
        encoder = build(self.reader, len(ITEMS), self.segment)
        encoder.load_state_dict({n: torch.from_numpy(t) for n, t in bundle.segment_tensors(self.segment).items()})
        rows = np.zeros((3, bundle.layouts[self.segment.side].width), dtype=np.int64)
        vectors = encode(encoder, bundle.reader(self.segment).read(rows, np.zeros(3, dtype=np.int64)))
        start = sum(s.dim for s in bundle.spec.side(self.segment.side)[:place])
        default = bundle.defaults(self.segment.side)[start : start + self.segment.dim]
        assert vectors.tobytes() == default.tobytes() * 3


class TestMlp(EncoderContract):
    of, title = "movielens", "user.taste"


class TestMlpOverAnId(EncoderContract):
    of, title = "movielens", "item.id"


class TestMlpOverIdAndAttributes(EncoderContract):
    of, title = "nasty", "item.id"


class TestAttentionPool(EncoderContract):
    of, title = "movielens", "user.recent"

    def test_an_empty_list_is_the_last_layers_bias(self) -> None:
        """Nothing is pooled: not a mean over padding."""
        encoder = self.encoder()
        empty = _random_inputs(self.reader, 1, size=0)
        empty.length[:] = 0
        assert encode(encoder, empty)[0].tobytes() == encoder.out.bias.detach().numpy().tobytes()

    def test_padding_weighs_nothing_against_extreme_entries(self) -> None:
        """Entries whose logits are far below any constant still outweigh the unused places."""
        encoder = self.encoder()
        one = _random_inputs(self.reader, 1, size=0)
        one.length[:], one.sequence[:, 0], one.sequence[:, 1:] = 1, 1e15, 0
        short = Inputs(one.dense, one.sequence[:, :1].copy(), one.items[:, :1].copy(), one.length, one.own)
        assert np.allclose(encode(encoder, one), encode(encoder, short), rtol=1e-5)


class TestAttentionPoolOverAListAndDenseFeatures(EncoderContract):
    of, title = "nasty", "user.recent"


class TestAttentionPoolOfSeveralVectors(EncoderContract):
    of, title = "every", "user.interests"


class TestBag(EncoderContract):
    of, title = "every", "user.bag"

    def test_the_order_of_a_bag_does_not_matter(self) -> None:
        """It is a sum: the same entries the other way round give nearly the same vector."""
        inputs = _random_inputs(self.reader, 20)
        inputs.length[:] = 20
        back = Inputs(
            inputs.dense, inputs.sequence[:, ::-1].copy(), inputs.items[:, ::-1].copy(), inputs.length, inputs.own
        )
        assert np.allclose(encode(self.encoder(), inputs), encode(self.encoder(), back), atol=1e-5)


class TestBagOfItemsAlone(EncoderContract):
    of, title = "every", "user.plain_bag"


class TestGru(EncoderContract):
    of, title = "every", "user.gru"

    def test_it_is_torchs_own_recurrence(self) -> None:
        """Against nn.GRU with the same weights, each list cut to its length."""
        encoder, inputs = self.encoder().eval(), _random_inputs(self.reader, 30)
        entry = encoder.embedding.embedding_dim + self.reader.sequence_width
        torchs = torch.nn.GRU(entry, 20, batch_first=True)
        with torch.inference_mode():
            torchs.weight_ih_l0.copy_(encoder.enter.weight)
            torchs.weight_hh_l0.copy_(encoder.recur.weight)
            torchs.bias_ih_l0.copy_(encoder.enter.bias)
            torchs.bias_hh_l0.copy_(encoder.recur.bias)
            dense, sequence, items, length, own = tensors(inputs)
            states = []
            for row, count in enumerate(length.tolist()):
                entries = torch.cat([encoder.embedding(items[row, :count]), sequence[row, :count]], -1)
                states.append(torchs(entries[None])[1][0, 0] if count else torch.zeros(20))
            expected = encoder.out(torch.stack(states), encoder.dense(dense, own)).numpy()
        assert np.allclose(encode(encoder, inputs), expected, atol=1e-5)

    def test_its_order_matters(self) -> None:
        """Else it would be a bag."""
        inputs = _random_inputs(self.reader, 20)
        inputs.length[:] = 12
        back = Inputs(
            inputs.dense, inputs.sequence[:, ::-1].copy(), inputs.items[:, ::-1].copy(), inputs.length, inputs.own
        )
        assert not np.allclose(encode(self.encoder(), inputs), encode(self.encoder(), back), atol=1e-3)


class TestAffinityOfAUser(EncoderContract):
    of, title = "every", "user.affinity"

    def test_it_is_what_it_says(self) -> None:
        """Three ratings by hand: 5 for a war film, 1 and 3 for two love films; unknown comes first."""
        with Played(self.spec, "user") as played:
            played.apply(
                [
                    Behaviour("u", f"i{n}", "", value, 1000 + n, f"e{n}", {"genres": [genre]})
                    for n, (value, genre) in enumerate([(5.0, "war"), (1.0, "love"), (3.0, "love")])
                ]
            )
            vector = encode(self.encoder(), self.reader.read(played.row("u")[None], np.zeros(1, np.int64)))[0]
        likes = [0, 10 * (5 - 3) / 6, 10 * (1 + 3 - 2 * 3) / 7, 0]
        assert vector == pytest.approx([*likes, 0, 10 / 3, 20 / 3, 0, 0, 10, 0, 0], abs=1e-5)


class TestAffinityOfAnItem(EncoderContract):
    of, title = "every", "item.affinity"

    def test_keys_share_one(self) -> None:
        """Two genres are a half each, so that an inner product with a user is the mean over them; none is the unknown
        one."""
        inputs = self.reader.blank(3)
        inputs.dense[:] = [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
        assert encode(self.encoder(), inputs).tolist() == [[0, 0.5, 0.5, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


class TestAnEncoderOfOnesOwn(EncoderContract):
    """The example of docs/own-encoder.md."""

    of, title = "every", "user.own"


def test_equal_rows_are_equal_at_every_place() -> None:
    """Law 3 for layers of every width: plain linear ones of 2 to 11 outputs gave two results to one row."""
    with torch.inference_mode():
        for inputs in [*range(1, 40), 63, 65, 130]:
            rows = torch.randn(1, inputs).expand(CANONICAL, inputs).contiguous()
            for outputs in [*range(1, 14), 31, 32]:
                vectors = Aligned(inputs, outputs)(rows)
                assert torch.equal(vectors, vectors[:1].expand_as(vectors)), f"{inputs} to {outputs}"


def test_an_item_that_is_projected_each_time_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the projections of all items would take too much memory."""
    one = TestAttentionPoolOverAListAndDenseFeatures()
    encoder, inputs = one.encoder(), _random_inputs(one.reader, 50)
    whole = encode(encoder, inputs)
    monkeypatch.setattr(kernels, "PROJECTED_BYTES", 0)
    assert encode(encoder, inputs).tobytes() == whole.tobytes()


def test_what_is_no_number_is_told_and_harms_no_neighbour() -> None:
    """A row of infinities gives a row that is not finite; kernels read nothing beyond their arrays for it."""
    one = TestAttentionPool()
    encoder, inputs = one.encoder(), _random_inputs(one.reader, 9)
    inputs.length[4], inputs.sequence[4, 0] = one.reader.list_size, np.inf
    found = np.isfinite(encode(encoder, inputs)).all(axis=1)
    assert found.tolist() == [row != 4 for row in range(9)]


def test_every_kind_of_encoder_is_held_to_the_contract() -> None:
    """A kind that is added without a subclass fails here."""
    held = {c().segment.encoder.kind for c in EncoderContract.__subclasses__()}
    assert {kind for kind in held if ":" not in kind} == set(ENCODERS)


IN_ANOTHER_PROCESS = """
import sys, hashlib, numpy as np, torch
from pathlib import Path
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
folder, threads = Path(sys.argv[1]), int(sys.argv[2])
bundle = Bundle.load(next(folder.glob("[0-9a-f]*")))
for side in ("user", "item"):
    saved = np.load(folder / f"{side}.npz")
    encoders = SideEncoders(bundle, side)
    torch.set_num_threads(threads)
    for place in range(len(encoders.segments)):
        parts = [encoders.encode(place, saved["rows"][c], saved["hashes"][c]) for c in (slice(0, 3), slice(3, 200))]
        digest = hashlib.sha256(np.concatenate([p.vectors for p in parts]).tobytes())
        digest.update(np.concatenate([p.scale for p in parts]).tobytes())
        print(digest.hexdigest())
"""


def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    """Law 3: a worker and a backfill are two processes, cut their batches elsewhere and may have other thread
    counts."""
    import hashlib

    from forebay.segments.sideencoders import SideEncoders

    bundle = untrained(spec("movielens"), ITEMS, seed=8)
    bundle.save(tmp_path)
    expected = []
    for side in SIDES:
        rows, hashes = _random_rows(bundle, side == "user"), ITEMS.hashes[np.arange(200) % len(ITEMS)]
        np.savez(tmp_path / f"{side}.npz", rows=rows, hashes=hashes)
        encoders = SideEncoders(bundle, side)
        for place in range(len(encoders.segments)):
            encoded = encoders.encode(place, rows, hashes)
            digest = hashlib.sha256(encoded.vectors.tobytes())
            digest.update(encoded.scale.tobytes())
            expected.append(digest.hexdigest())
    source = str(Path(forebay.__file__).parents[1])
    answered = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path), "2"],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert answered.stdout.split() == expected


def _random_rows(bundle: Bundle, user: bool) -> Ints:
    """Rows whose columns hold small numbers, lists in use to a random length."""
    layout = bundle.layouts["user" if user else "item"]
    random = np.random.default_rng(4)
    rows = random.integers(0, 5000, (200, layout.width))
    for block in layout.blocks:
        if block.feature.kind == "last":
            rows[:, block.offset] = random.integers(0, block.feature.size + 1, 200)
            times = rows[:, block.offset + 1 : block.offset + block.size : block.stride]
            times[:] = np.sort(times, axis=1)
    return rows
