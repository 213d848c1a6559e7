"""A broker that does not answer when a process starts: waited for with growing pauses, and not for ever.

A supervisor starts a worker beside a broker that is still loading, or on a machine where both have just come up. What
starts is made again until the broker answers; nothing was joined by then, so that a crash in between leaves nothing.
Later on it is the worker itself that waits (worker/absence.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from forebay.errors import BrokerUnavailable

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
TELL_EVERY_S = 15.0
T = TypeVar("T")
log = logging.getLogger("forebay")


def once_it_answers(make: Callable[[], T], within_s: float, stop: threading.Event) -> T | None:
    """What `make` returns; while it raises BrokerUnavailable it is called again, for `within_s` from the first time on
    and as long as a last call takes. None where `stop` is set meanwhile. `make` leaves nothing behind when it raises.

    Says in the log that it waits, what for and for how long, at first and every 15 s. Raises what `make` does,
    BrokerUnavailable once the time is over.
    """
    since: float | None = None
    told_at, pause_s = 0.0, FIRST_PAUSE_S
    while not stop.is_set():
        try:
            made = make()
        except BrokerUnavailable as error:
            now = time.monotonic()
            since = now if since is None else since  # not before: what is loaded for the first call takes seconds
            if (left_s := within_s - (now - since)) <= 0:
                if now == since:
                    raise
                said = f"{error.what} (waited for {now - since:.0f} s: broker_within)"
                raise BrokerUnavailable(said, where=error.where, do=error.do) from None
            if now == since or now - told_at >= TELL_EVERY_S:
                log.warning("waiting for the broker at %s, for %.0f s more: %s", error.where, left_s, error.what)
                told_at = now
            stop.wait(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        else:
            if since is not None:
                log.info("the broker answers, after %.0f s", time.monotonic() - since)
            return made
    return None
