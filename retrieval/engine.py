"""One lookup over cached vectors: no encoder runs, nothing is fetched, every answer says how current it is.

Steps, with the same numbers in code, docs and DESIGN §5: 1 pin the generation · 2 the user's row · 3 candidates ·
4 gather and fuse · 5 top-k · 6 answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.errors import BadRequest, BundleError, GenerationMismatch, GenerationUnavailable
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
from forebay.retrieval.scanned import Scanned
from forebay.segments.fusions.contract import Fusion, InnerProduct, Query
from forebay.segments.spec import SIDES, SegmentSpec, Side
from forebay.segments.state.ids import hash_ids
from forebay.store.reading import Copy, Reading
from forebay.store.servingcopy import Model

# The index holds what was last written; an expired segment or a row that changed meanwhile moves scores near the edge.
_SPARE = 32
_FIRST = np.zeros(1, np.int64)  # the place of one entity that was asked for alone


@dataclass(frozen=True)
class EngineLimits:
    """What one request may ask for. More is a BadRequest, before any work."""

    max_candidates: int = 10_000
    max_k: int = 1_000
    max_deny: int = 10_000
    max_batch: int = 64


class Engine:
    """Answers lookups of one generation from a copy of it. Safe to call from several threads, beside the replica that
    writes the copy, in this process or in another."""

    def __init__(
        self,
        model: Model,
        copy: Copy,
        clock: Callable[[], float] = time.time,
        limits: EngineLimits = EngineLimits(),
    ) -> None:
        """Raises GenerationMismatch when the copy is of another bundle, BundleError when the fusion for `retrieve` is
        none that an index can search."""
        if copy.bundle_hash != model.hash:
            raise GenerationMismatch(
                f"the copy is of bundle {copy.bundle_hash[:12]}, and this is {model.hash[:12]}",
                where=f"generation {copy.generation}",
            )
        self.generation, self.bundle_hash = copy.generation, copy.bundle_hash
        self.fusion = model.fusions["rank"]
        retrieval = model.fusions["retrieve"]
        if not isinstance(retrieval, InnerProduct):
            raise BundleError(f"an index cannot search a {retrieval.kind}", where="[fusion] retrieve")
        self.retrieval, self.copy = retrieval, copy
        self.limits, self._clock = limits, clock
        self._specs: dict[Side, tuple[SegmentSpec, ...]] = {side: model.segments(side) for side in SIDES}

    def rank(self, request: RankRequest | Scanned) -> RankResponse:
        """The best `k` of the given candidates. An unknown candidate is scored with the default vectors; one that is
        given twice is answered twice. Raises GenerationUnavailable and BadRequest."""
        self._pin(request.generation)
        self._bound("k", request.k, self.limits.max_k)
        self._bound("candidates", len(request.candidates), self.limits.max_candidates)
        now = self._now_ms()
        known, user, segments = self._user(request.user, now)
        query = self.fusion.user_half(user)
        hashes = request.hashes if isinstance(request, Scanned) else _hashes(request.candidates)
        with self.copy.read("item", hashes) as items:  # steps 3 to 6
            hits, fresh = self._best(items, self.fusion, request, request.candidates, None, user, query, now)
        return RankResponse(hits, self.generation, self.bundle_hash, known, segments, fresh)

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
        with self.copy.read("item", hashes) as items:
            named = items.names(np.arange(len(hashes)))
            deny = hashes[[name == item for name, item in zip(named, request.deny, strict=True)]]
        found = self.copy.search(query[0], request.k + _SPARE if request.k else 0, deny)
        with self.copy.read("item", found) as items:
            # A row may have gone to another item since the search: its name is read with its vector, and judged again.
            names = [name or "" for name in items.names(np.arange(len(found)))]
            places = np.array([i for i, name in enumerate(names) if name and name not in denied], np.int64)
            hits, fresh = self._best(items, self.retrieval, request, names, places, user, query, now)
        return RankResponse(hits, self.generation, self.bundle_hash, known, segments, fresh)

    def entity(
        self, side: Side, entity: str, *, vectors: bool = False, generation: str | None = None
    ) -> EntityResponse:
        """What is stored of one entity, with its codes when `vectors`. Raises GenerationUnavailable."""
        self._pin(generation)
        hashes, now = _hashes([entity]), self._now_ms()
        entries: dict[str, SegmentEntry] = {}
        with self.copy.read(side, hashes) as row:
            known = row.names(_FIRST) == [entity]
            if known:
                fresh = self._freshness(row, side, _FIRST, now)
                for (name, freshness), stored in zip(fresh.items(), row.stored(0), strict=True):
                    entries[name] = SegmentEntry(freshness, *((stored.codes, stored.scale) if vectors else ()))
            partition = row.partition(0) if known else None
        return EntityResponse(side, entity, known, self.generation, self.bundle_hash, partition, entries)

    def warm(self) -> None:
        """Compile every kernel that a request runs: called before `ready`, or the first caller waits two seconds."""
        self.copy.warm()
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
        with self.copy.read("user", hashes) as row:
            known = row.names(_FIRST) == [user]
            if not known:
                row.forget(_FIRST)
            return known, row.vectors(_FIRST, now)[0], self._freshness(row, "user", _FIRST, now)

    def _best(
        self,
        items: Reading,
        fusion: Fusion,
        request: RankRequest | RetrieveRequest | Scanned,
        names: Sequence[str],
        places: Ints | None,
        user: Floats,
        query: Query,
        now: int,
    ) -> tuple[list[Hit], dict[str, SegmentFreshness]]:
        """Steps 4 to 6 over some places of the items read, int64 [m] (None: all), and `names` [n] of all of them: hits,
        and the freshness of the returned items."""
        while True:
            best, scores = items.best(fusion, query, now, request.k, places)
            known = items.found[best]
            told = items.names(best[known])
            twins = [i for i, name in zip(best[known].tolist(), told, strict=True) if name != names[i]]
            if not twins:
                break
            # An unknown id with the hash of another, whose vector is not its own; or one whose row is gone by now.
            items.forget(np.array(twins))
        shares: list[dict[str, float] | None] = [None] * len(best)
        if request.explain:
            titles = [spec.name for spec in self._specs["user"]]
            parts = fusion.shares(user, items.vectors(best, now), self.copy.default("user"))
            shares = [dict(zip(titles, part, strict=True)) for part in parts.tolist()]
        columns = (best.tolist(), scores.tolist(), known.tolist(), shares)
        hits = [Hit(names[i], score, known, share) for i, score, known, share in zip(*columns, strict=True)]
        return hits, self._freshness(items, "item", best, now)

    def _freshness(self, reading: Reading, side: Side, places: Ints, now: int) -> dict[str, SegmentFreshness]:
        """For each segment the weakest link among `places`: oldest times of the known ones, worst state of all."""
        oldest, events, unknown = reading.weakest(places).tolist()
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
