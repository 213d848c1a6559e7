"""A whole log as training, backfill and evaluation read it: behaviours, profiles and items, from JSON lines or
memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forebay.errors import EventError, UsageError
from forebay.events import Behaviour, ItemUpdate, Tick, UserProfile, check, decode


@dataclass(frozen=True)
class History:
    """Events with ids and times, `behaviours` in order of time. `of` and `read` take a behaviour once, however often it
    is there: one of the same user, time and id is the same. `end` (ms) is where it was cut off, if it was."""

    behaviours: list[Behaviour]
    profiles: list[UserProfile]
    items: list[ItemUpdate]
    end: int | None = None

    @property
    def until(self) -> int:
        """The moment (ms) before which it is complete: its cut, or just after its newest behaviour."""
        if self.end is not None:
            return self.end
        return (self.behaviours[-1].time or 0) + 1 if self.behaviours else 0

    @classmethod
    def of(cls, events: Iterable[Behaviour | UserProfile | ItemUpdate]) -> History:
        acted: dict[tuple[str, int | None, str | None], Behaviour] = {}
        profiles: list[UserProfile] = []
        items: list[ItemUpdate] = []
        for event in events:
            match event:
                case Behaviour():
                    acted.setdefault((event.user, event.time, event.id), event)
                case UserProfile():
                    profiles.append(event)
                case ItemUpdate():
                    items.append(event)
        return cls(sorted(acted.values(), key=lambda e: (e.time or 0, e.id or "")), profiles, items)

    @classmethod
    def read(cls, path: Path) -> History:
        """Events from a JSON-lines file. Raises UsageError that names the first line which is no event with id and
        time."""
        events: list[Behaviour | UserProfile | ItemUpdate] = []
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    events.append(_event(line, f"{path}, line {number}"))
        except FileNotFoundError:
            raise UsageError("there is no such file", where=str(path), do="Name a JSON-lines file of events") from None
        return cls.of(events)

    def before(self, time: int) -> History:
        """The behaviours strictly before `time` (ms); attributes as they are."""
        end = min(time, self.until)
        return History([b for b in self.behaviours if (b.time or 0) < time], self.profiles, self.items, end)

    def moment(self, share: float) -> int:
        """The time (ms) of the behaviour at `share` (0 to 1) of the log: the cut of a global split by time."""
        if not self.behaviours:
            raise UsageError("the history has no behaviour in it", do="Give a file with events of type behaviour")
        place = min(int(len(self.behaviours) * share), len(self.behaviours) - 1)
        return self.behaviours[place].time or 0


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
