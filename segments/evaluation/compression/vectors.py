"""What a segment vector can be stored as. Each codec gives back the vector that a reader would see, and the bytes that
it takes.

`served` is int8 with one float32 scale per segment vector (quantize.py); the others are here to be compared with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.segments.quantize import dequantize, quantize


class VectorCodec(ABC):
    """One segment's vectors, float32 [n, dim]. `fit` sees vectors of the training part only."""

    name: ClassVar[str]

    def fit(self, vectors: Floats) -> None:  # noqa: B027 - most have nothing to learn
        """Learn what the codec needs of vectors [n, dim]."""

    @abstractmethod
    def bytes_of(self, dim: int) -> float:
        """Bytes of one stored vector."""

    @abstractmethod
    def restored(self, vectors: Floats) -> Floats:
        """float32 [n, dim]: what comes back."""


class Float32(VectorCodec):
    name = "f32"

    def bytes_of(self, dim: int) -> float:
        return 4.0 * dim

    def restored(self, vectors: Floats) -> Floats:
        return vectors


class Float16(VectorCodec):
    name = "f16"

    def bytes_of(self, dim: int) -> float:
        return 2.0 * dim

    def restored(self, vectors: Floats) -> Floats:
        return vectors.astype(np.float16).astype(np.float32)


class Int8(VectorCodec):
    name = "int8"

    def bytes_of(self, dim: int) -> float:
        return dim + 4.0

    def restored(self, vectors: Floats) -> Floats:
        return dequantize(*quantize(vectors))


class Int4(VectorCodec):
    """Sixteen steps of one scale per vector."""

    name = "int4"

    def bytes_of(self, dim: int) -> float:
        return dim / 2 + 4.0

    def restored(self, vectors: Floats) -> Floats:
        scale = np.abs(vectors).max(axis=1, keepdims=True) / 7
        steps = np.divide(vectors, scale, out=np.zeros_like(vectors), where=scale > 0)
        restored: Floats = (np.clip(np.rint(steps), -8, 7) * scale).astype(np.float32)
        return restored


class OneBit(VectorCodec):
    """Signs, times the mean size of the vector's numbers (Rastegari et al., XNOR-Net, ECCV 2016)."""

    name = "1 bit"

    def bytes_of(self, dim: int) -> float:
        return dim / 8 + 4.0

    def restored(self, vectors: Floats) -> Floats:
        restored: Floats = np.where(vectors < 0, -1, 1) * np.abs(vectors).mean(axis=1, keepdims=True)
        return restored.astype(np.float32)


class ProductQuantizer(VectorCodec):
    """Parts of `width` dimensions, each by the nearest of 256 centroids (Jégou et al., TPAMI 2011); Lloyd's k-means."""

    name = "PQ"

    def __init__(self, width: int = 4, rounds: int = 12, seed: int = 0) -> None:
        self._width, self._rounds, self._seed = width, rounds, seed
        self._books: list[Floats] = []

    def fit(self, vectors: Floats) -> None:
        random = np.random.default_rng(self._seed)
        self._books = []
        for part in self._parts(vectors):
            # Repeated vectors would give equal centroids: 256 different ones, or as many as there are.
            different = np.unique(part, axis=0)
            book = different[random.permutation(len(different))[:256]].copy()
            for _ in range(self._rounds):
                nearest = _nearest(part, book)
                for place in range(len(book)):
                    own = part[nearest == place]
                    if len(own):
                        book[place] = own.mean(axis=0)
            self._books.append(book)

    def bytes_of(self, dim: int) -> float:
        return float(-(-dim // self._width))

    def restored(self, vectors: Floats) -> Floats:
        parts = zip(self._parts(vectors), self._books, strict=True)
        return np.concatenate([book[_nearest(part, book)] for part, book in parts], axis=1)

    def _parts(self, vectors: Floats) -> list[Floats]:
        return np.split(vectors, range(self._width, vectors.shape[1], self._width), axis=1)


def _nearest(points: Floats, book: Floats) -> Ints:
    distances = (book**2).sum(axis=1) - 2 * points @ book.T  # the point's own length is the same for all
    return np.argmin(distances, axis=1)


def codecs() -> list[VectorCodec]:
    """A fresh one of each kind, from the largest to the smallest."""
    return [Float32(), Float16(), Int8(), Int4(), ProductQuantizer(), OneBit()]
