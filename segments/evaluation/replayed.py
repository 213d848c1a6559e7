"""A part of the log replayed to each of its moments, and a bundle scored over it as it would have served it then.

State comes from the fold that serves, vectors through int8, scores from the torch-free fusion: what is measured is the
product, not its training twin. A final state is never used: it has seen the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from forebay.arrays import Floats, Ints, Places
from forebay.clock import DAY_MS
from forebay.segments.bundle import Bundle
from forebay.segments.fusions.contract import Fusion, InnerProduct
from forebay.segments.history import History
from forebay.segments.history.choices import Choices
from forebay.segments.history.examples import Examples
from forebay.segments.history.replay import snapshots
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side, Spec, Use
from forebay.segments.state.kept import CHUNK
from forebay.segments.state.layout import Layout
from forebay.segments.training import metrics

Change = Callable[[Floats], Floats]  # of a side's vectors [n, dims]: what a segment is replaced by, or stored as

NIGHTLY = -1.0  # a lag that means "as of the last midnight (UTC)"


@dataclass
class Replayed:
    """The impressions of [since, until) with their states, and `choices` among them. States are read once for each lag
    and kept: they depend on the layout alone, so every bundle of the spec shares them."""

    spec: Spec
    everything: Examples
    part: Examples
    choices: Choices
    _states: dict[tuple[str, Side, float], Ints] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: Spec, history: History, since: int, until: int, questions: int = 2000, seed: int = 0) -> Replayed:
        examples = Examples.of(spec, history)
        choices = Choices.of(examples, since, until, questions, seed)
        return cls(spec, examples, examples.between(since, until), choices)

    @cached_property
    def layouts(self) -> dict[Side, Layout]:
        return {side: Layout.of(self.spec, side) for side in SIDES}

    def of_spec(self, spec: Spec) -> Replayed:
        """The same impressions and choices for a spec of the same attributes and label: they are not read again."""
        return Replayed(spec, self.everything, self.part, self.choices)

    @cached_property
    def by_user(self) -> Places:
        """Places of the impressions, each user's together and in order of time."""
        return np.lexsort((self.part.times, self.part.users))

    @cached_property
    def requests(self) -> Ints:
        """int64 [n]: impressions of one user in one second are one request."""
        return metrics.request_groups(self.part.users, self.part.times)

    @cached_property
    def earlier(self) -> dict[Side, Ints]:
        """int64 [n] for each side: how many impressions of this user, and of this item, came strictly before."""
        everything, found = self.everything, {}
        for side, of, asked in (
            ("user", everything.users, self.part.users),
            ("item", everything.items, self.part.items),
        ):
            order = np.lexsort((everything.times, of))
            span = int(max(everything.times.max(), self.part.times.max())) + 1
            keys = of[order].astype(np.float64) * span + everything.times[order]
            wanted = asked.astype(np.float64) * span
            found[side] = np.searchsorted(keys, wanted + self.part.times) - np.searchsorted(keys, wanted)
        return found  # type: ignore[return-value]

    def states(self, side: Side, lag_s: float) -> Ints:
        """int64 [n, width], of events up to `lag_s` seconds before each impression."""
        key = ("part", side, lag_s)
        if key not in self._states:
            self._states[key] = self.part.states(self.layouts[side], as_of(self.part.times, lag_s))
        return self._states[key]

    def choosers(self, lag_s: float) -> Ints:
        """int64 [m, width]: states of the users of `choices`."""
        key: tuple[str, Side, float] = ("choices", "user", lag_s)
        if key not in self._states:
            times = as_of(self.choices.times, lag_s)
            self._states[key] = snapshots(self.layouts["user"], self.everything.logs["user"], self.choices.users, times)
        return self._states[key]

    @cached_property
    def catalogues(self) -> list[Ints]:
        """int64 [items, width] at each midnight of `choices`."""
        return list(self.choices.catalogues(self.layouts["item"]))

    def ranking(self, scores: Floats) -> dict[str, float]:
        """Figures of scores [n] of the impressions."""
        labels = self.part.labels
        return {
            "auc": metrics.auc(scores, labels),
            "gauc": metrics.grouped_auc(scores, labels, self.part.users),
            "request_gauc": metrics.grouped_auc(scores, labels, self.requests),
            "logloss": metrics.logloss(scores, labels),
            "calibration_error": metrics.calibration_error(scores, labels),
        }

    def retrieval(self, scores: Floats) -> dict[str, float]:
        """Figures of scores [m, items] of the choices."""
        ranks = self.choices.ranks(scores)
        return {
            "recall@10": metrics.recall(ranks, 10),
            "recall@50": metrics.recall(ranks, 50),
            "ndcg@10": metrics.ndcg(ranks, 10),
            "coverage@50": metrics.coverage(self.choices.best(scores, 50), self.choices.items),
        }


