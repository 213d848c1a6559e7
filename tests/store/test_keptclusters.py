"""Clusters that outlast the process: a start puts rows into their lists, and trains none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_128_digest

from forebay.segments.bundle import Bundle
from forebay.segments.quantize import quantize
from forebay.segments.spec import SIDES
from forebay.store.codec import codec_of
from forebay.store.faissbuild import Clusters
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.generation import Generation
from forebay.store.index import ItemIndex
from forebay.store.indexkeeper import IndexOptions
from forebay.store.indexsearch import Probes
from forebay.store.keptclusters import ClusterFile
from forebay.store.servingcopy import ServingCopy

NOW = 1_790_000_000_000
SOME = IndexOptions(flat_rows=100, pause_share=0)


@pytest.fixture
def kept(tmp_path: Path) -> ClusterFile:
    return ClusterFile(tmp_path / "vectors.clusters", "bundle")


def _made(n: int, file: ClusterFile, seed: int = 0) -> ItemIndex:
    """An index of `n` random rows, in lists."""
    index = ItemIndex(np.array([0, 8]), SOME, file=file)
    codes, scales = quantize(np.random.default_rng(seed).standard_normal((n, 8), np.float32))
    index.upsert(np.arange(n), codes, scales[:, None])
    index.settle()
    assert index.frozen is not None
    return index


def test_what_was_saved_is_loaded(kept: ClusterFile) -> None:
    assert kept.load(3) is None
    clusters = Clusters(np.eye(3, dtype=np.float32))
    kept.save(clusters, Probes(2, 7))
    found = kept.load(3)
    assert found is not None and found[1] == Probes(2, 7)
    np.testing.assert_array_equal(found[0].centroids, clusters.centroids)


def test_what_is_of_other_vectors_or_damaged_is_not_used(kept: ClusterFile, caplog: pytest.LogCaptureFixture) -> None:
    """Any byte counts, and a file that ends early."""
    kept.save(Clusters(np.eye(3, dtype=np.float32)), Probes(2, 7))
    assert ClusterFile(kept.path, "another").load(3) is None and kept.load(4) is None and not caplog.text
    whole = kept.path.read_bytes()
    for at in range(len(whole)):
        kept.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert kept.load(3) is None
        kept.path.write_bytes(whole[:at])
        assert kept.load(3) is None
    assert caplog.text.count("trained anew") == 2 * len(whole)
    other = b"\x02\x00\x00\x00{}"  # whole, and of another version
    kept.path.write_bytes(xxh3_128_digest(other) + other)
    assert kept.load(3) is None


def test_a_disk_that_does_not_take_it_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ClusterFile(tmp_path / "nowhere" / "clusters", "bundle").save(Clusters(np.eye(3, dtype=np.float32)), Probes(2, 7))
    assert "is not written" in caplog.text


def test_an_index_begins_with_the_clusters_of_the_one_before(
    kept: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its rows are others. Where there are many more of them, or few, clusters are trained anew."""
    first = _made(3_000, kept).frozen
    assert first is not None
    with monkeypatch.context() as patched:
        patched.setattr(Clusters, "trained", None)
        again = _made(2_500, kept, seed=1)
    assert again.frozen is not None
    np.testing.assert_array_equal(again.frozen.ivf.centroids, first.ivf.centroids)
    assert again.frozen.probes == first.probes and len(again.frozen.ivf) == 2_500
    query = np.random.default_rng(2).standard_normal(8, np.float32)
    rows, products = again.search(query, 10)
    exact = ItemIndex(np.array([0, 8]))
    codes, scales = quantize(np.random.default_rng(1).standard_normal((2_500, 8), np.float32))
    exact.upsert(np.arange(2_500), codes, scales[:, None])
    assert len(set(rows.tolist()) & set(exact.search(query, 10)[0].tolist())) >= 8 and len(products) == 10
    for n in 60_000, 120:
        other = _made(n, kept).frozen
        assert other is not None and other.ivf.lists != first.ivf.lists


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_a_copy_keeps_them_beside_its_store(
    kind: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start of either trains nothing: after a restart of the machine shared tables are made anew."""
    generation = Generation.new("g1", bundle.hash, dict.fromkeys(SIDES, 1), {})

    def opened(folder: str) -> ServingCopy | FeedingCopy:
        if kind == "own":
            return ServingCopy.open(bundle, generation, tmp_path / "vectors", index=SOME)
        return FeedingCopy.open(bundle, generation, tmp_path / "vectors", tmp_path / folder, index=SOME)

    codec, ids = codec_of(bundle, "item"), [f"i{n}" for n in range(300)]
    rows = codec.empty(len(ids))
    for slot in codec.segments:
        part = rows["segments"][slot.name]
        part["vector"] = np.random.default_rng(1).integers(-127, 128, (len(ids), slot.dim))
        part["scale"], part["as_of"] = 0.01, NOW
    copy = opened("tables")
    copy.load()
    copy.write("item", [(e, 0, v) for e, v in zip(ids, codec.pack(rows, ids), strict=True)], [], {0: NOW}, {})
    copy._index.settle()
    before = copy._index.keeper.frozen
    assert before is not None
    centroids = before.ivf.centroids.copy()
    copy.close()
    monkeypatch.setattr(Clusters, "trained", None)
    copy = opened("others")
    copy.load()
    copy._index.settle()
    after = copy._index.keeper.frozen
    assert after is not None and len(after.ivf) == 300
    np.testing.assert_array_equal(after.ivf.centroids, centroids)
    copy.close()
