"""Conditions on an item, in the language of labels, over the attributes that `[serving] filter` names.

    year >= 1990              year in (1999, 2000)             a number
    in_stock                  not in_stock                     a number that is there and not 0
    language == 'en'          language not in ('en', 'fr')     a category with listed values
    'Comedy' in genres        'War' not in genres              a set

joined by `and`, `or`, `not` and brackets. There is no `action` and no `value`: these are an event's.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from forebay.errors import SpecError
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.expression import Condition, Evaluate

MAX_TEXT = 2_000  # characters: a condition of more is a list of ids, which `allow` takes


@dataclass(frozen=True)
class ItemCondition(Condition):
    """`text`, compiled for item attributes. It is called with their codes, int64 [n] by name."""

    _holder: ClassVar[str] = "item"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_declared", self.attributes)
        if isinstance(self.text, str) and len(self.text) > MAX_TEXT:
            short = f"{self.text[:40]}…"
            raise SpecError(
                f"a condition of {len(self.text):,} characters, {short!r}",
                where=self.where,
                do=f"Use {MAX_TEXT:,} at most",
            )
        try:
            super().__post_init__()
        except (ValueError, MemoryError):  # a null byte, a lone surrogate; brackets deeper than the parser goes
            raise self._error("cannot be read") from None

    def __repr__(self) -> str:
        return super().__repr__()

    @classmethod
    def of(cls, text: str, attributes: Sequence[AttributeSpec], where: str = "") -> ItemCondition:
        """Raises SpecError that says which attributes there are."""
        return cls(text, (), where, tuple(attributes))

    def _error(self, what: str) -> SpecError:
        declared: tuple[AttributeSpec, ...] = self.__dict__["_declared"]
        have = ", ".join(f"{a.name} ({a.kind})" for a in declared) or "none"
        return SpecError(
            f"condition {self.text!r} {what}",
            where=self.where,
            do=f"Use and/or/not over comparisons of item attributes that [serving] filter names: {have}",
        )

    def _compile(self, node: ast.expr) -> Evaluate:
        if isinstance(node, ast.Name):
            return self._is_set(node.id)
        return super()._compile(node)

    def _comparison(self, name: str, op: ast.cmpop, right: ast.expr) -> Evaluate:
        return self._of_attribute(name, op, right)

    def _is_set(self, name: str) -> Evaluate:
        attribute = next((a for a in self.attributes if a.name == name), None)
        if attribute is None:
            raise self._error(f"names {name!r}")
        if attribute.kind != "number":
            raise self._error(f"has {name} alone, which is a {attribute.kind}: compare it")
        return lambda c: (c[name] != 0) & (c[name] != 1)  # the codes of an absent number, and of 0
