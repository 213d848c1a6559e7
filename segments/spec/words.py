"""A feature in words, for people who read a table of them."""

from __future__ import annotations

from forebay.clock import DAY_MS, HOUR_MS, MINUTE_MS
from forebay.segments.spec.spec import FeatureSpec

_UNITS = (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", 1000), ("ms", 1))


def duration(ms: int) -> str:
    """`86400000` -> `"1d"`: in the largest unit that divides it, as a spec would say it."""
    unit, size = next((u, s) for u, s in _UNITS if ms % s == 0 and (ms or u == "ms"))
    return f"{ms // size}{unit}"


def in_words(feature: FeatureSpec) -> str:
    """`"count genres × action over 30d, half-life 7d where value >= 4"`."""
    match feature.kind:
        case "last":
            text = f"last {feature.size} of {', '.join(feature.of)}"
        case "latest":
            text = f"latest {', '.join(feature.of)}"
        case "id":
            text = f"id, {feature.size} wide"
        case "count":
            text = f"count {feature.key}"
        case "mean":
            text = "mean value" + (f" by {feature.key}" if feature.key != "events" else "")
    if feature.over_ms:
        text += f" over {duration(feature.over_ms)}"
    if feature.half_life_ms:
        text += f", half-life {duration(feature.half_life_ms)}"
    return text + (f" where {feature.where.text}" if feature.where else "")
