"""What freshness is worth: the same impressions scored with vectors of the moment and with vectors of the last
midnight.

A point-in-time replay through the fold, the encoders and the fusion that serve. The final state is never used to score:
it has seen the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.clock import DAY_MS
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.history.examples import Examples
from forebay.segments.history.replay import snapshots
from forebay.segments.history.sidelog import SideLog
from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side
from forebay.segments.training.metrics import auc


@dataclass(frozen=True)
class Worth:
    """AUC over `impressions` with vectors of strictly earlier events, and of events before the last midnight (UTC)."""

    impressions: int
    fresh_auc: float
    nightly_auc: float


def worth(bundle: Bundle, history: History, since: int) -> Worth:
    """Score every impression from `since` (ms) on."""
    examples = Examples.of(bundle.spec, history).between(since, 1 << 62)
    encoders = {side: SideEncoders(bundle, side) for side in SIDES}
    midnight = examples.times // DAY_MS * DAY_MS

    def score(as_of: Ints) -> Floats:
        vectors = {
            side: encoders[side].encode_all(examples.states(bundle.layouts[side], as_of), examples.hashes(side))
            for side in SIDES
        }
        fusion = bundle.fusions["rank"]
        halves = fusion.item_half(vectors["item"])
        pairs = zip(vectors["user"], halves, strict=True)
        return np.concatenate([fusion.join(fusion.user_half(u), half[None]) for u, half in pairs])

    return Worth(
        impressions=len(examples),
        fresh_auc=auc(score(examples.times), examples.labels),
        nightly_auc=auc(score(midnight), examples.labels),
    )


def final_vectors(bundle: Bundle, history: History, side: Side, clock: int) -> tuple[list[str], list[SegmentVectors]]:
    """Ids, and for each segment the vectors after the whole `history` with ticks up to `clock` (ms): what a stream that
    has consumed the same events must be serving, to the bit."""
    log = SideLog.of(bundle.spec, side, history)
    count = len(log.entities)
    rows = snapshots(
        bundle.layouts[side], log, np.arange(count), np.full(count, 1 << 62), np.full(count, clock, dtype=np.int64)
    )
    encoders = SideEncoders(bundle, side)
    return log.entities, [encoders.encode(place, rows, log.hashes) for place in range(len(encoders.segments))]
