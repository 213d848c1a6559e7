"""Which impressions were positive: the one place where a label's conditions are asked, for training and evaluation alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forebay.segments.columns import Columns
from forebay.segments.ids import hash_ids
from forebay.segments.spec import Label

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def judged(label: Label, events: Columns, until: int) -> tuple[Ints, Bools]:
    """The impressions among `events` whose outcome is known, as places int64 [m] in ascending order, and their labels bool [m].

    `events` are all behaviours of a log, columns of side user; the log is complete before `until` (ms). What a label means is said
    at `Label`.
    """
    named = {"action": events.matrix[:, 1], "value": events.matrix[:, 2]}
    shown = label.impression(named) if label.impression else np.ones(len(events), dtype=bool)
    positive = np.broadcast_to(label.positive(named), shown.shape)
    if label.within_ms is None:
        places = np.flatnonzero(shown)
        return places, positive[places]
    # An event that is both is its own outcome.
    labels = shown & positive
    labels[_credited(events, shown, positive & ~shown, label.within_ms)] = True
    places = np.flatnonzero(shown & (events.times + label.within_ms < until))
    return places, labels[places]


def _credited(events: Columns, shown: Bools, outcome: Bools, within_ms: int) -> Ints:
    """int64 places of the impressions that an outcome is credited to: for each the latest by (time, id) of the same user and item,
    at most `within_ms` older."""
    asked = np.flatnonzero(shown | outcome)
    users, items, times = hash_ids(events.entities)[asked], events.matrix[asked, 0], events.times[asked]
    # In one millisecond the outcome comes after its impression, whatever their ids are.
    order = np.lexsort((events.ids[asked], outcome[asked], times, items, users))
    asked, users, items, times = asked[order], users[order], items[order], times[order]
    place = np.arange(len(asked))
    latest = np.maximum.accumulate(np.where(shown[asked], place, -1))
    found = outcome[asked] & (latest >= 0)
    same = (users == users[latest]) & (items == items[latest]) & (times - times[latest] <= within_ms)
    return asked[latest[found & same]]
