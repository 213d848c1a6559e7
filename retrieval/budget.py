"""What a client may ask beyond its calls: a share of them, with a few at once."""

from __future__ import annotations

from threading import Lock


class Budget:
    """A bucket of tokens. Each call brings `share` of one, up to `burst` of them; each request beyond the calls takes
    one, and is not sent without. Where every call fails, the servers see 1 + `share` requests for each, whatever
    `retries` says. Safe to call from several threads."""

    def __init__(self, share: float, burst: float) -> None:
        """The bucket is full at first."""
        self._share, self._burst, self._tokens = share, burst, burst
        self._lock = Lock()

    def earn(self) -> None:
        """A call begins."""
        if self._tokens < self._burst:
            with self._lock:
                self._tokens = min(self._burst, self._tokens + self._share)

    def spend(self) -> bool:
        """Take a token; False where there is none."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
