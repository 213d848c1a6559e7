"""What FAISS does for the item index: clustering and bulk search, on a GPU where its build has one.

Lookups never call it. FAISS searching in one thread while another adds ends in SIGSEGV, and its own files are read
without a check: what it trains is kept in lists of our own (ivf.py), which never change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import faiss
import numpy as np

from forebay.arrays import Floats, Ints
from forebay.errors import ConfigError

DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12")  # each brings the module faiss
_ITERATIONS, _SEED = 10, 1
_BLOCK = 512  # vectors whose products with all centroids stay in the cache: 8 MB for 4,096 lists
_POINTS = 64  # of each list, for training: more change the recall by less than its spread
_here = threading.local()


def installed(version_of: Callable[[str], str] = version) -> list[str]:
    """The FAISS distributions of this environment, with their versions."""
    found = []
    for name in DISTRIBUTIONS:
        try:
            found.append(f"{name} {version_of(name)}")
        except PackageNotFoundError:
            continue
    return found


def one_installed(version_of: Callable[[str], str] = version) -> None:
    """Raise ConfigError where two FAISS distributions are installed: each has overwritten files of the other."""
    if len(found := installed(version_of)) > 1:
        names = [one.split()[0] for one in found]
        raise ConfigError(
            f"{' and '.join(found)} are installed, and each is the module faiss",
            do=f"Run: pip uninstall {' '.join(names)}, then install one of them",
        )


def gpus() -> int:
    """How many GPUs this build of FAISS sees; 0 of one for CPUs."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def about() -> str:
    """The build, in one line."""
    named = ", ".join(installed()) or f"faiss {faiss.__version__}, of no distribution that is known"
    options = faiss.get_compile_options().split()
    return f"{named}, {' '.join(options)}, {gpus() or 'no'} GPUs"


class Clusters:
    """Directions that vectors gather in: unit vectors `centroids` float32 [lists, dim]. A vector belongs to the one
    with which its inner product is highest. Columns in which all of them are zero are not read: of a model whose
    queries read two segments of six, most are."""

    def __init__(self, centroids: Floats) -> None:
        self.centroids = np.ascontiguousarray(centroids, np.float32)
        self._columns = _columns(self.centroids)
        index: Any = faiss.IndexFlatIP(len(self._columns))
        read = _of_columns(self.centroids, self._columns)
        index.add(read)
        self._transposed = np.ascontiguousarray(read.T)
        self._index = faiss.index_cpu_to_all_gpus(index) if gpus() else index

    @classmethod
    def trained(cls, vectors: Floats, lists: int) -> Clusters:
        """From a sample float32 [n, dim] of at least as many vectors. The same sample gives the same clusters, which
        are zero in columns in which all of it is."""
        columns = _columns(vectors)
        means = faiss.Kmeans(
            len(columns), lists, niter=_ITERATIONS, seed=_SEED, spherical=True, gpu=gpus() > 0,
            min_points_per_centroid=1, max_points_per_centroid=_POINTS,
        )  # fmt: skip
        means.train(_of_columns(vectors, columns))
        centroids = np.zeros((lists, vectors.shape[1]), np.float32)
        centroids[:, columns] = means.centroids
        return cls(centroids)

    @staticmethod
    def sample_size(lists: int) -> int:
        """How many vectors training uses, at most."""
        return lists * _POINTS

    def nearest(self, vectors: Floats) -> Ints:
        """The list int64 [n] of each vector float32 [n, dim].

        NumPy's BLAS takes 4.8 us a vector for 4,096 lists of 64 columns on two cores, the one in FAISS's wheel 18.
        Its threads cannot be held to one core, so that FAISS does it where `few_threads` was called.
        """
        if not len(vectors):
            return np.empty(0, np.int64)
        read = _of_columns(vectors, self._columns)
        if gpus() or getattr(_here, "few_threads", False):
            found: Ints = self._index.search(read, 1)[1][:, 0]
            return found
        found = np.empty(len(vectors), np.int64)
        for first in range(0, len(vectors), _BLOCK):
            part = slice(first, first + _BLOCK)
            np.argmax(read[part] @ self._transposed, axis=1, out=found[part])
        return found


def _columns(vectors: Floats) -> Ints:
    """Those that have anything; where none has, the first."""
    found: Ints = np.flatnonzero(vectors.any(axis=0))
    return found if len(found) else np.zeros(1, np.int64)


def _of_columns(vectors: Floats, columns: Ints) -> Floats:
    return np.ascontiguousarray(vectors if len(columns) == vectors.shape[1] else vectors[:, columns], np.float32)


def best_of_many(parts: Iterable[tuple[Ints, Floats]], queries: Floats, k: int) -> Ints:
    """Row numbers int64 [m, k] of the highest inner products with `queries` float32 [m, dim], exactly, best first; -1
    where there are fewer. `parts` are (rows int64 [n], vectors float32 [n, dim]), of a size that fits in memory."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    device: Any = faiss.StandardGpuResources() if gpus() else None
    for numbers, vectors in parts:
        if not len(numbers):
            continue
        most = min(k, len(numbers))
        if device is None:
            products, places = faiss.knn(queries, vectors, most, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            products, places = faiss.knn_gpu(device, queries, vectors, most, metric=faiss.METRIC_INNER_PRODUCT)
        products = np.concatenate([best, products], axis=1)
        found = np.concatenate([rows, numbers[places]], axis=1)
        order = np.argsort(-products, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(products, order, 1), np.take_along_axis(found, order, 1)
    return rows


def few_threads() -> None:
    """What this file does takes one core in the thread that calls this: the others are for lookups."""
    faiss.omp_set_num_threads(1)
    _here.few_threads = True
