"""The clusters of the item index on the disk: a start fills lists by them, and trains nothing, which takes longest.

A file beside the store of vectors:

    XXH3-128 of what follows, 16 bytes | its head's length u4 | head, JSON | centroids f4 [lists, dim]

It is written when clusters were trained. A crash leaves the one before; clusters that fit a catalogue of before find
less until others are trained, which is due when half of the rows have changed.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import numpy as np
from xxhash import xxh3_128_digest

from forebay import files
from forebay.store.faissbuild import Clusters
from forebay.store.indexsearch import Probes
from forebay.store.vectors import VectorStore

log = logging.getLogger("forebay.index")
_DIGEST, _LENGTH = 16, 4


class _Head(msgspec.Struct, frozen=True):
    """Of which bundle's vectors they are, their shape, and how many lists are searched."""

    of: str
    lists: int
    dim: int
    shallow: int
    deep: int


class ClusterFile:
    """At `path`, for the vectors of the bundle with the hash `of`. One process writes it."""

    def __init__(self, path: Path, of: str) -> None:
        self.path, self._of = path, of

    def load(self, dim: int) -> tuple[Clusters, Probes] | None:
        """What was saved; None where there is nothing, or it is of other vectors, or damaged, which is logged."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        body = memoryview(data)[_DIGEST:]
        at = _LENGTH + int.from_bytes(body[:_LENGTH], "little")
        try:
            head = msgspec.json.decode(body[_LENGTH:at], type=_Head)
        except msgspec.MsgspecError:  # of another version, or damaged
            head = None
        if head is None or xxh3_128_digest(body) != data[:_DIGEST]:
            log.warning("%s is not what was written: lists are trained anew", self.path)
            return None
        if head.of != self._of or head.dim != dim:
            return None
        centroids = np.frombuffer(body[at:], np.float32).reshape(head.lists, head.dim)
        return Clusters(centroids), Probes(head.shallow, head.deep)

    def save(self, clusters: Clusters, probes: Probes) -> None:
        """Replace what is there. A disk that does not take it is logged: the next start trains."""
        lists, dim = clusters.centroids.shape
        head = msgspec.json.encode(_Head(self._of, lists, dim, probes.shallow, probes.deep))
        body = len(head).to_bytes(_LENGTH, "little") + head + clusters.centroids.tobytes()
        try:
            files.write(self.path, xxh3_128_digest(body) + body)
        except OSError as error:
            log.warning("%s is not written: %s. The next start trains lists anew", self.path, error)


def cluster_file(store: VectorStore | None, of: str) -> ClusterFile | None:
    """Beside the vectors of the bundle with the hash `of`; None where those do not outlast the process, either."""
    return None if store is None else ClusterFile(store.path.with_name(f"{store.path.name}.clusters"), of)
