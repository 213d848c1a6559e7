"""Which impressions were positive: the one place where a label's conditions are asked, for training and evaluation
alike."""

from __future__ import annotations

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.segments.history.sidelog import SideLog
from forebay.segments.spec import Spec
from forebay.segments.state.columns import Columns
from forebay.segments.state.layout import Layout


def judged(spec: Spec, log: SideLog, until: int) -> tuple[Ints, Bools]:
    """The impressions among the behaviours of `log`, of side user, whose outcome is known, as places int64 [m] in
    ascending order, and their labels bool [m].

    The log is complete before `until` (ms). What a label means is said at `Label`.
    """
    label, events = spec.label, log.behaviours
    shown, positive = conditions(spec, events)
    if label.within_ms is None:
        places = np.flatnonzero(shown)
        return places, positive[places]
    # An event that is both is its own outcome.
    labels = shown & positive
    labels[_credited(log, shown & log.keys.known, positive & ~shown & log.keys.known, label.within_ms)] = True
    places = np.flatnonzero(shown & (events.times + label.within_ms < until))
    return places, labels[places]


def conditions(spec: Spec, events: Columns) -> tuple[Bools, Bools]:
    """Which of `events`, of side user, are impressions and which meet `positive`, bool [n] each, whatever belongs
    together."""
    named = dict(zip(Layout.of(spec, "user").event_columns, events.matrix.T, strict=True))
    label = spec.label
    shown = label.impression(named) if label.impression else np.ones(len(events), dtype=bool)
    return shown, np.broadcast_to(label.positive(named), shown.shape)


def _credited(log: SideLog, shown: Bools, outcome: Bools, within_ms: int) -> Ints:
    """int64 places of the impressions that an outcome is credited to: for each the latest by (time, id) of the same
    user, item and key, at most `within_ms` older."""
    events = log.behaviours
    asked = np.flatnonzero(shown | outcome)
    users, items = log.at[asked], events.matrix[asked, 0]
    keys, times = log.keys.values[asked], events.times[asked]
    # In one millisecond the outcome comes after its impression, whatever their ids are.
    order = np.lexsort((events.ids[asked], outcome[asked], times, keys, items, users))
    asked, users, items, keys, times = asked[order], users[order], items[order], keys[order], times[order]
    place = np.arange(len(asked))
    latest = np.maximum.accumulate(np.where(shown[asked], place, -1))
    found = outcome[asked] & (latest >= 0)
    same = (users == users[latest]) & (items == items[latest]) & (keys == keys[latest])
    return asked[latest[found & same & (times - times[latest] <= within_ms)]]
