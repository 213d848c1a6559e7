"""The report's plots: pure functions from numbers to inline SVG. Colours are CSS variables of the page, so that dark
mode works."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 16, 44


def lines(
    title: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[tuple[float, float, float]]]],
    apart: int = -1,
) -> str:
    """Points (mean, low, high) over evenly spaced `labels`, one line for each of `series`; the point number `apart`
    stands alone, without a line to it. An interval is a band."""
    finite = [v for _, points in series for p in points for v in p if math.isfinite(v)]
    if not finite:
        return ""
    low, high, ticks = _axis(min(finite), max(finite))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels) - 1)

    def x(place: int) -> float:
        return LEFT + place * step

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = _grid(ticks, y)
    for place, label in enumerate(labels):
        parts.append(f'<text x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(label)}</text>')
    for number, (name, points) in enumerate(series):
        joined = [i for i in range(len(points)) if i != apart and math.isfinite(points[i][0])]
        band = [(x(i), y(points[i][2])) for i in joined] + [(x(i), y(points[i][1])) for i in reversed(joined)]
        parts.append(f'<polygon class="band s{number}" points="{_points(band)}"/>')
        parts.append(
            f'<polyline class="line s{number}" points="{_points([(x(i), y(points[i][0])) for i in joined])}"/>'
        )
        for place, (mean, least, most) in enumerate(points):
            if not math.isfinite(mean):
                continue
            if place == apart:
                parts.append(
                    f'<line class="whisker s{number}" x1="{x(place):.1f}" x2="{x(place):.1f}" y1="{y(least):.1f}" '
                    f'y2="{y(most):.1f}"/>'
                )
            shape = _diamond if place == apart else _dot
            parts.append(shape(x(place), y(mean), number, f"{name}, {labels[place]}: {mean:.4f}"))
    return _svg(title, parts)


def scatter(title: str, across: str, points: Sequence[tuple[str, float, float, int, bool]]) -> str:
    """(name, x > 0, y, colour, on the front) on a log x axis; the front is joined. Labels are moved apart."""
    points = [p for p in points if p[1] > 0 and math.isfinite(p[1]) and math.isfinite(p[2])]
    if not points:
        return ""
    low, high, ticks = _axis(min(p[2] for p in points), max(p[2] for p in points))
    first = math.floor(math.log10(min(p[1] for p in points)))
    last = max(first + 1, math.ceil(math.log10(max(p[1] for p in points))))

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = _grid(ticks, y)
    for power in range(first, last + 1):
        at = x(10**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10**power:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(across)}</text>')
    front = sorted((x(p[1]), y(p[2])) for p in points if p[4])
    parts.append(f'<polyline class="front" points="{_points(front)}"/>')
    taken: list[tuple[float, float, float]] = []
    for name, cost, quality, colour, _ in sorted(points, key=lambda p: (-p[2], p[1])):
        at, level = x(cost), y(quality)
        width = 6.2 * len(name)
        left = at + width + 10 > WIDTH
        start = at - width - 8 if left else at + 8
        height = level + 4
        while any(abs(height - h) < 13 and start < e and s < start + width for s, e, h in taken):
            height += 13
        taken.append((start, start + width, height))
        parts.append(_dot(at, level, colour, f"{name}: {quality:.4f} at {cost:.3g} ms"))
        anchor, shift = ("end", -8) if left else ("start", 8)
        parts.append(
            f'<text class="label" x="{at + shift:.1f}" y="{height:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    return _svg(title, parts)


def reliability(title: str, bins: Sequence[tuple[float, float, int]]) -> str:
    """(predicted, observed, count): on the diagonal a probability means what it says."""
    if not bins:
        return ""
    size = HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return LEFT + value * size

    def y(value: float) -> float:
        return TOP + (1 - value) * size

    parts = _grid([0.0, 0.25, 0.5, 0.75, 1.0], y, LEFT + size)
    parts += [
        f'<text x="{x(t):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{t:g}</text>' for t in (0.0, 0.5, 1.0)
    ]
    parts.append(f'<line class="front" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    parts.append(f'<polyline class="line s0" points="{_points([(x(p), y(o)) for p, o, _ in bins])}"/>')
    parts += [_dot(x(p), y(o), 0, f"predicted {p:.3f}, observed {o:.3f}, {n:,} impressions") for p, o, n in bins]
    parts.append(f'<text x="{x(0.5):.1f}" y="{HEIGHT - 6}" text-anchor="middle">predicted probability</text>')
    return _svg(title, parts, int(LEFT + size + RIGHT))


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Bounds and some five round ticks."""
    span = max(high - low, 1e-6)
    raw = span / 4
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw)
    first = math.floor(low / step) * step
    count = math.ceil((high - first) / step + 1e-9)
    ticks = [round(first + i * step, 10) for i in range(count + 1)]
    return ticks[0], ticks[-1], ticks


def _grid(ticks: Sequence[float], y, right: float = WIDTH - RIGHT) -> list[str]:  # type: ignore[no-untyped-def]
    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right:.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return parts


def _dot(x: float, y: float, number: int, text: str) -> str:
    return f'<circle class="dot s{number}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(text)}</title></circle>'


def _diamond(x: float, y: float, number: int, text: str) -> str:
    points = _points([(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)])
    return f'<polygon class="dot s{number}" points="{points}"><title>{escape(text)}</title></polygon>'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _svg(title: str, parts: Sequence[str], width: int = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
