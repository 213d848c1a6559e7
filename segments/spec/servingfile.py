"""Reading `[serving]`: what rows have for requests, beside vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forebay.errors import SpecError
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.itemcondition import ItemCondition
from forebay.segments.spec.spec import SegmentSpec, Serving
from forebay.segments.spec.toml import known, strings, whole

MAX_FILTER = 32  # attributes: 8 bytes each in every item's row
MAX_REMEMBER = 500  # items: 8 bytes each in every user's row, and 24 of its state
BOOST = "boost"  # what `shares` call what was added to a score


def read_serving(given: Any, attributes: Sequence[AttributeSpec], segments: Sequence[SegmentSpec]) -> Serving:
    """The table `given`, for the item `attributes` that are declared. Raises SpecError."""
    known(given, {"filter", "hide", "remember"}, "[serving]")
    names = strings(given.get("filter", []), "[serving] filter")
    for name in names:
        _check(name, attributes)
    if len(names) > MAX_FILTER:
        raise SpecError(f"{len(names)} attributes", where="[serving] filter", do=f"Name {MAX_FILTER} at most")
    if names and any(s.side == "user" and s.name == BOOST for s in segments):
        raise SpecError(
            f"a segment called {BOOST!r} beside [serving] filter",
            where=f"[user.{BOOST}]",
            do="Choose another name: the shares of an answer call what a boost adds so",
        )
    hide = None
    if "hide" in given:
        declared = [a for n in names for a in attributes if a.name == n]
        hide = ItemCondition.of(given["hide"], declared, "[serving] hide")
    remember = whole(given["remember"], 1, MAX_REMEMBER, "[serving] remember") if "remember" in given else 0
    return Serving(names, hide, remember)


def _check(name: str, attributes: Sequence[AttributeSpec]) -> None:
    attribute = next((a for a in attributes if a.name == name), None)
    if attribute is None:
        declared = ", ".join(a.name for a in attributes) or "none"
        raise SpecError(
            f"{name!r} is no attribute of items",
            where="[serving] filter",
            do=f"Declare it under [attributes.item]; there are: {declared}",
        )
    if attribute.buckets:
        raise SpecError(
            f"{name}, whose values share buckets: a filter would let others through",
            where="[serving] filter",
            do=f'List the values that are told apart: {name} = {{ category = ["a", "b"] }}',
        )
