"""What a request asks of items beside their scores: which may be in its answer, and what is added to whose score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.itemcondition import ItemCondition


@dataclass(frozen=True)
class Selection:
    """An item is kept that meets all of `needs` and not `hide`; to the score of one that meets a condition of `boosts`
    the weight beside it is added. Of the serving columns of items, which are the codes of `attributes`."""

    attributes: tuple[AttributeSpec, ...]
    needs: tuple[ItemCondition, ...] = ()
    hide: ItemCondition | None = None
    boosts: tuple[tuple[ItemCondition, float], ...] = ()

    @property
    def chooses(self) -> tuple[tuple[ItemCondition, ...], ItemCondition | None]:
        """Selections that are equal in this keep the same items."""
        return self.needs, self.hide

    def kept(self, columns: Ints) -> Bools:
        """bool [n]: which items of `columns` int64 [n, attributes] are kept."""
        named, kept = self._named(columns), np.ones(len(columns), np.bool_)
        for condition in self.needs:
            kept &= condition(named)
        if self.hide is not None:
            kept &= ~self.hide(named)
        return kept

    def added(self, columns: Ints) -> Floats | None:
        """float32 [n]: what is added to the score of each item; None where nothing is to any."""
        if not self.boosts:
            return None
        named, added = self._named(columns), np.zeros(len(columns), np.float32)
        for condition, weight in self.boosts:
            added += condition(named) * np.float32(weight)
        return added

    def _named(self, columns: Ints) -> Mapping[str, Ints]:
        return {attribute.name: columns[:, place] for place, attribute in enumerate(self.attributes)}
