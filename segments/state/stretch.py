"""Events of one partition between two ticks: what a fold takes at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Places
from forebay.events import Behaviour, Event, Interaction, Tick
from forebay.segments.state.columns import ColumnCoder, Columns


@dataclass(frozen=True)
class Stretch:
    """Behaviours (or interactions) and attribute updates, and the moment of the `tick` (ms) that ends them, 0 where
    none does.

    Within a stretch order means nothing. Ticks keep their place in the log: whether an idle user retires before its
    next event must not depend on how a log is cut into batches. `acted` and `updated` int64 are the places that the
    events have in what the stretch was cut from.
    """

    behaviours: Columns
    updates: Columns
    tick: int
    acted: Places
    updated: Places


def stretches(coder: ColumnCoder, events: Sequence[Event]) -> list[Stretch]:
    """Cut a batch of one partition, in order of the log, at its ticks. Every event has an id and a time."""
    found: list[Stretch] = []
    acted: list[int] = []
    updated: list[int] = []

    def cut(tick: int) -> None:
        behaviours = coder.behaviours([events[p] for p in acted])  # type: ignore[misc]
        updates = coder.updates([events[p] for p in updated])  # type: ignore[misc]
        found.append(Stretch(behaviours, updates, tick, np.array(acted, np.intp), np.array(updated, np.intp)))
        acted.clear()
        updated.clear()

    for place, event in enumerate(events):
        if isinstance(event, Tick):
            cut(event.time)
        elif isinstance(event, Behaviour | Interaction):
            acted.append(place)
        else:
            updated.append(place)
    if acted or updated:
        cut(0)
    return found
