"""What a request may say of items beside their ids: `filter` and `boost`, compiled and kept, for one generation."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping

from forebay.errors import BadRequest, SpecError
from forebay.segments.spec.itemcondition import ItemCondition
from forebay.store.codec import ServedColumns
from forebay.store.selection import Selection

MAX_COMPILED = 256  # texts; a service has a few, and a client that makes one up for each request must not fill memory
MAX_WEIGHT = 1e6


class Selector:
    """Compiles the conditions of requests over the columns that rows have. Any number of threads."""

    def __init__(self, items: ServedColumns, max_boosts: int) -> None:
        self._items, self._max_boosts = items, max_boosts
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, ItemCondition] = OrderedDict()
        self._always = Selection(items.attributes, hide=items.hide) if items.hide is not None else None

    def of(self, filter: str, boost: Mapping[str, float]) -> Selection | None:
        """What a request asks for, and what is always hidden; None where that is nothing. Raises BadRequest that names
        the condition, and which attributes there are."""
        if not filter and not boost:
            return self._always
        if len(boost) > self._max_boosts:
            raise BadRequest(f"{len(boost)} boosts", do=f"Send {self._max_boosts} at most")
        for text, weight in boost.items():
            if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
                raise BadRequest(
                    f"the weight {weight} of boost {text[:80]!r}", do=f"Use a number from -{MAX_WEIGHT:,.0f} to as many"
                )
        needs = (self._condition(filter, "filter"),) if filter else ()
        boosts = tuple((self._condition(text, "boost"), weight) for text, weight in boost.items())
        return Selection(self._items.attributes, needs, self._items.hide, boosts)

    def _condition(self, text: str, where: str) -> ItemCondition:
        with self._lock:
            if (found := self._compiled.get(text)) is not None:
                self._compiled.move_to_end(text)
                return found
        if not self._items.attributes:
            raise BadRequest(
                f"{where} {text[:80]!r}, and the items of this generation have no attributes to ask for",
                do='Name some in the spec, [serving] filter = ["year"], and build a generation of it',
            )
        try:
            found = ItemCondition.of(text, self._items.attributes)
        except SpecError as error:
            raise BadRequest(f"{where}: {error.what}", do=error.do) from None
        with self._lock:
            self._compiled[text] = found
            while len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        return found
