"""What events carry and a spec does not know: counted, for people who misspelt an action or forgot an attribute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

from forebay.events import Behaviour, Event, ItemUpdate, UserProfile
from forebay.segments.spec import Spec

MAX_NAMES = 100  # different ones that are told apart: names come from producers, and a metric has a series for each
MAX_NAME = 40  # characters of one
OTHER = "(other)"

Counts: TypeAlias = Counter[tuple[str, str]]  # (kind, name) -> events


class Undeclared:
    """Counts undeclared actions and attributes by kind (`action`, `event attribute`, `item attribute`, `user
    attribute`) and name.

    An interaction is not looked at: it was counted as a behaviour. A spec that lists no actions tells none apart, and
    misses none. The attribute that `[label] join` names is known without being declared.
    """

    def __init__(self, spec: Spec) -> None:
        self._actions = frozenset(spec.events.actions)
        self._own = frozenset({a.name for a in spec.event_attributes} | {spec.label.join})
        self._item = frozenset(a.name for a in spec.attributes["item"])
        self._user = frozenset(a.name for a in spec.attributes["user"])
        self._names: set[tuple[str, str]] = set()

    def count(self, events: Iterable[Event]) -> Counts:
        """How many of `events` have each thing that is not declared. The first MAX_NAMES names that this object met are
        told apart."""
        found: Counts = Counter()
        actions, own, item = self._actions, self._own, self._item
        for event in events:
            if isinstance(event, Behaviour):
                if actions and event.action not in actions:
                    found[self._named("action", event.action)] += 1
                if event.attributes and not own.issuperset(event.attributes):
                    found.update(self._named("event attribute", n) for n in event.attributes if n not in own)
                if event.item_attributes and not item.issuperset(event.item_attributes):
                    found.update(self._named("item attribute", n) for n in event.item_attributes if n not in item)
            elif isinstance(event, ItemUpdate):
                found.update(self._named("item attribute", n) for n in event.attributes if n not in item)
            elif isinstance(event, UserProfile):
                found.update(self._named("user attribute", n) for n in event.attributes if n not in self._user)
        return found

    def _named(self, kind: str, name: str) -> tuple[str, str]:
        key = (kind, name[:MAX_NAME])
        if key not in self._names:
            if len(self._names) >= MAX_NAMES:
                return kind, OTHER
            self._names.add(key)
        return key
