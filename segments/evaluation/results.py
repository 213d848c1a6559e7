"""What an evaluation found, as data: the HTML page draws it, `--json` prints it, and two runs can be compared by it.

Every quality is a Figure over seeds. A name of a figure is one of METRICS; a model or a row may lack some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Two-sided 95 % points of Student's t by degrees of freedom, 1 to 9: five seeds are not a normal sample.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

# Name -> what people read, and whether more is better.
METRICS: Mapping[str, tuple[str, bool]] = {
    "auc": ("AUC", True),
    "gauc": ("GAUC by user", True),
    "request_gauc": ("GAUC by request", True),
    "logloss": ("logloss", False),
    "calibration_error": ("calibration error", False),
    "recall@10": ("recall@10", True),
    "recall@50": ("recall@50", True),
    "ndcg@10": ("NDCG@10", True),
    "coverage@50": ("coverage@50", True),
    "known_auc": ("AUC of known users", True),
    "without_history": ("users without history", False),
}


@dataclass(frozen=True)
class Figure:
    """One quality over seeds. `low` and `high` are the 95 % interval of the mean; equal to `mean` for one seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def margin(self) -> float:
        """Half of the interval's width."""
        count = len(self.values)
        if count < 2:
            return 0.0
        quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96
        return float(quantile * np.std(self.values, ddof=1) / np.sqrt(count))

    @property
    def low(self) -> float:
        return self.mean - self.margin

    @property
    def high(self) -> float:
        return self.mean + self.margin

    def minus(self, other: Figure) -> Figure:
        """Seed by seed where both have the same seeds, which cancels what a seed does to both; else mean by mean."""
        if len(self.values) == len(other.values):
            return Figure(tuple(a - b for a, b in zip(self.values, other.values, strict=True)))
        return Figure((self.mean - other.mean,))


Figures = Mapping[str, Figure]  # by a name of METRICS


@dataclass(frozen=True)
class ModelResult:
    """One line of the table. `family` is "forebay", "baseline" or "early" (an early-interaction ranker).

    `ms_per_1000` is the request time of 1,000 candidates on one thread with all that can be precomputed precomputed
    (None: not a ranker); bytes are what is kept per user and per item for it.
    """

    name: str
    family: str
    figures: Figures
    ms_per_1000: Figure | None = None
    user_bytes: int = 0
    item_bytes: int = 0
    note: str = ""


@dataclass(frozen=True)
class StalenessResult:
    """One point of the freshness curve: user vectors as of `lag_s` seconds before the request; None is the last
    midnight."""

    name: str
    lag_s: float | None
    figures: Figures


@dataclass(frozen=True)
class RowResult:
    """One line of a smaller table: what was changed, and what came of it. `extra` has columns of its own, as text."""

    name: str
    figures: Figures
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A smaller table: its title, a sentence on how it was made, its rows, and a verdict ("does not pay" among them).

    `against` is the figures of the unchanged model: where it is there, people read the differences to it.
    """

    key: str
    title: str
    text: str
    rows: Sequence[RowResult]
    against: Figures | None = None
    verdict: str = ""


@dataclass(frozen=True)
class CalibrationBin:
    """Impressions whose predicted probability fell between two bounds."""

    predicted: float
    observed: float
    count: int


@dataclass(frozen=True)
class Study:
    """A whole evaluation. `served` is the name of the model that the bundle serves. `data` and `machine` are label ->
    text."""

    title: str
    command: str
    seeds: Sequence[int]
    took_s: float
    served: str
    data: Mapping[str, str]
    machine: Mapping[str, str]
    models: Sequence[ModelResult]
    staleness: Sequence[StalenessResult]
    calibration: Sequence[CalibrationBin]
    sections: Sequence[Section]
    quick: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain data; every Figure with its mean and interval beside its values."""
        result: dict[str, Any] = _plain(_fields(self))
        return result


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass's fields by name, not descending."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _plain(value: Any) -> Any:
    match value:
        case Figure():
            return {"mean": value.mean, "low": value.low, "high": value.high, "values": list(value.values)}
        case _ if hasattr(value, "__dataclass_fields__"):
            return _plain(_fields(value))
        case Mapping():
            return {k: _plain(v) for k, v in value.items()}
        case str() | int() | float() | None:
            return value
        case Sequence():
            return [_plain(v) for v in value]
    raise TypeError(f"{value!r} in a study")
