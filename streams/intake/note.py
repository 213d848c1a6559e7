"""What the Intake's group keeps beside the offset of each source partition: for what reads the clean log, and for
people."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Note(msgspec.Struct, frozen=True):
    """All that the source took before `as_of` (ms) is in the clean log, or refused. The identities of accepted events
    from `since` (ms) on take so much `memory` (bytes); the `catalogue` (bytes) is that of the process. The source
    stands still since `paused` (ms); 0 where it is read."""

    as_of: int
    memory: int = 0
    since: int = 0
    catalogue: int = 0
    paused: int = 0

    def encode(self) -> str:
        """As text, for Kafka."""
        return msgspec.json.encode(self).decode()


def note_of(text: str | None) -> Note | None:
    """The note again; None for what is none: nobody has committed there, or an operator who moved the offset."""
    try:
        return msgspec.json.decode(text or "", type=Note)
    except msgspec.MsgspecError:
        return None


def as_of(texts: Iterable[str | None]) -> int:
    """What the clean log is as of (ms), by the notes of all source partitions; 0 where one of them has none."""
    notes = [note_of(text) for text in texts]
    return min((0 if note is None else note.as_of for note in notes), default=0)
