"""How one more event would move a user: asked of whoever runs the encoders, and ranked by this server's engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forebay.arrays import Floats
from forebay.errors import BadRequest, ForebayError
from forebay.retrieval.engine import Engine
from forebay.retrieval.inspect.looking import CANDIDATES, SHOWN, proposed
from forebay.retrieval.messages import Hit
from forebay.segments.state.ids import hash_ids

_MOST_TEXT = 1_000


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

    actions: Sequence[str]  # that the spec names

    def suppose(self, supposition: Supposition) -> Supposed:
        """Raises ForebayError where it cannot be said: by name, with the remedy. It has a bound in time of its own."""


@dataclass(frozen=True)
class Move:
    """A hit of the ranking with the event, and its place without it from 1 on; 0: retrieve did not find it."""

    hit: Hit
    was: int


@dataclass(frozen=True)
class Comparison:
    """`moves` are the best with the event, best first, of the `asked` items that retrieve finds with it; `gone` are
    those that it takes from among the best, each with its place now (0: retrieve does not find it any more). `turned`
    says of each segment by how much its vector turns, as 1 - cosine; `served`: whether the vectors without the event
    are those that are served."""

    supposed: Supposed
    moves: Sequence[Move]
    gone: Sequence[tuple[str, int]]
    turned: Mapping[str, float]
    asked: int
    served: bool


@dataclass(frozen=True)
class Outcome:
    """What became of a question: a comparison, or an error and its remedy, or nothing yet."""

    supposition: Supposition
    comparison: Comparison | None
    error: str
    do: str


def supposed(engine: Engine, what_if: WhatIf, user: str, asked: Mapping[str, str]) -> Outcome:
    """The outcome of the form's fields `item`, `action` and `value`. Whatever is wrong is told in it."""
    text = asked.get("value", "").strip() or "0"
    item, action = asked.get("item", "")[:_MOST_TEXT], asked.get("action", "")[:_MOST_TEXT]
    supposition = Supposition(user, item, action, 0.0)
    try:
        try:
            value = float(text[:40])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise BadRequest("the value is no number", do="Use one such as 4 or 0.5")
        supposition = Supposition(user, item, action, value)
        found = what_if.suppose(supposition)
        return Outcome(supposition, compare(engine, user, found), "", "")
    except ForebayError as error:
        return Outcome(supposition, None, error.what, error.do)


def compare(engine: Engine, user: str, found: Supposed) -> Comparison:
    """The rankings of both vectors, each of what retrieve finds with them: what would be answered."""
    most = min(CANDIDATES, engine.limits.max_k)
    before, after = (engine.suppose(v, proposed(engine, v, most)) for v in (found.before, found.after))
    places = {hit.item: place for place, hit in enumerate(before, start=1)}
    moves = [Move(hit, places.get(hit.item, 0)) for hit in after[:SHOWN]]
    here = {move.hit.item for move in moves}
    later = {hit.item: place for place, hit in enumerate(after, start=1)}
    gone = [(hit.item, later.get(hit.item, 0)) for hit in before[:SHOWN] if hit.item not in here]
    turned, start = {}, 0
    for segment in engine.segments("user"):
        part = slice(start, start + segment.dim)
        turned[segment.name] = _turned(found.before[part], found.after[part])
        start += segment.dim
    with engine.copy.read("user", hash_ids([user])) as row:
        # At 0 nothing is expired: what is compared is what is stored.
        served = row.names(np.zeros(1, np.int64)) == [user] and bool(
            np.array_equal(row.vectors(np.zeros(1, np.int64), 0)[0], found.before)
        )
    return Comparison(found, moves, gone, turned, len(after), served)


def _turned(before: Floats, after: Floats) -> float:
    if np.array_equal(before, after):
        return 0.0
    lengths = float(np.linalg.norm(before) * np.linalg.norm(after))
    return 1.0 - float(before @ after) / lengths if lengths > 0 else 1.0
