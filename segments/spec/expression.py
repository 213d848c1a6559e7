"""Conditions on an event, as they stand in segments.toml: `action in ('like', 'purchase') or value >= 4`.

    action == 'like'      action in ('like', 'purchase')       a listed action; != and `not in` as well
    value >= 4            value in (1, 5)                      the event's value, a number
    position <= 3                                              an event attribute that is a number
    device == 'phone'     device not in ('desk', 'tv')         one that is a category with listed values
    'sale' in tags        'new' not in tags                    one that is a set

joined by `and`, `or`, `not` and brackets. An event attribute that is absent, or has an unknown value, meets no
comparison but `!=` and `not in`.

A condition is compiled once into a function over integer columns. `value` is compared in thousandths, exactly as state
keeps it, so that a condition can never differ between two machines by a rounding.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.errors import SpecError
from forebay.events import MAX_VALUE
from forebay.segments.spec.attribute import MAX_NUMBER, AttributeSpec

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
    """`text`, compiled for a list of known actions and the declared event attributes; of those only the ones that it
    names are kept. Equal when these three are."""

    text: str
    actions: tuple[str, ...]
    where: str = field(default="", compare=False)
    attributes: tuple[AttributeSpec, ...] = ()
    _evaluate: Evaluate = field(init=False, compare=False)
    _holder: ClassVar[str] = "event"  # whose attributes they are, in what errors say

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise self._error("is not a text")
        try:
            parsed = ast.parse(self.text, mode="eval").body
            evaluate = self._compile(parsed)
            named = {n.id for n in ast.walk(parsed) if isinstance(n, ast.Name)}
            object.__setattr__(self, "attributes", tuple(a for a in self.attributes if a.name in named))
        except SyntaxError as error:
            raise self._error(f"cannot be read ({error.msg})") from None
        except RecursionError:
            raise self._error("is nested too deeply") from None
        object.__setattr__(self, "_evaluate", evaluate)

    def __repr__(self) -> str:
        # Vectors are tagged by a hash over this text: a field that is not used must not change the tags of older
        # models.
        attributes = f", attributes={self.attributes!r}" if self.attributes else ""
        return f"Condition(text={self.text!r}, actions={self.actions!r}{attributes})"

    def __call__(self, columns: Mapping[str, Ints]) -> Bools:
        """True for each event that meets the condition. `columns` holds int64 `action` (codes), `value` (thousandths)
        and the event attributes that it names (as columns.py codes them), all of shape [n]."""
        return self._evaluate(columns)

    def _error(self, what: str) -> SpecError:
        return SpecError(
            f"condition {self.text!r} {what}",
            where=self.where,
            do="Use and/or/not over comparisons of `action` with strings, `value` with numbers, and declared event "
            "attributes",
        )

    def _compile(self, node: ast.expr) -> Evaluate:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                parts = [self._compile(v) for v in values]
                return lambda c: reduce(np.logical_and, (p(c) for p in parts))
            case ast.BoolOp(op=ast.Or(), values=values):
                parts = [self._compile(v) for v in values]
                return lambda c: reduce(np.logical_or, (p(c) for p in parts))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._compile(operand)
                return lambda c: ~inner(c)
            case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[right]):
                return self._comparison(name, op, right)
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[ast.Name(id=name)]):
                return self._membership(left, op, name)
        raise self._error(f"has {ast.unparse(node)!r} in it, which is no comparison")

    def _comparison(self, name: str, op: ast.cmpop, right: ast.expr) -> Evaluate:
        if name not in ("action", "value"):
            return self._of_attribute(name, op, right)
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

    def _of_attribute(self, name: str, op: ast.cmpop, right: ast.expr) -> Evaluate:
        attribute = next((a for a in self.attributes if a.name == name), None)
        if attribute is None:
            raise self._error(f"names {name!r}")
        if attribute.kind == "set":
            raise self._error(f"compares the set {name}: ask for a member of it, 'x' in {name}")
        if attribute.buckets:
            raise self._error(f"compares {name}, whose values share buckets: list those that you tell apart")
        ordered = attribute.kind == "number"
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set):
                raise self._error("has `in` without a list")
            codes = np.array([self._code(attribute, e) for e in right.elts], dtype=np.int64)
            inverted = isinstance(op, ast.NotIn)
            return lambda c: np.isin(c[name], codes, invert=inverted)
        if type(op) not in _COMPARE or not (ordered or isinstance(op, ast.Eq | ast.NotEq)):
            raise self._error(f"compares {name} in a way that it does not have")
        compare, code = _COMPARE[type(op)], self._code(attribute, right)
        if isinstance(op, ast.NotEq):
            return lambda c: np.asarray(c[name] != code)
        # Codes of numbers are odd and in their order; 0 is an absent one. No listed value has the code 0 either.
        return lambda c: compare(c[name], code) & (c[name] != 0)

    def _membership(self, left: ast.expr, op: ast.cmpop, name: str) -> Evaluate:
        attribute = next((a for a in self.attributes if a.name == name), None)
        if attribute is None or attribute.kind != "set":
            raise self._error(f"asks for a member of {name!r}, which is no set of the {self._holder}")
        bit, inverted = self._code(attribute, left), isinstance(op, ast.NotIn)
        return lambda c: ((c[name] >> bit & 1) == 0) == inverted

    def _code(self, attribute: AttributeSpec, node: ast.expr) -> int:
        """What columns.py keeps a category's or a number's value as; the bit of a set's."""
        value = self._plain(node)
        if attribute.kind == "number":
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
                raise self._error(f"compares {attribute.name} with {value!r}")
            return round(value * 1000) * 2 + 1
        if value not in attribute.values:
            raise SpecError(
                f"condition {self.text!r} names {value!r}, which {attribute.name} does not list",
                where=self.where,
                do=f"Add it to its values under [attributes.{self._holder}]: {list(attribute.values)}",
            )
        return attribute.values.index(value) + 1

    def _plain(self, node: ast.expr) -> Any:
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError):  # the second of a set with a list in it
            raise self._error(f"has {ast.unparse(node)!r} where a plain value must stand") from None

    def _literal(self, name: str, node: ast.expr) -> int:
        value = self._plain(node)
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
