"""A training run as scalars that TensorBoard reads: one curve for each figure of each stage, by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tensorboardX import SummaryWriter


class TrainingLog:
    """Writes an event file into `folder` (TensorBoard's own format). Used as the `progress` of a run, alone or beside
    another."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            if name != "epoch":
                self._writer.add_scalar(f"{stage}/{name}".replace("@", "_"), value, int(figures["epoch"]))
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
