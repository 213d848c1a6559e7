"""What a partition may claim later."""

from __future__ import annotations

from collections import deque

MOST = 1024  # moments: a second or more of batches of 1 ms


class Postponed:
    """Moments (ms) that were reached while pairs waited of which the log does not say so: each may be claimed when all
    pairs are encoded, or held, that began to wait before it was."""

    def __init__(self) -> None:
        self._moments: deque[tuple[int, int]] = deque(maxlen=MOST)  # without the earliest ones less is claimed

    def add(self, began_ms: int, moment: int) -> None:
        """`moment` was reached by a batch whose pairs began to wait at `began_ms`, by the clock of `due`."""
        if not self._moments or self._moments[-1][1] < moment:
            self._moments.append((began_ms, moment))

    def due(self, oldest_ms: int | None) -> int:
        """The last moment that may be claimed where the pair that waits longest began at `oldest_ms`; None: no pair
        waits. 0 where there is none."""
        found = 0
        while self._moments and (oldest_ms is None or self._moments[0][0] < oldest_ms):
            found = self._moments.popleft()[1]
        return found
