"""A broker that does not answer: waited for with growing pauses, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

from forebay.errors import BrokerUnavailable, ForebayError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
UNASKED_S = 30.0  # then it is tried whoever was answered: the one who asks may hang himself


class Absence:
    """From the first failure to the first success after it. One thread; `reason` and `seconds` may be read from any."""

    def __init__(self, most_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`most_s` is how long a broker may be away: a deployment or a failover takes minutes."""
        self._most_s, self._clock = most_s, clock
        self._since: float | None = None
        self._failed_at = self._pause_s = 0.0
        self.reason = ""

    def __bool__(self) -> bool:
        """Whether the broker is away."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """For how long it is away; 0.0 while it answers."""
        since = self._since
        return 0.0 if since is None else self._clock() - since

    def failed(self, error: ForebayError) -> None:
        """Something failed for want of an answer. Raises BrokerUnavailable when this has gone on for too long."""
        now = self._clock()
        if self._since is None:
            self._since, self._pause_s = now, FIRST_PAUSE_S
        else:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._failed_at, self.reason = now, f"waiting for the broker: {error.what}"
        self.over(now)

    def over(self, answered_at: float) -> bool:
        """Whether to try again now: the pause is over, and the broker has answered somebody since the failure (or 30 s
        have gone).

        Raises BrokerUnavailable after `most_s`.
        """
        if self._since is None:
            return True
        now = self._clock()
        if now - self._since > self._most_s:
            raise BrokerUnavailable(
                f"no work could be committed for {now - self._since:.0f} s ({self.reason})",
                do="Run: forebay doctor. What was not committed is done again after the next start",
            )
        waited = now - self._failed_at
        return waited >= self._pause_s if answered_at > self._failed_at else waited >= UNASKED_S

    def ended(self) -> float | None:
        """Something succeeded; returns how long the broker was away (s), None if it was not."""
        since, self._since, self.reason = self._since, None, ""
        return None if since is None else self._clock() - since
