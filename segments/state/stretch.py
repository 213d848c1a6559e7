"""Events of one partition between two ticks: what a fold takes at a time."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.segments.state.columns import Columns


@dataclass(frozen=True)
class Stretch:
    """Behaviours and attribute updates, and the moment of the `tick` (ms) that ends them, 0 where none does.

    Within a stretch order means nothing. Ticks keep their place in the log: whether an idle user retires before its
    next event must not depend on how a log is cut into batches.
    """

    behaviours: Columns
    updates: Columns
    tick: int
