"""What FAISS does: clusters that are the same each time, and exact search in bulk; and which FAISS it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from forebay.arrays import Ints
from forebay.errors import ConfigError
from forebay.store import faissbuild
from forebay.store.faissbuild import Clusters, best_of_many


def test_clusters_are_the_same_each_time_and_nearest_by_product() -> None:
    vectors = np.random.default_rng(0).standard_normal((2_000, 12)).astype(np.float32)
    one, other = Clusters.trained(vectors, 16), Clusters.trained(vectors, 16)
    np.testing.assert_array_equal(one.centroids, other.centroids)
    np.testing.assert_allclose(np.linalg.norm(one.centroids, axis=1), 1, rtol=1e-5)
    products = np.sort(vectors @ one.centroids.T, axis=1)
    clear = products[:, -1] - products[:, -2] > 1e-5
    assert (one.nearest(vectors)[clear] == np.argmax(vectors @ one.centroids.T, axis=1)[clear]).all()
    assert len(one.nearest(np.empty((0, 12), np.float32))) == 0


def test_a_thread_beside_lookups_puts_vectors_into_the_same_lists() -> None:
    """By FAISS on one core, in place of NumPy on all of them; more than a block of vectors."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((2_000, 12)).astype(np.float32)
    clusters = Clusters(random.standard_normal((16, 12)).astype(np.float32))

    def beside() -> Ints:
        faissbuild.few_threads()
        return clusters.nearest(vectors)

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(beside).result()
    products = np.sort(vectors @ clusters.centroids.T, axis=1)
    clear = products[:, -1] - products[:, -2] > 1e-5
    np.testing.assert_array_equal(clusters.nearest(vectors)[clear], found[clear])


def test_columns_that_no_sample_has_are_neither_trained_nor_read() -> None:
    """They would only be multiplied with zeros: the clusters are those of the other columns alone."""
    random = np.random.default_rng(3)
    vectors = random.standard_normal((1_000, 12)).astype(np.float32)
    sample, read = np.zeros_like(vectors), [2, 3, 7]
    sample[:, read] = vectors[:, read]
    wide, narrow = Clusters.trained(sample, 16), Clusters.trained(vectors[:, read], 16)
    np.testing.assert_array_equal(wide.centroids[:, read], narrow.centroids)
    assert not np.delete(wide.centroids, read, axis=1).any()
    other = vectors.copy()
    other[:, [0, 11]] = np.nan  # an IEEE product with zero would be NaN, and no list the nearest
    np.testing.assert_array_equal(wide.nearest(other), narrow.nearest(vectors[:, read]))
    assert Clusters.trained(np.zeros((20, 4), np.float32), 2).nearest(vectors[:5, :4]).tolist() == [0] * 5


def test_many_queries_are_answered_exactly_part_by_part() -> None:
    random = np.random.default_rng(1)
    vectors, queries = random.standard_normal((500, 6)).astype(np.float32), random.standard_normal((7, 6))
    parts = [(np.arange(at, at + 90), vectors[at : at + 90]) for at in range(0, 450, 90)]
    parts.insert(2, (np.empty(0, np.int64), np.empty((0, 6), np.float32)))
    found = best_of_many(parts, queries.astype(np.float32), 20)
    np.testing.assert_array_equal(found, np.argsort(-(queries @ vectors[:450].T), axis=1)[:, :20])
    assert best_of_many(parts[:1], queries.astype(np.float32), 100)[0, 90:].tolist() == [-1] * 10


def test_two_distributions_are_refused_by_name() -> None:
    """Each has overwritten files of the other."""

    def both(name: str) -> str:
        if name in ("faiss-cpu", "faiss-gpu"):
            return "1.2"
        raise PackageNotFoundError(name)

    with pytest.raises(ConfigError, match=r"faiss-cpu 1\.2 and faiss-gpu 1\.2 are installed") as caught:
        faissbuild.one_installed(both)
    assert "pip uninstall faiss-cpu faiss-gpu" in caught.value.do
    faissbuild.one_installed()
    assert len(faissbuild.installed()) == 1


def test_the_build_is_named() -> None:
    assert faissbuild.installed()[0] in faissbuild.about() and "GPUs" in faissbuild.about()


@pytest.mark.skipif(not faissbuild.gpus(), reason="this build of FAISS sees no GPU")
def test_a_gpu_clusters_and_searches_as_a_cpu_does() -> None:
    """The same contract."""
    test_many_queries_are_answered_exactly_part_by_part()
    vectors = np.random.default_rng(0).standard_normal((2_000, 12)).astype(np.float32)
    clusters = Clusters.trained(vectors, 16)
    products = np.sort(vectors @ clusters.centroids.T, axis=1)
    clear = products[:, -1] - products[:, -2] > 1e-4
    assert (clusters.nearest(vectors)[clear] == np.argmax(vectors @ clusters.centroids.T, axis=1)[clear]).all()
