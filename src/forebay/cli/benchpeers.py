"""Indexes that others have made, where they are installed, for `forebay bench index`: hnswlib, FAISS, usearch, lancedb.

Each is set to the least effort that reaches the wanted recall, of those in its list.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from forebay.arrays import Floats, Ints
from forebay.cli.benchvectors import DIM, RECALL, K, World, drawn

_EFFORTS = (100, 120, 150, 200, 300, 400, 600, 800)  # candidates that a graph keeps while it searches
_LISTS, _PROBES = 1_024, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
GRAPH_REPLACED = 300  # rows: as many as a graph replaces in about a second
_LARGE = 200_000  # items from which on graphs are left out: each takes ten minutes or more to make


@dataclass(frozen=True)
class Peer:
    """`ask` a query float32 [DIM] for the K best rows; `recall` with the effort that it was set to, `made_s` seconds of
    making it, `updates` of rows a second, None where there is no way to; and `size` in bytes, by what the library tells
    of itself: None of one that lies in files."""

    name: str
    ask: Callable[[Floats], Ints]
    recall: float
    made_s: float
    updates: float | None = None
    size: int | None = None


def peers(world: World) -> Iterator[Peer | str]:
    """Each, or the reason why it is not there."""
    made: dict[str, Callable[[World, Any], Peer]] = {
        "faiss": _faiss_ivf, "hnswlib": _hnswlib, "faiss.swigfaiss": _faiss_hnsw, "usearch.index": _usearch,
        "lancedb": _lancedb,
    }  # fmt: skip
    for module, make in made.items():
        if len(world.vectors) > _LARGE and make is not _faiss_ivf:
            yield f"{make.__name__.lstrip('_')} is left out of more than {_LARGE:,} items: it takes too long to make"
            continue
        try:
            found = importlib.import_module(module)
        except ImportError:
            yield f"{module.split('.')[0]} is not installed: no figures of it"
            continue
        yield make(world, found)


def _set(world: World, efforts: tuple[int, ...], use: Callable[[int], None], ask: Callable[[Floats], Ints]) -> float:
    recall = 0.0
    for effort in efforts:
        use(effort)
        if (recall := world.recall(ask)) >= RECALL:
            break
    return recall


def _serialized(index: Any) -> int:
    """Bytes of it as a file, which are those in memory but for some words."""
    return int(faiss.serialize_index(index).nbytes)


def _faiss_ivf(world: World, _: Any) -> Peer:
    started = time.perf_counter()
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, _LISTS, faiss.METRIC_INNER_PRODUCT)
    index.train(world.vectors[:100_000])
    index.add(world.vectors)
    took = time.perf_counter() - started

    def ask(query: Floats) -> Ints:
        found: Ints = index.search(query[None], K)[1][0]
        return found

    recall = _set(world, _PROBES, lambda probes: setattr(index, "nprobe", probes), ask)
    return Peer(f"FAISS IVF{_LISTS}, nprobe {index.nprobe}", ask, recall, took, size=_serialized(index))


def _faiss_hnsw(world: World, _: Any) -> Peer:
    started = time.perf_counter()
    index: Any = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(world.vectors)
    took = time.perf_counter() - started

    def ask(query: Floats) -> Ints:
        found: Ints = index.search(query[None], K)[1][0]
        return found

    recall = _set(world, _EFFORTS, lambda effort: setattr(index.hnsw, "efSearch", effort), ask)
    name = f"FAISS HNSW16, ef {index.hnsw.efSearch}"
    return Peer(name, ask, recall, took, size=_serialized(index))  # it cannot delete


def _hnswlib(world: World, hnswlib: Any) -> Peer:
    index = hnswlib.Index("ip", DIM)
    index.init_index(len(world.vectors), M=16, ef_construction=100)
    started = time.perf_counter()
    index.add_items(world.vectors, np.arange(len(world.vectors)))  # on all cores
    took = time.perf_counter() - started
    index.set_num_threads(1)

    def ask(query: Floats) -> Ints:
        found: Ints = index.knn_query(query, K)[0][0].astype(np.int64)
        return found

    recall = _set(world, _EFFORTS, index.set_ef, ask)
    effort, random = index.ef, np.random.default_rng(6)
    rows = random.choice(len(world.vectors), GRAPH_REPLACED, replace=False)
    again = drawn(random, world.centres, GRAPH_REPLACED)
    started = time.perf_counter()
    index.add_items(again, rows)
    updates = GRAPH_REPLACED / (time.perf_counter() - started)
    index.add_items(world.vectors[rows], rows)
    return Peer(f"hnswlib M16, ef {effort}", ask, recall, took, updates, index.index_file_size())


def _usearch(world: World, usearch: Any) -> Peer:
    index = usearch.Index(ndim=DIM, metric="ip", dtype="f32", connectivity=16, expansion_add=100)
    started = time.perf_counter()
    index.add(np.arange(len(world.vectors)), world.vectors)
    took = time.perf_counter() - started

    def ask(query: Floats) -> Ints:
        return np.asarray(index.search(query, K, threads=1).keys, np.int64)

    recall = _set(world, _EFFORTS, lambda effort: setattr(index, "expansion_search", effort), ask)
    effort, random = index.expansion_search, np.random.default_rng(6)
    rows = random.choice(len(world.vectors), GRAPH_REPLACED, replace=False)
    again = drawn(random, world.centres, GRAPH_REPLACED)
    started = time.perf_counter()
    index.remove(rows)
    index.add(rows, again, threads=1)
    updates = GRAPH_REPLACED / (time.perf_counter() - started)
    index.remove(rows)
    index.add(rows, world.vectors[rows], threads=1)
    return Peer(f"usearch 16, ef {effort}", ask, recall, took, updates, index.memory_usage)


def _lancedb(world: World, lancedb: Any) -> Peer:
    import pyarrow as pa

    folder = tempfile.mkdtemp(prefix="forebay-bench-")
    started = time.perf_counter()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(world.vectors.reshape(-1)), DIM)
    data = pa.table({"row": pa.array(np.arange(len(world.vectors))), "vector": vectors})
    table = lancedb.connect(folder).create_table("items", data)
    table.create_index(metric="dot", index_type="IVF_FLAT", num_partitions=_LISTS)
    took = time.perf_counter() - started
    probes = [1]

    def ask(query: Floats) -> Ints:
        found = table.search(query).distance_type("dot").nprobes(probes[0]).limit(K).select(["row"]).to_arrow()
        return np.asarray(found["row"].to_numpy(), np.int64)

    recall = _set(world, _PROBES, lambda effort: probes.__setitem__(0, effort), ask)
    return Peer(f"lancedb IVF_FLAT, {probes[0]} probes", ask, recall, took)
