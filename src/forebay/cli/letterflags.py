"""Which dead letters a command is about, as it is typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from forebay.clock import now_ms
from forebay.errors import SpecError, UsageError
from forebay.segments.spec.toml import duration_ms
from forebay.streams.letterfilter import ALL, EVER_MS, LetterFilter


@dataclass(frozen=True)
class LetterFlags:
    """`--reason`, `--source`, `--since`, `--until` and `--last`; 0 for all offsets."""

    reasons: Sequence[str] = ()
    sources: Sequence[str] = ()
    since: str | None = None
    until: str | None = None
    last: int = 0

    def filter(self) -> LetterFilter:
        """What they mean now. Raises UsageError."""
        now = now_ms()
        since = 0 if self.since is None else _moment(self.since, "--since", now)
        until = EVER_MS if self.until is None else _moment(self.until, "--until", now)
        if since >= until:
            raise UsageError("--since is not before --until", do="Exchange them")
        return LetterFilter(frozenset(self.reasons), frozenset(map(_source, self.sources)), since, until, self.last)

    def __str__(self) -> str:
        """In words, for a sentence about what was looked through; "" for everything."""
        parts = [
            *(f"reason {reason}" for reason in self.reasons),
            *(f"source {source}" for source in self.sources),
            *([f"since {self.since}"] if self.since else ()),
            *([f"until {self.until}"] if self.until else ()),
        ]
        return ", ".join(parts)


def _source(text: str) -> tuple[str, int]:
    topic, slash, partition = text.partition("/")
    if not topic or (slash and not (partition.isdecimal() and len(partition) < 10)):
        raise UsageError(f"--source {text}", do="Write a topic, or TOPIC/PARTITION")
    return topic, int(partition) if slash else ALL


def _moment(text: str, flag: str, now: int) -> int:
    """Milliseconds since 1970 of `2h` (ago), of a date or time (UTC where it does not say), or of themselves."""
    if text.isdecimal() and len(text) >= 12:
        return int(text[:18])
    try:
        return max(0, now - duration_ms(text, flag))
    except SpecError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{flag} {text}", do="Write how long ago (2h, 7d), a time (2026-11-27T09:30, UTC), or ms since 1970"
        ) from None
    return max(0, round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000))
