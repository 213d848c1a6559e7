"""One lookup over cached vectors: no encoder runs, nothing is fetched, every answer says how current it is.

Steps, with the same numbers in code, docs and DESIGN §5: 1 pin the generation · 2 the user's row · 3 candidates ·
4 gather and fuse · 5 top-k · 6 answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.errors import BadRequest, BundleError, GenerationMismatch, GenerationUnavailable
from forebay.retrieval.halves import ItemHalves
from forebay.retrieval.messages import (
    EntityResponse,
    Hit,
    RankRequest,
    RankResponse,
    RetrieveRequest,
    SegmentEntry,
    SegmentFreshness,
    State,
)
from forebay.segments.fusions.contract import Fusion, InnerProduct, Query
from forebay.segments.quantize import dequantize, quantize
from forebay.segments.spec import SegmentSpec, Side, Use
from forebay.segments.state.ids import hash_ids
from forebay.store import kernels
from forebay.store.index import ItemIndex
from forebay.store.table import SegmentTable

# The index holds what was last written; an expired segment or a row that changed meanwhile moves scores near the edge.
_SPARE = 32


@dataclass(frozen=True)
class EngineLimits:
    """What one request may ask for. More is a BadRequest, before any work."""

    max_candidates: int = 10_000
    max_k: int = 1_000
    max_deny: int = 10_000


class Engine:
    """Answers lookups of one generation from its tables and its index.

    The replica writes the tables while the engine reads them; each step that reads rows holds the table's lock from
    finding a row to the end of its gather. Safe to call from several threads.
    """

    def __init__(
        self,
        generation: str,
        bundle_hash: str,
        fusions: Mapping[Use, Fusion],
        user: SegmentTable,
        item: SegmentTable,
        index: ItemIndex,
        user_segments: tuple[SegmentSpec, ...],
        item_segments: tuple[SegmentSpec, ...],
        defaults: Mapping[Side, Floats],
        clock: Callable[[], float] = time.time,
        limits: EngineLimits = EngineLimits(),
    ) -> None:
        """`defaults` are the learned default vectors of each side, float32 [dims of all segments].

        Raises GenerationMismatch when a table's segments are not the specs', BundleError when the dimensions of
        segments, fusions, defaults and index do not fit together, or the fusion for `retrieve` is none that an index
        can search.
        """
        self.generation, self.bundle_hash = generation, bundle_hash
        self.fusion = fusions["rank"]
        retrieval = fusions["retrieve"]
        if not isinstance(retrieval, InnerProduct):
            raise BundleError(f"an index cannot search a {retrieval.kind}", where="[fusion] retrieve")
        self.retrieval = retrieval
        self.user, self.item, self.index = user, item, index
        self.limits, self._clock = limits, clock
        self._specs: dict[Side, tuple[SegmentSpec, ...]] = {"user": user_segments, "item": item_segments}
        self._tables: dict[Side, SegmentTable] = {"user": user, "item": item}
        for side, specs in self._specs.items():
            kept = self._tables[side].codec.segments
            if [(s.name, s.dim) for s in specs] != [(s.name, s.dim) for s in kept]:
                raise GenerationMismatch(
                    f"the {side} table has {[s.name for s in kept]}, the bundle {[s.name for s in specs]}",
                    where=f"generation {generation}",
                    do="Fill the tables from this generation's topics",
                )
            dim = sum(s.dim for s in specs)
            reads = {f.shape.user_dim if side == "user" else f.shape.item_dim for f in fusions.values()}
            if defaults[side].shape != (dim,) or reads != {dim}:
                raise BundleError(
                    f"default vectors of shape {defaults[side].shape} and fusions over {sorted(reads)} dimensions",
                    where=f"{side} segments of {dim} dimensions",
                )
        if index.dim != item.codec.dim:
            raise BundleError(f"an index of {index.dim} dimensions under {item.codec.dim} of item vectors")
        # As stored rows are, so that a default vector scores the same whether a row holds it or it is put in here.
        self._defaults: dict[Side, Floats] = {side: self._as_stored(side, defaults[side]) for side in self._specs}
        self._halves = None if isinstance(self.fusion, InnerProduct) else ItemHalves(self.fusion, item)
        self._default_half = self.fusion.item_half(self._defaults["item"][None])
        self._expires = {side: np.array([s.expires_after_ms for s in specs]) for side, specs in self._specs.items()}

    def rank(self, request: RankRequest) -> RankResponse:
        """The best `k` of the given candidates. An unknown candidate is scored with the default vectors; one that is
        given twice is answered twice. Raises GenerationUnavailable and BadRequest."""
        self._pin(request.generation)
        self._bound("k", request.k, self.limits.max_k)
        self._bound("candidates", len(request.candidates), self.limits.max_candidates)
        now = self._now_ms()
        known, user, segments = self._user(request.user, now)
        query = self.fusion.user_half(user)
        hashes = _hashes(request.candidates)
        with self.item.lock:  # steps 3 to 5
            rows = self.item.probe_locked(hashes)
            hits, items = self._best_locked(self.fusion, request, request.candidates, rows, user, query, now)
        return RankResponse(hits, self.generation, self.bundle_hash, known, segments, items)

    def retrieve(self, request: RetrieveRequest) -> RankResponse:
        """The best `k` of all items, less the denied ones, by the fusion for `retrieve`: its scores say what is chosen
        next, those of `rank` what is liked, and they do not compare.

        The index proposes by the last written vectors, exactly; which items are proposed does not know of expired item
        segments, their scores do. Raises GenerationUnavailable and BadRequest.
        """
        self._pin(request.generation)
        self._bound("k", request.k, self.limits.max_k)
        self._bound("deny", len(request.deny), self.limits.max_deny)
        now = self._now_ms()
        known, user, segments = self._user(request.user, now)
        query = self.retrieval.user_half(user)
        denied, hashes = set(request.deny), _hashes(request.deny)
        with self.item.lock:
            deny_rows = self.item.find_locked(request.deny, hashes)
        rows, _ = self.index.search(query[0], request.k + _SPARE if request.k else 0, deny_rows)
        with self.item.lock:
            # A row may have gone to another entity since the search: its name is read with its vector, and judged
            # again.
            pairs = [(row, self.item.ids[row]) for row in rows.tolist() if row < self.item.capacity]
            pairs = [(row, name) for row, name in pairs if name and name not in denied]
            places = np.array([row for row, _ in pairs], np.int64)
            names = [name for _, name in pairs]
            hits, items = self._best_locked(self.retrieval, request, names, places, user, query, now)
        return RankResponse(hits, self.generation, self.bundle_hash, known, segments, items)

    def entity(
        self, side: Side, entity: str, *, vectors: bool = False, generation: str | None = None
    ) -> EntityResponse:
        """What is stored of one entity, with its codes when `vectors`. Raises GenerationUnavailable."""
        self._pin(generation)
        table, hashes, now = self._tables[side], _hashes([entity]), self._now_ms()
        entries: dict[str, SegmentEntry] = {}
        with table.lock:
            rows = table.find_locked([entity], hashes)
            row = int(rows[0])
            if row >= 0:
                bounds = table.codec.bounds
                for s, (name, freshness) in enumerate(self._freshness_locked(side, rows, now).items()):
                    codes, scale = table.vectors[row, bounds[s] : bounds[s + 1]].tobytes(), float(table.scales[row, s])
                    entries[name] = SegmentEntry(freshness, *((codes, scale) if vectors else ()))
            partition = int(table.partitions[row]) if row >= 0 else None
        return EntityResponse(side, entity, row >= 0, self.generation, self.bundle_hash, partition, entries)

    def warm(self) -> None:
        """Compile every kernel that a request runs: called before `ready`, or the first caller waits two seconds."""
        for table in self._tables.values():
            table.warm()
        self.rank(RankRequest("", [""], 1, explain=True))
        self.retrieve(RetrieveRequest("", 1, explain=True))

    def _pin(self, generation: str | None) -> None:
        """Step 1: the generation asked for, or none. All of this engine's parts belong to one."""
        if generation is not None and generation != self.generation:
            raise GenerationUnavailable(
                f"generation {generation} is not served here, {self.generation} is",
                do="Leave the generation out, or ask a server that has it",
            )

    def _bound(self, name: str, value: int, most: int) -> None:
        if not 0 <= value <= most:
            raise BadRequest(f"{name} is {value}", do=f"Use 0 to {most}")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _user(self, user: str, now: int) -> tuple[bool, Floats, dict[str, SegmentFreshness]]:
        """Step 2: whether the user is known, the vectors to use float32 [dims], and how current they are."""
        hashes = _hashes([user])
        with self.user.lock:
            rows = self.user.find_locked([user], hashes)
            vectors = self._vectors_locked("user", rows, now)[0]
            return bool(rows[0] >= 0), vectors, self._freshness_locked("user", rows, now)

    def _best_locked(
        self,
        fusion: Fusion,
        request: RankRequest | RetrieveRequest,
        names: Sequence[str],
        rows: Ints,
        user: Floats,
        query: Query,
        now: int,
    ) -> tuple[list[Hit], dict[str, SegmentFreshness]]:
        """Steps 4 to 6 over item rows int64 [n]: hits, and the freshness of the returned items."""
        while True:
            scores = self._scores_locked(fusion, rows, query, now)
            best = kernels.top_k(scores, request.k)
            chosen = rows[best]
            twins = [
                i
                for i, row in zip(best.tolist(), chosen.tolist(), strict=True)
                if row >= 0 and self.item.ids[row] != names[i]
            ]
            if not twins:
                break
            rows[twins] = -1  # an unknown id with the hash of another: that one's vector is not its own
        shares: list[dict[str, float] | None] = [None] * len(best)
        if request.explain:
            titles = [spec.name for spec in self._specs["user"]]
            parts = fusion.shares(user, self._vectors_locked("item", chosen, now), self._defaults["user"])
            shares = [dict(zip(titles, part, strict=True)) for part in parts.tolist()]
        columns = (best.tolist(), scores[best].tolist(), (chosen >= 0).tolist(), shares)
        hits = [Hit(names[i], score, known, share) for i, score, known, share in zip(*columns, strict=True)]
        return hits, self._freshness_locked("item", chosen, now)

    def _scores_locked(self, fusion: Fusion, rows: Ints, query: Query, now: int) -> Floats:
        """Step 4: float32 [n], an expired or missing segment counting as its default vector."""
        if isinstance(fusion, InnerProduct):
            return self._folded_locked(fusion, rows, query[0], now)
        assert self._halves is not None
        halves = np.repeat(self._default_half, len(rows), axis=0)
        known = np.flatnonzero(rows >= 0)
        halves[known] = self._halves.gather_locked(rows[known], lambda old: self._vectors_locked("item", old, 0))
        if self._expires["item"].any():
            expired = known[(self._expired_locked("item", rows[known], now)).any(axis=1)]
            if len(expired):
                halves[expired] = fusion.item_half(self._vectors_locked("item", rows[expired], now))
        return fusion.join(query, halves)

    def _folded_locked(self, fusion: InnerProduct, rows: Ints, query: Floats, now: int) -> Floats:
        """One pass over the stored codes: nothing is gathered into memory first."""
        table, bounds = self.item, self.item.codec.bounds
        default = np.add.reduceat(query * self._defaults["item"], bounds[:-1])
        arrays = (table.vectors, table.scales, rows, query, bounds, default)
        scores: Floats = kernels.gather_dot_i8(*arrays)
        kernels.replace_expired(scores, *arrays, table.as_of_locked(rows), self._oldest("item", now))
        scores += fusion.bias
        return scores

    def _oldest(self, side: Side, now: int) -> Ints:
        """int64 [segments]: a segment whose as_of is before this is not used; 1 without an expiry (0 is never), and at
        `now` 0."""
        expires = self._expires[side]
        return np.where(expires > 0, np.maximum(now - expires, 1), 1)

    def _expired_locked(self, side: Side, rows: Ints, now: int) -> Bools:
        """bool [n, segments]: not to be used any more, or never written."""
        return self._tables[side].as_of_locked(rows) < self._oldest(side, now)

    def _as_stored(self, side: Side, vector: Floats) -> Floats:
        """A flat vector float32 [dims] through int8 and back, segment by segment."""
        parts = np.split(vector, self._tables[side].codec.bounds[1:-1])
        return np.concatenate([dequantize(*quantize(part[None]))[0] for part in parts])

    def _vectors_locked(self, side: Side, rows: Ints, now: int) -> Floats:
        """The vectors to use of `rows`, float32 [n, dims]: default ones where a segment is expired or missing."""
        table, dims = self._tables[side], np.diff(self._tables[side].codec.bounds)
        vectors = table.vectors[rows].astype(np.float32) * np.repeat(table.scales[rows], dims, axis=1)
        gone = np.repeat(self._expired_locked(side, rows, now), dims, axis=1)
        return np.where(gone, self._defaults[side], vectors)

    def _freshness_locked(self, side: Side, rows: Ints, now: int) -> dict[str, SegmentFreshness]:
        """For each segment the weakest link among `rows`: oldest times of the known ones, worst state of all."""
        oldest, events, unknown = self._tables[side].weakest_locked(rows).tolist()
        answer = {}
        for s, spec in enumerate(self._specs[side]):
            aged: State = _state(now - oldest[s], spec) if oldest[s] else "missing"
            answer[spec.name] = SegmentFreshness(
                oldest[s] or None, events[s] or None, "missing" if unknown[s] else aged
            )
        return answer


def _state(age_ms: int, spec: SegmentSpec) -> State:
    if spec.expires_after_ms and age_ms > spec.expires_after_ms:
        return "expired"
    return "late" if spec.late_after_ms and age_ms > spec.late_after_ms else "fresh"


def _hashes(ids: Sequence[str]) -> Ints:
    try:
        return hash_ids(ids)
    except UnicodeEncodeError:
        raise BadRequest("an id has a lone surrogate", do="Send ids as UTF-8") from None
