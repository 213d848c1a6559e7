"""What the page asks of whoever can say how one more event would move a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forebay.arrays import Floats


@dataclass(frozen=True)
class Supposition:
    """One event that did not happen."""

    user: str
    item: str
    action: str
    value: float


@dataclass(frozen=True)
class Supposed:
    """A user's vectors float32 [dims] as they are, and as they would be with the event.

    They stand on the state of a Checkpoint made at `checkpoint_ms` and `events` of the clean log after it, which is all
    that the log had at `read_ms`. `remarks` are sentences on what is left out.
    """

    before: Floats
    after: Floats
    checkpoint_ms: int
    events: int
    read_ms: int
    remarks: Sequence[str] = ()


class WhatIf(Protocol):
    """Called from a thread that is nobody's but the page's, one call at a time."""

    @property
    def actions(self) -> Sequence[str]:
        """That the spec names."""

    def suppose(self, supposition: Supposition) -> Supposed:
        """Raises ForebayError where it cannot be said: by name, with the remedy. Never takes longer than a bound of its
        own."""
