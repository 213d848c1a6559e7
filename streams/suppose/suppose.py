"""One more event for a user: the same fold and the same encoders as in a worker, over a copy of the state.

The event happens now. Its item attributes are those of the item's newest update, as the Intake would have filled them
in; they are read off the item's own state. What the event would do to the item's vectors is left out.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.clock import now_ms
from forebay.errors import ForebayError
from forebay.events import Behaviour, check
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.columns import ColumnCoder
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.layout import UPDATED
from forebay.store.checkpoints import Checkpoints
from forebay.streams.cluster import Address
from forebay.streams.routing import partitions_of
from forebay.streams.suppose.latest import LatestState
from forebay.streams.topics import TopicInfo, Topics, describe

PATIENCE_S = 25.0  # of one answer
KEPT = 4  # partitions at once, those that were asked for last
MOST_EVENTS = 200_000  # folded after a Checkpoint; then a newer one takes its place
_EVENT_COLUMNS = 3  # item, action and value; item attributes follow


@dataclass(frozen=True)
class Moved:
    """A user's vectors float32 [dims] as they are served, before and after the event. They stand on a Checkpoint of
    `checkpoint_ms` (ms) and `events` of the clean log after it; `read_ms` is when its end was read."""

    before: Floats
    after: Floats
    checkpoint_ms: int
    events: int
    read_ms: int
    remarks: tuple[str, ...] = ()


class Suppose:
    """Of one generation. One thread. `close` removes what it has fetched."""

    def __init__(
        self,
        bundle: Bundle,
        generation: str,
        *,
        bootstrap: Address,
        topics: Topics,
        checkpoints: Checkpoints,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """Loads the encoders of the user side."""
        self._bundle, self._generation, self._bootstrap = bundle, generation, bootstrap
        self._topics, self._checkpoints, self._clock = topics, checkpoints, clock
        self._encoders = SideEncoders(bundle, "user")
        self._fold, self._coder = Fold(bundle.layouts["user"]), ColumnCoder(bundle.spec, "user")
        self._folder = Path(tempfile.mkdtemp(prefix="forebay-suppose-"))
        self._numbers = itertools.count()
        self._kept: dict[tuple[Side, int], LatestState] = {}  # the one that was asked for last is the last

    def close(self) -> None:
        for state in self._kept.values():
            state.discard()
        self._kept.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def move(self, user: str, item: str, action: str, value: float) -> Moved:
        """What the event would do now. Raises EventError for one that no Intake would accept, and what LatestState
        raises."""
        until, now = time.monotonic() + PATIENCE_S, self._clock()
        event = Behaviour(user, item, action, value, now, "supposed")
        check(event)
        logs = describe(self._bootstrap, [self._topics.events(side) for side in SIDES])
        columns, remarks = self._coder.behaviours([event]), list[str]()
        if attributes := self._bundle.spec.attributes["item"]:
            try:
                codes, lacking = self._codes_of(self._state("item", item, logs, until)[0].row(item))
            except ForebayError as error:
                codes, lacking = {}, [a.name for a in attributes]
                remarks.append(f"The item's attributes are taken for unknown: {error.what}.")
            else:
                if lacking:
                    words = ", ".join(lacking)
                    remarks.append(f"Taken for unknown, since no segment of the item side keeps them: {words}.")
            for place, attribute in enumerate(attributes, start=_EVENT_COLUMNS):
                if attribute.name in codes:
                    columns.matrix[0, place] = codes[attribute.name]
        state, events = self._state("user", user, logs, until)
        before = state.row(user)
        rows = np.stack([before, before])
        self._fold.behaviours(rows[1:], np.zeros(1, np.int64), columns, state.clock, np.zeros(1, np.int64))
        vectors = self._encoders.encode_all(rows, np.repeat(hash_ids([user]), 2))
        if self._bundle.spec.events.actions and action not in self._bundle.spec.events.actions:
            remarks.append("The spec does not list this action: it counts as any other that is not listed.")
        return Moved(vectors[0], vectors[1], state.checkpoint.created, events, now, tuple(remarks))

    def _codes_of(self, row: Ints) -> tuple[dict[str, int], list[str]]:
        """The item's attributes as an event carries them, by name, and the names that its state does not have."""
        layout, codes = self._bundle.layouts["item"], dict[str, int]()
        for block in layout.blocks:
            if block.feature.kind == "latest" and row[UPDATED]:
                start = block.offset + 2
                codes.update(zip(block.columns, row[start : start + len(block.columns)].tolist(), strict=True))
        held = {c for b in layout.blocks if b.feature.kind == "latest" for c in b.columns}
        return codes, [a.name for a in self._bundle.spec.attributes["item"] if a.name not in held]

    def _state(self, side: Side, entity: str, logs: Mapping[str, TopicInfo], until: float) -> tuple[LatestState, int]:
        """The state of the entity's partition, at the log's end, and how many events came since its Checkpoint."""
        info = logs[self._topics.events(side)]
        partition = int(partitions_of([entity.encode()], info.partitions)[0])
        key = (side, partition)
        state = self._kept.pop(key, None)
        if state is not None and state.events > MOST_EVENTS:
            state.discard()
            state = None
        if state is None:
            state = LatestState(
                self._bundle, side, self._generation, partition, log_info=info, bootstrap=self._bootstrap,
                checkpoints=self._checkpoints, folder=self._folder / str(next(self._numbers)),
            )  # fmt: skip
        try:
            events = state.follow(until)
        except BaseException:
            state.discard()
            raise
        self._kept[key] = state
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept))).discard()
        return state, events
