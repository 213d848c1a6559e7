"""Which events the Intake will refuse for their time, told before they are sent: the log acknowledges them all.

It is a warning, and `publish` still ends with 0: the Intake goes by its own settings, and these may be others.
"""

from __future__ import annotations

from datetime import UTC, datetime

from forebay.cli.console import err
from forebay.clock import now_ms
from forebay.events import Behaviour, Published
from forebay.segments.spec.words import duration
from forebay.streams.intake.bounds import Bounds


class Lateness:
    """Counts what `bounds` refuse. `late` and `ahead` of `seen` events; `oldest` and `newest` are times in ms of those,
    0 for none."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.seen = self.late = self.ahead = self.oldest = self.newest = 0

    def note(self, event: Published) -> bool:
        """Count one event that would be appended now; whether it would be refused. One without a time is of now."""
        self.seen += 1
        if event.time is None:
            return False
        now = now_ms()
        # As the Intake judges: profiles and item updates of any age are folded, the newest wins.
        if isinstance(event, Behaviour) and now - event.time > self.bounds.late_after_ms:
            self.late += 1
            self.oldest = min(event.time, self.oldest or event.time)
            return True
        if event.time > now + self.bounds.future_after_ms:
            self.ahead += 1
            self.newest = max(event.time, self.newest)
            return True
        return False

    def warn_first(self, event: Published) -> None:
        """`note`, and say so when it is the first one: for a stream, which cannot be looked through before."""
        if self.note(event) and self.late + self.ahead == 1:
            self.warn(" (the first; all of them are counted at the end)")

    def warn(self, more: str = "") -> None:
        """Say on standard error what was counted, if anything."""
        bounds = self.bounds
        if self.late:
            _say(
                f"{self.late:,} of {self.seen:,} events are older than {duration(bounds.late_after_ms)}, "
                f"the oldest of {_day(self.oldest)}: the Intake will refuse them as late{more}",
                "Build a generation from history instead: forebay backfill --from FILE (or raise late_after in the "
                "settings of producers and workers)",
            )
        if self.ahead:
            _say(
                f"{self.ahead:,} of {self.seen:,} events are more than {duration(bounds.future_after_ms)} ahead, "
                f"the newest of {_day(self.newest)}: the Intake will refuse them as future{more}",
                "Are their times milliseconds since 1970, and is this machine's clock right?",
            )

    def told(self) -> dict[str, int | str | None]:
        """What `--json` prints of it."""
        return {
            "late": self.late,
            "oldest": self.oldest or None,
            "late_after_ms": self.bounds.late_after_ms,
            "future": self.ahead,
            "future_after_ms": self.bounds.future_after_ms,
        }


def _say(what: str, do: str) -> None:
    err.print(f"warning: {what}", markup=False)
    err.print(f"         {do}", markup=False)


def _day(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):  # past the year 9999: seconds or nanoseconds taken for milliseconds
        return f"{ms} ms since 1970"
