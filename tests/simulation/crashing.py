"""Stages that may end before and after each of their steps, and between two partitions' writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forebay.streams.intake.intake import Intake
from forebay.streams.worker.processor import Processor


class _Crashing:
    """Before a stage: `point` is called wherever its process may end."""

    point: Callable[[], None]

    def open(self, *place: Any, **more: Any) -> Any:
        owned = super().open(*place, **more)  # type: ignore[misc]
        flush = owned.flush

        def flushed(*rest: Any) -> None:
            self.point()
            flush(*rest)

        owned.flush = flushed
        self.point()
        return owned

    def flush(self) -> None:
        super().flush()  # type: ignore[misc]
        self.point()


class CrashingProcessor(_Crashing, Processor):
    """A Processor that may end at any step."""


class CrashingIntake(_Crashing, Intake):
    """An Intake that may."""
