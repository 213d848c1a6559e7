"""What events carry and a spec does not know: counted, for people who misspelt an action or forgot an attribute."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from forebay.arrays import Bools
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE, Scope
from forebay.segments.spec import Side, Spec

MAX_NAMES = 100  # different ones that are told apart: names come from producers, and a metric has a series for each
MAX_NAME = 40  # characters of one
OTHER = "(other)"

Counts: TypeAlias = Counter[tuple[str, str]]  # (kind, name) -> events


class Undeclared:
    """Counts undeclared actions and attributes by kind (`action`, `event attribute`, `item attribute`, `user
    attribute`) and name.

    A behaviour is in both sides' logs, and is looked at on the user's. A spec that lists no actions tells none apart,
    and misses none. The attribute that `[label] join` names is known without being declared.
    """

    def __init__(self, spec: Spec, side: Side) -> None:
        """Of the log of one side."""
        self._side = side
        self._actions = frozenset(spec.events.actions)
        self._known: dict[Scope, frozenset[str]] = {
            "event": frozenset({a.name for a in spec.event_attributes} | {spec.label.join}),
            "item": frozenset(a.name for a in spec.attributes["item"]),
            "user": frozenset(a.name for a in spec.attributes["user"]),
        }
        self._names: set[tuple[str, str]] = set()

    def count(self, block: Block) -> Counts:
        """How many events of `block` have each thing that is not declared. The first MAX_NAMES names that this object
        met are told apart."""
        found: Counts = Counter()
        kinds = block.numbers("kind")
        looked = kinds != BEHAVIOUR if self._side == "item" else kinds != ITEM_UPDATE
        if self._actions and self._side == "user":
            for action, events in _different(block.batch.column("action"), kinds == BEHAVIOUR):
                if action not in self._actions:
                    found[self._named("action", action)] += events
        for attribute in block.attributes:
            if attribute.name in self._known[attribute.scope]:
                continue
            there = block.batch.column(attribute.column).is_valid().to_numpy(zero_copy_only=False)
            if events := int((there & looked).sum()):
                found[self._named(f"{attribute.scope} attribute", attribute.name)] += events
        return found

    def _named(self, kind: str, name: str) -> tuple[str, str]:
        key = (kind, name[:MAX_NAME])
        if key not in self._names:
            if len(self._names) >= MAX_NAMES:
                return kind, OTHER
            self._names.add(key)
        return key


def _different(column: pa.Array, chosen: Bools) -> list[tuple[str, int]]:
    """Each text at the chosen places, in order of its first one, and how often it is there."""
    codes = column.dictionary_encode()
    counts = np.bincount(codes.indices.to_numpy()[chosen], minlength=len(codes.dictionary))
    return [(text, n) for text, n in zip(codes.dictionary.to_pylist(), counts.tolist(), strict=True) if n]