class Served:
    """One bundle over a Replayed part. `exact` leaves int8 out: the vectors as the encoders give them. Vectors are kept
    until `forget`, columns of segments that a use does not read being zero in them."""

    def __init__(self, bundle: Bundle, replayed: Replayed, exact: bool = False) -> None:
        self.bundle, self.replayed, self._exact = bundle, replayed, exact
        self._encoders = {side: SideEncoders(bundle, side) for side in SIDES}
        self._kept: dict[tuple[Side, float], Floats] = {}

    def vectors(self, side: Side, lag_s: float = 0.0) -> Floats:
        """float32 [n, dims] of the impressions' users or items."""
        key = (side, lag_s)
        if key not in self._kept:
            rows, hashes = self.replayed.states(side, lag_s), self.replayed.part.hashes(side)
            self._kept[key] = self._encode("rank", side, rows, hashes)
        return self._kept[key]

    def forget(self, *but: float) -> None:
        """Drop the vectors of every lag, `but` of some: five seeds of them are gigabytes."""
        self._kept = {key: vectors for key, vectors in self._kept.items() if key[1] in but}
        self.__dict__.pop("_catalogues", None)

    def _encode(self, use: Use, side: Side, rows: Ints, hashes: Ints) -> Floats:
        encoders, only = self._encoders[side], self.bundle.spec.fusions[use].segments
        encode = encoders.encode_exact if self._exact else encoders.encode_all
        # In chunks: a list's read-out is a hundred times as large as its vector.
        parts = [encode(rows[at : at + CHUNK], hashes[at : at + CHUNK], only) for at in range(0, len(rows), CHUNK)]
        return np.concatenate(parts) if parts else encode(rows, hashes, only)

    def encoders(self, side: Side) -> SideEncoders:
        return self._encoders[side]

    def columns(self, title: str) -> slice:
        """Where a segment lies in its side's flat vector."""
        at = 0
        side: Side = "user" if title.startswith("user.") else "item"
        for segment in self.bundle.spec.side(side):
            if segment.title == title:
                return slice(at, at + segment.dim)
            at += segment.dim
        raise KeyError(title)

    def scores(self, users: Floats | None = None, items: Floats | None = None, fusion: Fusion | None = None) -> Floats:
        """float32 [n]: the `rank` fusion over each impression's pair, fresh vectors unless others are given.
        Impressions that follow one another with the same user vector are one request."""
        fusion = fusion or self.bundle.fusions["rank"]
        users = self.vectors("user") if users is None else users
        halves = fusion.item_half(self.vectors("item") if items is None else items)
        order = self.replayed.by_user
        turns = np.flatnonzero((users[order][1:] != users[order][:-1]).any(axis=1)) + 1
        scores = np.empty(len(order), dtype=np.float32)
        for request in np.split(order, turns) if len(order) else ():
            scores[request] = fusion.join(fusion.user_half(users[request[0]]), halves[request])
        return scores

    def choice_scores(
        self, lag_s: float = 0.0, change: Mapping[Side, Change] | None = None, fusion: InnerProduct | None = None
    ) -> Floats:
        """float32 [m, items]: the `retrieve` fusion over users of that lag and each day's catalogue."""
        retrieve = fusion or self.bundle.fusions["retrieve"]
        assert isinstance(retrieve, InnerProduct)
        choices, changes = self.replayed.choices, change or {}
        hashes = self.replayed.everything.logs["user"].hashes[choices.users]
        users = changes.get("user", _same)(self._encode("retrieve", "user", self.replayed.choosers(lag_s), hashes))
        queries = np.stack([retrieve.query(u) for u in users])
        scores = np.empty((len(choices), choices.items), dtype=np.float32)
        for day, items in enumerate(self._catalogues):
            rows = choices.day == day
            scores[rows] = queries[rows] @ changes.get("item", _same)(items).T
        return scores

    @cached_property
    def _catalogues(self) -> list[Floats]:
        hashes = self.replayed.choices.logs_item.hashes
        return [self._encode("retrieve", "item", rows, hashes) for rows in self.replayed.catalogues]


def as_of(times: Ints, lag_s: float) -> Ints:
    """The moments `lag_s` before `times` (ms); NIGHTLY is each one's last midnight."""
    return times // DAY_MS * DAY_MS if lag_s == NIGHTLY else times - int(lag_s * 1000)


def _same(vectors: Floats) -> Floats:
    return vectors
