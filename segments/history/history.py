"""A log as training, evaluation and backfill read it: accepted events in Blocks, from an archive or from memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from forebay.arrays import Ints
from forebay.errors import EventError, UsageError
from forebay.events import Behaviour, Event, ItemUpdate, Tick, UserProfile, check, decode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import block_of, events_of
from forebay.segments.blocks.schema import BEHAVIOUR

ROWS = 16_384  # events of one Block that is made here
SOURCE = ("history/0",)


@dataclass(frozen=True)
class History:
    """Events of the past, a behaviour once. `blocks` can be read again and again, as a list or an Archive can; their
    order means nothing. `end` (ms) is where the behaviours were cut off, if they were."""

    blocks: Iterable[Block]
    end: int | None = None

    def __iter__(self) -> Iterator[Block]:
        """Its Blocks: of all kinds, behaviours of before `end`."""
        for block in self.blocks:
            if self.end is None:
                yield block
                continue
            after = (block.numbers("kind") == BEHAVIOUR) & (block.numbers("time") >= self.end)
            yield block.take(np.flatnonzero(~after)) if after.any() else block

    @cached_property
    def times(self) -> Ints:
        """When its behaviours were, int64 (ms), ascending."""
        found = [np.zeros(0, np.int64)]
        for block in self:
            found.append(block.numbers("time")[block.numbers("kind") == BEHAVIOUR])
        times = np.concatenate(found)
        times.sort()
        return times

    @property
    def until(self) -> int:
        """The moment (ms) before which it is complete: its cut, or just after its newest behaviour."""
        if self.end is not None:
            return self.end
        return int(self.times[-1]) + 1 if len(self.times) else 0

    def before(self, time: int) -> History:
        """The behaviours strictly before `time` (ms); attributes as they are."""
        return History(self.blocks, min(time, self.until))

    def moment(self, share: float) -> int:
        """The time (ms) of the behaviour at `share` (0 to 1) of the log: the cut of a global split by time."""
        if not len(self.times):
            raise UsageError("the history has no behaviour in it", do="Give a file with events of type behaviour")
        return int(self.times[min(int(len(self.times) * share), len(self.times) - 1)])

    # -- event by event: for people, and for logs that fit in memory many times over

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        """Of events in memory, each with an id and a time; a behaviour is taken once, however often it is there. One of
        the same user, time and id is the same. Raises UsageError for an event that no Intake would accept."""
        acted: dict[tuple[str, int | None, str | None], Behaviour] = {}
        others: list[UserProfile | ItemUpdate] = []
        for event in events:
            _checked(event)
            match event:
                case Behaviour():
                    acted.setdefault((event.user, event.time, event.id), event)
                case UserProfile() | ItemUpdate():
                    others.append(event)
        whole = [*others, *sorted(acted.values(), key=lambda e: (e.time or 0, e.id or ""))]
        return cls([_block(whole[at : at + ROWS]) for at in range(0, len(whole), ROWS)])

    @classmethod
    def read(cls, path: Path) -> History:
        """Of a JSON-lines file. Raises UsageError that names the first line which is no event with id and time."""
        events: list[Event] = []
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    events.append(_event(line, f"{path}, line {number}"))
        except FileNotFoundError:
            raise UsageError("there is no such file", where=str(path), do="Name a JSON-lines file of events") from None
        return cls.of(events)

    def events(self) -> Iterator[Event]:
        """Each event as its producer would send it."""
        for block in self:
            yield from events_of(block)

    @cached_property
    def behaviours(self) -> list[Behaviour]:
        """In order of time."""
        found = [event for event in self.events() if isinstance(event, Behaviour)]
        return sorted(found, key=lambda e: (e.time or 0, e.id or ""))

    @cached_property
    def profiles(self) -> list[UserProfile]:
        """Every one."""
        return [event for event in self.events() if isinstance(event, UserProfile)]

    @cached_property
    def items(self) -> list[ItemUpdate]:
        """Every update."""
        return [event for event in self.events() if isinstance(event, ItemUpdate)]


def _block(events: Sequence[Event]) -> Block:
    none = [0] * len(events)
    return block_of(events, none, none, none, SOURCE)


def _checked(event: Event) -> None:
    try:
        check(event)
    except EventError as error:
        said = f"an event of the history is not acceptable: {error.reason}, {error.what}"
        raise UsageError(said, where=repr(event)[:200]) from None


def _event(line: bytes, where: str) -> Behaviour | UserProfile | ItemUpdate:
    try:
        event = decode(line)
        check(event)
    except EventError as error:
        raise UsageError(f"not an event: {error.what}", where=where, do="Mend or remove the line") from None
    if isinstance(event, Tick):
        raise UsageError("ticks are the Intake's, not a file's", where=where, do="Remove the line")
    if event.time is None or event.id is None:
        raise UsageError("an event of the past without a time or an id", where=where, do="Give it both")
    return event
