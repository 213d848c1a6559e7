"""How segments are encoded in an installation, by its [[segment]] tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forebay.config import SegmentTable
from forebay.errors import ConfigError

KEYS = ("name", "worth", "quota", "device")


@dataclass(frozen=True)
class SegmentOptions:
    """Of one segment: what its freshness is worth against 1.0 of the others, the share of the encoders' time that it
    may take while others wait, and the device that it is encoded on (`cpu`, `cuda:N`)."""

    worth: float = 1.0
    quota: float = 1.0
    device: str = "cpu"


def options_of(tables: Sequence[SegmentTable], known: Sequence[str]) -> dict[str, SegmentOptions]:
    """By title (`user.recent`), of which there are those `known`. Raises ConfigError."""
    found: dict[str, SegmentOptions] = {}
    for table in tables:
        name, values = str(table), table.values
        if strange := sorted(values.keys() - set(KEYS)):
            raise ConfigError(f"unknown key {strange[0]!r}", where=table.where, do=f"Known: {', '.join(KEYS)}")
        if name not in known:
            raise ConfigError(
                f"the bundle has no segment {name!r}", where=table.where, do=f"It has: {', '.join(sorted(known))}"
            )
        if name in found:
            raise ConfigError(f"{name} has two tables", where=table.where, do="Put everything into one")
        device = values.get("device", "cpu")
        if not isinstance(device, str):
            raise ConfigError("device is not a text", where=table.where, do='Write it as device = "cuda:0"')
        found[name] = SegmentOptions(_worth(values, table.where), _quota(values, table.where), device)
    return found


def _worth(values: Mapping[str, Any], where: str) -> float:
    worth = values.get("worth", 1.0)
    if isinstance(worth, bool) or not isinstance(worth, int | float) or not 0 < worth <= 1e6:
        raise ConfigError("worth is not a number above 0", where=where, do="Write it as worth = 3.0")
    return float(worth)


def _quota(values: Mapping[str, Any], where: str) -> float:
    text = values.get("quota", "100%")
    share = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%", text) if isinstance(text, str) else None
    if share is None or not 0 < float(share[1]) <= 100:
        raise ConfigError("quota is no share above 0 %", where=where, do='Write it as quota = "25%"')
    return float(share[1]) / 100
