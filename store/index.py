"""Exact inner-product search over the items: a flat FAISS index whose row numbers are the item table's.

An index row is the item's dequantised segment vectors, concatenated; the query is the user half of a fusion that folds
to one inner product. A frozen IVF base with this index as its delta comes later, behind the same methods.
"""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np

from forebay.arrays import Bytes, Floats, Ints

# FAISS's type information knows the C++ signatures only, not those of its Python wrappers.
_SearchParameters: Any = faiss.SearchParameters
_IDSelectorBitmap: Any = faiss.IDSelectorBitmap


class ItemIndex:
    """Vectors float32 [rows, dim] under the item table's row numbers.

    One lock around everything: FAISS adding in one thread and searching in another ends in SIGSEGV.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._lock = threading.Lock()
        self._index: Any = faiss.IndexFlatIP(dim)
        self._alive = np.zeros(0, np.uint8)  # one bit a row, lowest bit first, as FAISS reads it
        self._count = 0

    def __len__(self) -> int:
        """Rows that a search can return."""
        return self._count

    def upsert(self, rows: Ints, vectors: Floats) -> None:
        """Set `vectors` float32 [n, dim] of `rows` int64 [n], in place or beyond the end. The last of a repeated row
        wins.

        Raises ValueError, before anything is changed, for a wrong shape, a negative row, or a number that is not
        finite: FAISS would accept it and never return the row.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.shape != (len(rows), self.dim):
            raise ValueError(f"vectors of shape {vectors.shape}, not {(len(rows), self.dim)}")
        if not len(rows):
            return
        if int(rows.min()) < 0:
            raise ValueError("a negative row: FAISS takes -1 for no result")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector that is not finite")
        with self._lock:
            missing = int(rows.max()) + 1 - self._index.ntotal
            if missing > 0:
                self._index.add(np.zeros((missing, self.dim), np.float32))
                room = (self._index.ntotal + 7) // 8 - len(self._alive)
                self._alive = np.concatenate([self._alive, np.zeros(room, np.uint8)])
            self._storage()[rows] = vectors
            self._mark(rows, True)

    def remove(self, rows: Ints) -> None:
        """Forget `rows`: their numbers become zeros, and no search returns them until they are set again."""
        with self._lock:
            rows = rows[(rows >= 0) & (rows < self._index.ntotal)]
            if len(rows):
                self._storage()[rows] = 0
                self._mark(rows, False)

    def search(
        self, query: Floats, k: int, deny_rows: Ints | None = None, allowed: Bytes | None = None
    ) -> tuple[Ints, Floats]:
        """The `k` rows with the highest inner product with `query` float32 [dim], best first, and the products.

        Exact. Fewer than `k` when fewer are left after `deny_rows` (unknown rows among them do no harm) and of those
        that are `allowed`: one bit a row, lowest bit first; rows behind its end are not. Raises ValueError for a query
        of another shape or one that is not finite.
        """
        query = np.ascontiguousarray(query, np.float32)
        if query.shape != (self.dim,) or not np.isfinite(query).all():
            raise ValueError(f"a query of shape {query.shape}, or not finite; {self.dim} finite numbers are needed")
        with self._lock:
            alive, denied = self._alive, np.empty(0, np.int64)
            if allowed is not None:
                alive = np.zeros_like(alive)
                common = min(len(alive), len(allowed))
                np.bitwise_and(self._alive[:common], allowed[:common], out=alive[:common])
            if deny_rows is not None and len(deny_rows):
                denied = np.unique(deny_rows[(deny_rows >= 0) & (deny_rows < self._index.ntotal)])
                alive = alive.copy() if allowed is None else alive
                np.bitwise_and.at(alive, denied >> 3, ~(1 << (denied & 7)).astype(np.uint8))
            k = min(k, self._count)  # k beyond the rows would be padded, and k = 1e9 asks for 4 GiB
            if k <= 0:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            parameters = _SearchParameters(sel=_IDSelectorBitmap(alive))
            products, rows = self._index.search(query[None], k, params=parameters)
        found = rows[0] >= 0
        return rows[0][found], products[0][found]

    def _storage(self) -> Floats:
        """A view of the index's own memory. Taken anew each time: an add may move it."""
        total = self._index.ntotal
        view: Floats = faiss.rev_swig_ptr(self._index.get_xb(), total * self.dim).reshape(total, self.dim)
        return view

    def _mark(self, rows: Ints, alive: bool) -> None:
        rows = np.unique(rows)
        bits = (1 << (rows & 7)).astype(np.uint8)
        were = (self._alive[rows >> 3] & bits) != 0
        if alive:
            np.bitwise_or.at(self._alive, rows >> 3, bits)
            self._count += int((~were).sum())
        else:
            np.bitwise_and.at(self._alive, rows >> 3, ~bits)
            self._count -= int(were.sum())
