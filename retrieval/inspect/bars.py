"""A score as a bar: what each segment adds to it, to the right of a line at zero, or takes away, to the left.

Drawn as SVG with attributes alone: a page whose policy allows no inline style draws it all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forebay.retrieval.inspect.markup import Markup, el

COLOURS = 8  # that the stylesheet has; a ninth segment begins again
_NEGLIGIBLE = 0.005  # of the whole width


@dataclass(frozen=True)
class Scale:
    """What all bars of one table share: the greatest sum of positive shares, and of negative ones (as a positive
    number)."""

    right: float
    left: float

    @classmethod
    def over(cls, bars: Sequence[Mapping[str, float]]) -> Scale:
        sums = [(sum(max(v, 0.0) for v in bar.values()), sum(max(-v, 0.0) for v in bar.values())) for bar in bars]
        return cls(max((up for up, _ in sums), default=0.0), max((down for _, down in sums), default=0.0))

    @property
    def zero(self) -> float:
        """Where the line at zero stands, 0 to 1."""
        whole = self.right + self.left
        return self.left / whole if whole > 0 else 0.0

    def width(self, share: float) -> float:
        """Of the whole bar, 0 to 1."""
        whole = self.right + self.left
        return abs(share) / whole if whole > 0 else 0.0


def bar(shares: Mapping[str, float], scale: Scale) -> Markup:
    """The shares in their order, outwards from zero."""
    right = left = scale.zero
    parts = []
    for place, share in enumerate(shares.values()):
        width = scale.width(share)
        start = right if share >= 0 else left - width
        right, left = (right + width, left) if share >= 0 else (right, left - width)
        if width >= _NEGLIGIBLE:
            parts.append(el("rect", x=_percent(start), width=_percent(width), height="100%", class_=colour(place)))
    parts.append(el("line", x1=_percent(scale.zero), x2=_percent(scale.zero), y1="0", y2="100%"))
    return el("svg", *parts, class_="bar", role="img", aria_label=spoken(shares))


def legend(names: Sequence[str]) -> Markup:
    """Which colour is which segment."""
    keys = [el("li", el("span", class_=f"key {colour(place)}"), name) for place, name in enumerate(names)]
    return el("ul", *keys, class_="legend")


def numbers(shares: Mapping[str, float]) -> Markup:
    """The shares as text, in the order of the legend."""
    return el(
        "ul",
        *(el("li", el("span", class_=f"key {colour(n)}"), f"{name} ", el("b", signed(share)))
          for n, (name, share) in enumerate(shares.items())),
        class_="shares",
    )  # fmt: skip


def spoken(shares: Mapping[str, float]) -> str:
    """For who does not see the bar."""
    return ", ".join(f"{name} {signed(share)}" for name, share in shares.items())


def signed(value: float) -> str:
    """With two digits and a real minus sign; what rounds to nothing has no sign."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def colour(place: int) -> str:
    """The class of segment number `place`."""
    return f"s{place % COLOURS}"


def _percent(part: float) -> str:
    return f"{100 * part:.2f}%"
