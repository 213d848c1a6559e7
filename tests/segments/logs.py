"""Random logs of one side, and the stream that folds them as streams/worker/processor.py does."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from forebay.clock import DAY_MS
from forebay.events import Attribute, Attributes, Behaviour, Interaction, ItemUpdate, Tick, UserProfile
from forebay.segments.spec import Side, Spec
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.state.columns import ColumnCoder
from forebay.segments.state.fold import DEEP, DUPLICATE, Fold
from forebay.segments.state.layout import Layout

Behaving = Behaviour | Interaction
Updating = UserProfile | ItemUpdate
Entry = Behaving | Updating | Tick

SPANS_MS = (50, 3_000, 60_000, 3_600_000, DAY_MS, 40 * DAY_MS)
VALUES = (0.0, 1.0, -1.0, 2.5, 4.0, 0.0005, 0.0015, -0.0025, 999_999.999)


def random_log(random: Random, spec: Spec, side: Side, size: int) -> list[Entry]:
    """Different events of a few entities and ticks anywhere; an event is known by (entity, time, id), and ids come
    again."""
    start = random.choice([1, 1_700_000_000_000 + random.randrange(DAY_MS)])
    span = random.choice(SPANS_MS)
    entities = [f"{side}{n}" for n in range(random.randint(1, 4))]
    ids = [f"e{n}" for n in range(random.choice([2, size * 4]))]
    times = [start]
    seen: set[tuple[str, int, str]] = set()
    log: list[Entry] = []
    for _ in range(random.randint(1, size)):
        time = random.choice(times) if random.random() < 0.3 else start + random.randrange(span)
        times.append(time)
        entity, identity = random.choice(entities), random.choice(ids)
        if random.random() < 0.08:
            log.append(Tick(max(1, time + random.randint(-span, span))))
        elif (entity, time, identity) not in seen:
            seen.add((entity, time, identity))
            log.append(_event(random, spec, side, entity, time, identity))
    return log


def _event(random: Random, spec: Spec, side: Side, entity: str, time: int, identity: str) -> Entry:
    if random.random() < 0.15:
        attributes = _attributes(random, spec.attributes[side])
        kind = UserProfile if side == "user" else ItemUpdate
        return kind(entity, attributes, time, identity)
    action = random.choice([*spec.events.actions, "unheard of"])
    value = random.choice([*VALUES, random.uniform(-5, 5)])
    other = f"other{random.randrange(9)}"
    own = _attributes(random, spec.event_attributes) if spec.event_attributes else {}
    if side == "user":
        of_item = _attributes(random, spec.attributes["item"])
        return Behaviour(entity, other, action, value, time, identity, of_item, own)
    return Interaction(entity, other, action, value, time, identity, time, own)


def _attributes(random: Random, declared: Sequence[AttributeSpec]) -> Attributes:
    """Known and unknown values, absent ones, and some of another type than the one declared."""
    out: Attributes = {"undeclared": "x"}
    for attribute in declared:
        known = [*attribute.values, "unknown"]
        members = random.sample(known, random.randint(0, min(3, len(known))))
        if attribute.buckets:
            known = [f"any {n}" for n in range(9)]
        choices: list[Attribute] = [members, random.choice(known), random.choice([0.0, 1.5, 2.5, 3.0, -7.25, 1999.0])]
        place = {"set": 0, "category": 1, "number": 2}[attribute.kind]
        if random.random() < 0.85:
            out[attribute.name] = random.choice(choices) if random.random() < 0.1 else choices[place]
    return out


class Stream:
    """State of one partition: rows, the ids that left the lists (in a plain set), and the clock."""

    def __init__(self, spec: Spec, side: Side) -> None:
        self.layout = Layout.of(spec, side)
        self.rows = np.zeros((8, self.layout.width), dtype=np.int64)
        self.dirty = np.zeros(8, dtype=np.int64)
        self.row: dict[str, int] = {}
        self.spilled: set[tuple[int, int, int]] = set()  # row, time, id
        self.clock = 0
        self.accepted = self.duplicates = 0
        self._fold, self._coder = Fold(self.layout), ColumnCoder(spec, side)

    def apply(self, batch: Sequence[Entry]) -> None:
        """One batch, cut at its ticks."""
        behaviours: list[Behaving] = []
        updates: list[Updating] = []
        for entry in batch:
            if isinstance(entry, Tick):
                self._fold_events(behaviours, updates)
                behaviours, updates = [], []
                self._tick(entry.time)
            elif isinstance(entry, Behaviour | Interaction):
                behaviours.append(entry)
            else:
                updates.append(entry)
        self._fold_events(behaviours, updates)

    def reload(self) -> None:
        """As if every row had been written, and read again by another process."""
        for place in range(len(self.row)):
            self.rows[place] = self.layout.unpack(self.layout.pack(self.rows[place]))

    def _rows_of(self, entities: list[str]) -> np.ndarray:
        return np.array([self.row.setdefault(e, len(self.row)) for e in entities], dtype=np.int64)

    def _fold_events(self, behaviours: list[Behaving], updates: list[Updating]) -> None:
        if behaviours:
            columns = self._coder.behaviours(behaviours)
            at = self._rows_of(columns.entities)
            order = Fold.order(at, columns)
            at, columns = at[order], columns.take(order)
            verdict = self._fold.classify(self.rows, at, columns)
            new = verdict != DUPLICATE
            for e in np.flatnonzero(verdict == DEEP).tolist():
                new[e] = (int(at[e]), int(columns.times[e]), int(columns.ids[e])) not in self.spilled
            keep = np.flatnonzero(new)
            at, columns = at[keep], columns.take(keep)
            left = self._fold.behaviours(self.rows, at, columns, self.clock, self.dirty)
            for e in np.flatnonzero(left[:, 0]).tolist():
                self.spilled.add((int(at[e]), int(left[e, 0]), int(left[e, 1])))
            self.accepted += len(keep)
            self.duplicates += len(behaviours) - len(keep)
        if updates:
            columns = self._coder.updates(updates)
            self._fold.updates(self.rows, self._rows_of(columns.entities), columns, self.dirty)

    def _tick(self, time: int) -> None:
        if time > self.clock:
            clocks = np.full(len(self.row), time, dtype=np.int64)
            self._fold.advance(self.rows, self.clock, clocks, self.dirty)
            self.clock = time
