"""Logs that are over, and what was known at each moment of them: training and evaluation read them, no server does."""

from forebay.segments.history.history import History

__all__ = ["History"]
