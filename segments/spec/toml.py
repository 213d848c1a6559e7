"""What a segments.toml is made of, checked: tables, names, lists, whole numbers, durations. Each error names its
place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from forebay.clock import DAY_MS, HOUR_MS, MINUTE_MS
from forebay.errors import SpecError

_UNITS = {"ms": 1, "s": 1000, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


def duration_ms(text: object, where: str) -> int:
    """`"24h"` -> 86400000. Units: ms, s, m, h, d."""
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text) if isinstance(text, str) else None
    if match is None:
        raise SpecError(f"{text!r} is not a duration", where=where, do='Write it as "30s", "10m", "24h" or "7d"')
    return int(match[1]) * _UNITS[match[2]]


def table(value: Any, where: str) -> Mapping[str, Any]:
    """`value`, which must be a table."""
    if not isinstance(value, Mapping):
        raise SpecError(f"{value!r} where a table must stand", where=where, do='Write it as { name = "value" }')
    return value


def strings(value: Any, where: str) -> tuple[str, ...]:
    """`value`, which must be a list of different strings."""
    if (
        not isinstance(value, list | tuple)
        or not all(isinstance(v, str) for v in value)
        or len(set(value)) < len(value)
    ):
        raise SpecError(
            f"{value!r} where a list of different strings must stand", where=where, do='Write it as ["a", "b"]'
        )
    return tuple(value)


def known(given: Any, names: set[str], where: str) -> None:
    """Refuse a key of the table that is none of `names`."""
    for name in table(given, where):
        if name not in names:
            raise SpecError(f"unknown key {name!r}", where=where, do=f"Known: {', '.join(sorted(names))}")


def whole(value: Any, low: int, high: int, where: str) -> int:
    """`value`, which must be an integer from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise SpecError(f"{value!r}", where=where, do=f"Use a whole number from {low} to {high}")
    return value
