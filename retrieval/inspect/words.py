"""Times and numbers as the page writes them."""

from __future__ import annotations

from datetime import UTC, datetime

from forebay.retrieval.inspect.markup import Markup, el, joined

NONE = "–"


def ago(then_ms: int | None, now_ms: int) -> Markup:
    """How long ago, with the moment itself as the tooltip; a dash for never."""
    if then_ms is None:
        return el("span", NONE, class_="soft", title="never")
    return el("time", f"{length(now_ms - then_ms)} ago", datetime=moment(then_ms), title=moment(then_ms))


def length(ms: float) -> str:
    """A length of time in its largest unit; what lies ahead by a little, as clocks differ, is none."""
    seconds = max(0.0, ms / 1000)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < size * most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} d"


def bound(ms: int) -> str:
    """A bound of a segment's age; a dash where there is none."""
    return f"{length(ms).replace('.0 ', ' ')}" if ms else NONE


def moment(ms: int) -> str:
    """UTC, to the second, as ISO 8601 has it."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"


def clock_time(ms: int) -> Markup:
    """The time of the day, UTC."""
    return el("time", f"{moment(ms)[11:19]} UTC", datetime=moment(ms))


def name(entity: str) -> Markup:
    """An id as it is, kept apart from the direction of the text around it."""
    return el("bdi", entity)


def count(number: int, noun: str) -> Markup:
    """So many of them."""
    return joined(el("b", f"{number:,}"), f" {noun}" if number != 1 else f" {noun.removesuffix('s')}")
