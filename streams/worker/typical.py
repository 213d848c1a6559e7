"""How long something usually takes, from the last few times that it was done."""

from __future__ import annotations

from collections import deque
from statistics import median

LAST = 9  # few enough to follow a change within a second; the median passes over a broker's odd pause


class Typical:
    """The median of the last nine."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=LAST)

    def add(self, seconds: float) -> None:
        """It took so long this time."""
        self._last.append(seconds)

    @property
    def seconds(self) -> float:
        """0.0 before the first time."""
        return median(self._last) if self._last else 0.0
