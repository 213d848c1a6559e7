"""Conditions on an event, as they stand in segments.toml: `action in ('like', 'purchase') or value >= 4`.

A condition is compiled once into a function over integer columns. `value` is compared in thousandths, exactly as state
keeps it, so that a condition can never differ between two machines by a rounding.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from forebay.errors import SpecError
from forebay.events import MAX_VALUE

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Evaluate = Callable[[Mapping[str, Ints]], Bools]

_COMPARE: dict[type[ast.cmpop], Callable[[Ints, int], Bools]] = {
    ast.Eq: lambda a, b: np.asarray(a == b),
    ast.NotEq: lambda a, b: np.asarray(a != b),
    ast.Lt: lambda a, b: np.asarray(a < b),
    ast.LtE: lambda a, b: np.asarray(a <= b),
    ast.Gt: lambda a, b: np.asarray(a > b),
    ast.GtE: lambda a, b: np.asarray(a >= b),
}


@dataclass(frozen=True)
class Condition:
    """`text`, compiled for a list of known actions. Equal when the texts and the actions are."""

    text: str
    actions: tuple[str, ...]
    where: str = field(default="", compare=False, repr=False)
    _evaluate: Evaluate = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise self._error("is not a text")
        try:
            evaluate = self._compile(ast.parse(self.text, mode="eval").body)
        except SyntaxError as error:
            raise self._error(f"cannot be read ({error.msg})") from None
        except RecursionError:
            raise self._error("is nested too deeply") from None
        object.__setattr__(self, "_evaluate", evaluate)

    def __call__(self, columns: Mapping[str, Ints]) -> Bools:
        """True for each event that meets the condition. `columns` holds int64 `action` (codes) and `value`
        (thousandths), all of shape [n]."""
        return self._evaluate(columns)

    def _error(self, what: str) -> SpecError:
        return SpecError(
            f"condition {self.text!r} {what}",
            where=self.where,
            do="Use and/or/not over comparisons of `action` with strings and `value` with numbers",
        )

    def _compile(self, node: ast.expr) -> Evaluate:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                parts = [self._compile(v) for v in values]
                return lambda c: np.logical_and.reduce([p(c) for p in parts])
            case ast.BoolOp(op=ast.Or(), values=values):
                parts = [self._compile(v) for v in values]
                return lambda c: np.logical_or.reduce([p(c) for p in parts])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._compile(operand)
                return lambda c: ~inner(c)
            case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[right]):
                return self._comparison(name, op, right)
        raise self._error(f"has {ast.unparse(node)!r} in it, which is no comparison")

    def _comparison(self, name: str, op: ast.cmpop, right: ast.expr) -> Evaluate:
        if name not in ("action", "value"):
            raise self._error(f"names {name!r}")
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set):
                raise self._error("has `in` without a list")
            members = np.array([self._literal(name, e) for e in right.elts], dtype=np.int64)
            inverted = isinstance(op, ast.NotIn)
            return lambda c: np.isin(c[name], members, invert=inverted)
        if type(op) not in _COMPARE or (name == "action" and not isinstance(op, ast.Eq | ast.NotEq)):
            raise self._error(f"compares {name} in a way that it does not have")
        compare, literal = _COMPARE[type(op)], self._literal(name, right)
        return lambda c: compare(c[name], literal)

    def _literal(self, name: str, node: ast.expr) -> int:
        try:
            value = ast.literal_eval(node)
        except ValueError:
            raise self._error(f"has {ast.unparse(node)!r} where a plain value must stand") from None
        if name == "value" and isinstance(value, int | float) and not isinstance(value, bool):
            if not abs(value) <= MAX_VALUE:
                raise self._error(f"compares value with {value}, past any that an event may have")
            return round(value * 1000)
        if name == "action" and isinstance(value, str):
            if value not in self.actions:
                raise SpecError(
                    f"condition {self.text!r} names the action {value!r}, which [events] does not list",
                    where=self.where,
                    do=f"Add it to actions = {list(self.actions)}",
                )
            return action_code(self.actions, value)
        raise self._error(f"compares {name} with {value!r}")


def action_code(actions: Sequence[str], action: str) -> int:
    """1 for the first listed action and so on; 0 for any other."""
    return actions.index(action) + 1 if action in actions else 0
