"""One lookup over cached vectors: no encoder runs, nothing is fetched, every answer says how current it is.

Steps, with the same numbers in code, docs and DESIGN §5: 1 pin the generation · 2 the user's row · 3 candidates, and
which of them may be answered · 4 gather and fuse · 5 top-k · 6 answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.errors import BadRequest, BundleError, GenerationMismatch, GenerationUnavailable, WrongShard
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
from forebay.retrieval.scanned import Names, Scanned
from forebay.retrieval.selecting import Selector
from forebay.retrieval.steps import Lap, untimed
from forebay.segments.fusions.contract import Fusion, InnerProduct, Query
from forebay.segments.spec import SIDES, SegmentSpec, Side
from forebay.segments.spec.servingfile import BOOST
from forebay.segments.state.ids import hash_id, hash_ids
from forebay.store.reading import NO_BOOST, Copy, Reading
from forebay.store.selection import Selection
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
    max_allow: int = 10_000
    max_boosts: int = 8
    max_batch: int = 64


@dataclass(frozen=True)
class Candidates:
    """Those of a request that may be answered: `names` [m], `hashes` int64 [m], their `places` int64 [m] in the
    request, and what is `added` to their scores, float32 [m]."""

    names: Sequence[str]
    hashes: Ints
    places: Ints
    added: Floats | None

    def strangers(self, hits: Sequence[Hit], unknown: set[int]) -> bool:
        """Whether an answer has one that is not known, and was not taken for unknown when it was judged. It is in
        `unknown` from now on."""
        not_known = {hit.item for hit in hits if not hit.known}
        if not not_known:
            return False
        at = zip(self.places.tolist(), self.names, strict=True)
        fresh = {place for place, name in at if name in not_known} - unknown
        unknown |= fresh
        return bool(fresh)


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
        self._selector = Selector(copy.codecs["item"].served, limits.max_boosts)
        self._specs: dict[Side, tuple[SegmentSpec, ...]] = {side: model.segments(side) for side in SIDES}

    def rank(self, request: RankRequest | Scanned, lap: Lap = untimed) -> RankResponse:
        """The best `k` of the given candidates. An unknown candidate is scored with the default vectors; one that is
        given twice is answered twice. `lap` is told of the steps. Raises GenerationUnavailable and BadRequest."""
        self._pin(request.generation)
        self._bound("candidates", len(request.candidates), self.limits.max_candidates)
        selection = self._asked(request)
        now = self._now_ms()
        known, user, segments = self._user(request.user, now)
        query = self.fusion.user_half(user)
        lap("user")
        unknown: set[int] = set()  # places of candidates without a row, or with that of another one of their hash
        while True:  # again only where a candidate was judged by what is not its own
            asked = self._candidates(request, selection, unknown)
            lap("candidates")
            with self.copy.read("item", asked.hashes) as items:  # steps 4 to 6
                hits, fresh = self._best(
                    items, self.fusion, request, asked.names, None, user, query, now, asked.added, lap
                )
            if selection is None or not asked.strangers(hits, unknown):
                return RankResponse(hits, self.generation, self.bundle_hash, known, segments, fresh)

    def retrieve(self, request: RetrieveRequest, lap: Lap = untimed) -> RankResponse:
        """The best `k` of all items that the request lets in, by the fusion for `retrieve`: its scores say what is
        chosen next, those of `rank` what is liked, and they do not compare.

        The index proposes by the last written vectors, with the recall that it is set to; which items are proposed does
        not know of expired item segments, their scores do. Raises GenerationUnavailable and BadRequest.
        """
        self._pin(request.generation)
        selection = self._asked(request)
        now = self._now_ms()
        known, user, segments = self._user(request.user, now)
        query = self.retrieval.user_half(user)
        lap("user")
        seen = self._seen(request)
        allowed, denied, hashes = request.allow, set(request.deny), _hashes(request.deny)
        with self.copy.read("item", hashes) as items:
            named = items.names(np.arange(len(hashes)))
            deny = hashes[[name == item for name, item in zip(named, request.deny, strict=True)]]
        if allowed is not None:
            found = _hashes(list(dict.fromkeys(allowed)))
        else:
            wanted = request.k + _SPARE if request.k else 0
            found = self.copy.search(query[0], wanted, np.concatenate([deny, seen]), selection)
        let_in = None if allowed is None else set(allowed)
        lap("candidates")
        with self.copy.read("item", found) as items:
            # A row may have gone to another item since the search: its name is read with its vector, and judged again.
            names = [name or "" for name in items.names(np.arange(len(found)))]
            good = [bool(n) and n not in denied and (let_in is None or n in let_in) for n in names]
            may = np.array(good, np.bool_) & ~_among(found, seen)
            added = None
            if selection is not None:
                columns, _ = items.served()
                may, added = may & selection.kept(columns), selection.added(columns)
            hits, fresh = self._best(
                items, self.retrieval, request, names, np.flatnonzero(may), user, query, now, added, lap
            )
        return RankResponse(hits, self.generation, self.bundle_hash, known, segments, fresh)

    def suppose(self, user: Floats, items: Sequence[str]) -> list[Hit]:
        """All of `items` as `rank` would order them for a user whose vectors were float32 [dims], with each segment's
        shares. Raises BadRequest."""
        request = RankRequest("", list(items), min(len(items), self.limits.max_k), explain=True)
        self._bound("candidates", len(items), self.limits.max_candidates)
        query, hashes = self.fusion.user_half(user), _hashes(items)
        with self.copy.read("item", hashes) as read:
            hits, _ = self._best(read, self.fusion, request, items, None, user, query, self._now_ms())
        return hits

    def entity(
        self, side: Side, entity: str, *, vectors: bool = False, generation: str | None = None
    ) -> EntityResponse:
        """What is stored of one entity, with its codes when `vectors`. Raises GenerationUnavailable."""
        self._pin(generation)
        hashes, now = _hashes([entity]), self._now_ms()
        if side == "user":
            self._own(entity)
        entries: dict[str, SegmentEntry] = {}
        with self.copy.read(side, hashes, [entity]) as row:
            known = row.names(_FIRST) == [entity] and not self._is_hidden(row, side)
            if known:
                fresh = self._freshness(row.weakest(_FIRST), side, now)
                for (name, freshness), stored in zip(fresh.items(), row.stored(0), strict=True):
                    entries[name] = SegmentEntry(freshness, *((stored.codes, stored.scale) if vectors else ()))
            partition = row.partition(0) if known else None
        return EntityResponse(side, entity, known, self.generation, self.bundle_hash, partition, entries)

    def segments(self, side: Side) -> tuple[SegmentSpec, ...]:
        """The side's segments, in the order of the spec."""
        return self._specs[side]

    def shown(self) -> Selection | None:
        """What is in answers of all items: those that the spec's `hide` does not keep back; None where that is all."""
        return self._selector.of("", {})

    def at_hand(self, user: str) -> bool:
        """Whether a lookup for `user` takes no disk and asks nobody: see Copy."""
        return self.copy.at_hand("user", user)

    def warm(self) -> None:
        """Compile every kernel that a request runs: called before `ready`, or the first caller waits two seconds."""
        self.copy.warm()
        self.rank(RankRequest("", [""], 1, explain=True))
        self.retrieve(RetrieveRequest("", 1, explain=True))
        everything = Selection(self.copy.codecs["item"].served.attributes)
        self._candidates(RankRequest("", [""]), everything, set())
        self.copy.search(np.zeros(self.copy.codecs["item"].dim, np.float32), 1, np.empty(0, np.int64), everything)
        with self.copy.read("user", _hashes([""])) as row:
            row.served()

    def _pin(self, generation: str | None) -> None:
        """Step 1: the generation asked for, or none. All of this engine's parts belong to one."""
        if generation is not None and generation != self.generation:
            raise GenerationUnavailable(
                f"generation {generation} is not served here, {self.generation} is",
                do="Leave the generation out, or ask a server that has it",
            )

    def _own(self, user: str) -> None:
        """Raise WrongShard for a user that another node has. The empty id is no user's, and the same everywhere."""
        shard = self.copy.shard
        if shard.of > 1 and user and (owner := shard.owner(user, self.copy.user_partitions)) != shard.number:
            raise WrongShard(
                f"the user is of shard {owner}/{shard.of}, and this is {shard}",
                do=f"Ask shard {owner}/{shard.of}",
                shard=owner,
            )

    def _asked(self, request: RankRequest | RetrieveRequest | Scanned) -> Selection | None:
        """What the request asks of items, after its bounds."""
        self._bound("k", request.k, self.limits.max_k)
        self._bound("deny", len(request.deny), self.limits.max_deny)
        self._bound("allow", len(request.allow or ()), self.limits.max_allow)
        if request.exclude_seen and not self.copy.codecs["user"].served.remembers:
            raise BadRequest(
                "exclude_seen, and this generation remembers no items of a user",
                do="Write remember = 200 under [serving] of the spec, and build a generation of it",
            )
        return self._selector.of(request.filter, request.boost)

    def _seen(self, request: RankRequest | RetrieveRequest | Scanned) -> Ints:
        """Hashes int64, ascending, of the items that the answer must not have because the user has seen them."""
        if not request.exclude_seen:
            return np.empty(0, np.int64)
        with self.copy.read("user", _hashes([request.user]), [request.user]) as row:
            if row.names(_FIRST) != [request.user]:
                return np.empty(0, np.int64)
            items = row.served()[0][0]
        return np.unique(items[items != 0])

    def _candidates(self, request: RankRequest | Scanned, selection: Selection | None, unknown: set[int]) -> Candidates:
        """Step 3: those that may be answered. Those at the places `unknown` have no attributes."""
        names: Sequence[str] = request.candidates
        hashes = request.hashes if isinstance(request, Scanned) else _hashes(names)
        asks = bool(request.deny) or request.allow is not None or request.exclude_seen
        if not asks and selection is None:  # the usual case
            return Candidates(names, hashes, np.arange(len(names)), None)
        may = np.ones(len(names), np.bool_)
        if request.deny or request.allow is not None:
            denied, allowed = set(request.deny), None if request.allow is None else set(request.allow)
            let_in = [n not in denied and (allowed is None or n in allowed) for n in names]
            may &= np.array(let_in, np.bool_)
        if request.exclude_seen:
            may &= ~_among(hashes, self._seen(request))
        added = None
        if selection is not None:
            with self.copy.read("item", hashes) as items:
                columns, found = items.served()
            unknown.update(np.flatnonzero(~found).tolist())
            columns[list(unknown)] = 0
            may &= selection.kept(columns)
            added = selection.added(columns)
        if may.all():
            return Candidates(names, hashes, np.arange(len(names)), added)
        places = np.flatnonzero(may)
        kept = [names[place] for place in places.tolist()]
        return Candidates(kept, hashes[places], places, None if added is None else added[places])

    def _is_hidden(self, row: Reading, side: Side) -> bool:
        """Whether the first place is an item that is in no answer."""
        hidden = None if side == "user" else self.shown()
        return hidden is not None and not hidden.kept(row.served()[0])[0]

    def _bound(self, name: str, value: int, most: int) -> None:
        if not 0 <= value <= most:
            raise BadRequest(f"{name} is {value}", do=f"Use 0 to {most}")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _user(self, user: str, now: int) -> tuple[bool, Floats, dict[str, SegmentFreshness]]:
        """Step 2: whether the user is known, the vectors to use float32 [dims], and how current they are."""
        hashes = np.array([_hash(user)])
        self._own(user)
        with self.copy.read("user", hashes, [user]) as row:
            known, vectors, weakest = row.one(user, now)
        return known, vectors, self._freshness(weakest, "user", now)

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
        added: Floats | None = None,
        lap: Lap = untimed,
    ) -> tuple[list[Hit], dict[str, SegmentFreshness]]:
        """Steps 4 to 6 over some places of the items read, int64 [m] (None: all), `names` [n] of all of them, and what
        is `added` to their scores, float32 [n]: hits, and the freshness of the returned items."""
        boost = NO_BOOST if added is None else added
        while True:
            best, scores = items.best(fusion, query, now, request.k, places, boost)
            # An unknown id with the hash of another, whose vector is not its own; or one whose row is gone by now.
            titles = names.at(best) if isinstance(names, Names) else [names[i] for i in best.tolist()]
            strangers = items.strangers(best, titles)
            if not len(strangers):
                break
            items.forget(strangers)
        known = items.found[best]
        lap("score")
        shares: list[dict[str, float] | None] = [None] * len(best)
        if request.explain:
            segments = [spec.name for spec in self._specs["user"]]
            parts = fusion.shares(user, items.vectors(best, now), self.copy.default("user"))
            shares = [dict(zip(segments, part, strict=True)) for part in parts.tolist()]
            if added is not None:
                shares = [
                    (share or {}) | {BOOST: more} for share, more in zip(shares, added[best].tolist(), strict=True)
                ]
        hits = list(map(Hit, titles, scores.tolist(), known.tolist(), shares))
        return hits, self._freshness(items.weakest(best), "item", now)

    def _freshness(self, weakest: Ints, side: Side, now: int) -> dict[str, SegmentFreshness]:
        """For each segment the weakest link, of what Reading.weakest tells: oldest times of the known ones, worst state
        of all."""
        oldest, events, unknown = weakest.tolist()
        answer = {}
        for s, spec in enumerate(self._specs[side]):
            aged: State = _state(now - oldest[s], spec) if oldest[s] else "missing"
            answer[spec.name] = SegmentFreshness(
                oldest[s] or None, events[s] or None, "missing" if unknown[s] else aged
            )
        return answer


def _among(hashes: Ints, few: Ints) -> Bools:
    """bool [n]: which `hashes` int64 [n] are among a `few`, ascending. Of 1,000 and 200 it takes a twentieth of what
    np.isin takes, which sorts both."""
    if not len(few):
        return np.zeros(len(hashes), np.bool_)
    found: Bools = few[np.minimum(np.searchsorted(few, hashes), len(few) - 1)] == hashes
    return found


def _state(age_ms: int, spec: SegmentSpec) -> State:
    if spec.expires_after_ms and age_ms > spec.expires_after_ms:
        return "expired"
    return "late" if spec.late_after_ms and age_ms > spec.late_after_ms else "fresh"


def _hashes(ids: Sequence[str]) -> Ints:
    try:
        return hash_ids(ids)
    except UnicodeEncodeError:
        raise _no_text() from None


def _hash(entity: str) -> int:
    try:
        return hash_id(entity)
    except UnicodeEncodeError:
        raise _no_text() from None


def _no_text() -> BadRequest:
    return BadRequest("an id has a lone surrogate", do="Send ids as UTF-8")
