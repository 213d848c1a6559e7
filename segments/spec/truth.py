"""Whether any event can meet a condition, and whether every one does: what the linter asks of each condition of a
spec."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, product
from math import prod

import numpy as np

from forebay.events import MAX_VALUE
from forebay.segments.spec.attribute import MAX_NUMBER, THOUSANDTHS
from forebay.segments.spec.expression import Condition

MAX_CASES = 1 << 18  # of one condition that are tried


def possible(condition: Condition) -> tuple[bool, bool]:
    """Whether any event, and whether every event, meets the condition."""
    listed, unlisted, always = by_action(condition)
    return listed or unlisted, always


def by_action(condition: Condition) -> tuple[bool, bool, bool]:
    """Whether some event of a listed action, some of another one, and every event at all meets the condition.

    Exact: between two neighbouring constants of the text no comparison with a number changes, so that each constant,
    the thousandths beside it and both ends stand for all values. A condition with more than MAX_CASES of them is taken
    to go either way.
    """
    constants = [n.value for n in ast.walk(ast.parse(condition.text, mode="eval")) if isinstance(n, ast.Constant)]
    ways = [range(len(condition.actions) + 1), _near(constants, MAX_VALUE)]
    for attribute in condition.attributes:
        named = [place for place, value in enumerate(attribute.values, start=1) if value in constants]
        if attribute.kind == "number":
            ways.append([0, *(2 * v + 1 for v in _near(constants, MAX_NUMBER))])
        elif attribute.kind == "category":
            ways.append([0, *named])  # no comparison tells a value that is not named from an unknown one
        elif 1 << len(named) > MAX_CASES:
            return True, True, False
        else:
            ways.append([sum(1 << bit for bit in members) or 1 for members in _subsets(named)])
    if prod(map(len, ways)) > MAX_CASES:
        return True, True, False
    grid = np.array(list(product(*ways)), dtype=np.int64)
    names = ("action", "value", *(a.name for a in condition.attributes))
    met = np.broadcast_to(condition(dict(zip(names, grid.T, strict=True))), len(grid))
    return bool(met[grid[:, 0] > 0].any()), bool(met[grid[:, 0] == 0].any()), bool(met.all())


def _near(constants: Sequence[object], bound: float) -> list[int]:
    """The numbers among `constants` in thousandths, those beside them, and both ends of what a number may be."""
    end = round(bound * THOUSANDTHS)
    values = {-end, end}
    for constant in constants:
        if isinstance(constant, int | float):
            near = round(constant * THOUSANDTHS)
            # A minus sign is a node of its own: both signs cost less than finding out.
            values.update(v for sign in (1, -1) for v in range(sign * near - 1, sign * near + 2) if abs(v) <= end)
    return sorted(values)


def _subsets(places: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(places, size) for size in range(len(places) + 1))
