"""Which impressions were positive: the one place where a label's conditions are asked, for training and evaluation
alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.events import Behaviour
from forebay.segments.spec import Spec
from forebay.segments.state.columns import Columns
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.layout import Layout


def judged(spec: Spec, behaviours: Sequence[Behaviour], events: Columns, until: int) -> tuple[Ints, Bools]:
    """The impressions among `behaviours` whose outcome is known, as places int64 [m] in ascending order, and their
    labels bool [m].

    `behaviours` are all those of a log, and `events` their columns, of side user; the log is complete before `until`
    (ms). What a label means is said at `Label`.
    """
    label = spec.label
    shown, positive = conditions(spec, events)
    if label.within_ms is None:
        places = np.flatnonzero(shown)
        return places, positive[places]
    # An event that is both is its own outcome.
    labels = shown & positive
    keys, joined = _keys(behaviours, label.join)
    labels[_credited(events, keys, shown & joined, positive & ~shown & joined, label.within_ms)] = True
    places = np.flatnonzero(shown & (events.times + label.within_ms < until))
    return places, labels[places]


def conditions(spec: Spec, events: Columns) -> tuple[Bools, Bools]:
    """Which of `events`, of side user, are impressions and which meet `positive`, bool [n] each, whatever belongs
    together."""
    named = dict(zip(Layout.of(spec, "user").event_columns, events.matrix.T, strict=True))
    label = spec.label
    shown = label.impression(named) if label.impression else np.ones(len(events), dtype=bool)
    return shown, np.broadcast_to(label.positive(named), shown.shape)


def _keys(behaviours: Sequence[Behaviour], join: str) -> tuple[Ints, Bools]:
    """What each event is joined by, hashed, int64 [n], and whether it has it, bool [n]; one and the same for all
    without a `join`."""
    if not join:
        return np.zeros(len(behaviours), dtype=np.int64), np.ones(len(behaviours), dtype=bool)
    values = [b.attributes.get(join) for b in behaviours]
    # The text "3" and the number 3.0 are two values.
    texts = [f"t{v}" if isinstance(v, str) else f"n{float(v)!r}" if isinstance(v, int | float) else "" for v in values]
    return hash_ids(texts), np.array([bool(t) for t in texts], dtype=bool)


def _credited(events: Columns, keys: Ints, shown: Bools, outcome: Bools, within_ms: int) -> Ints:
    """int64 places of the impressions that an outcome is credited to: for each the latest by (time, id) of the same
    user, item and key, at most `within_ms` older."""
    asked = np.flatnonzero(shown | outcome)
    users, items = events.entities.hashes[asked], events.matrix[asked, 0]
    keys, times = keys[asked], events.times[asked]
    # In one millisecond the outcome comes after its impression, whatever their ids are.
    order = np.lexsort((events.ids[asked], outcome[asked], times, keys, items, users))
    asked, users, items, keys, times = asked[order], users[order], items[order], keys[order], times[order]
    place = np.arange(len(asked))
    latest = np.maximum.accumulate(np.where(shown[asked], place, -1))
    found = outcome[asked] & (latest >= 0)
    same = (users == users[latest]) & (items == items[latest]) & (keys == keys[latest])
    return asked[latest[found & same & (times - times[latest] <= within_ms)]]
