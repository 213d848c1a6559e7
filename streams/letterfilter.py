"""Which dead letters are meant: by reason, by source, by the time at which they were refused."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.streams.deadletter import DeadLetter

EVER_MS = 1 << 62
ALL = -1  # partitions of a topic


@dataclass(frozen=True)
class Placed:
    """A letter at its own place in the topic of dead letters, where it was `appended` (ms)."""

    letter: DeadLetter
    partition: int
    offset: int
    appended: int


@dataclass(frozen=True)
class LetterFilter:
    """All that is given must hold. `reasons` and `sources` (topic and partition, ALL for each of them) are any of
    several; no one is everyone. `since_ms` and before `until_ms` is when the letter was appended. `last` is how many of
    the newest offsets of each partition of the topic are looked through; 0 for all of them."""

    reasons: frozenset[str] = frozenset()
    sources: frozenset[tuple[str, int]] = frozenset()
    since_ms: int = 0
    until_ms: int = EVER_MS
    last: int = 0

    def holds(self, placed: Placed) -> bool:
        """Whether this letter is meant, wherever in its topic it is."""
        letter = placed.letter
        if not self.since_ms <= placed.appended < self.until_ms:
            return False
        if self.reasons and letter.reason not in self.reasons:
            return False
        return not self.sources or bool({(letter.topic, ALL), (letter.topic, letter.partition)} & self.sources)
