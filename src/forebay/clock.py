"""Time, as events and state have it: whole milliseconds since 1970, UTC."""

from __future__ import annotations

import time

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def now_ms() -> int:
    """The wall clock, ms."""
    return time.time_ns() // 1_000_000
