"""Schemas by their ids, ready to decode with: fetched on threads of their own, and kept within a bound."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from itertools import chain
from typing import Generic, TypeVar

from forebay.errors import EventError
from forebay.streams.sources.fetching import Fetching
from forebay.streams.sources.registry import Registry, RegistryAway, Schema

T = TypeVar("T")
KEPT = 1000  # schemas; what the batches of one call need besides is kept until the next one
KEPT_WAITING = 4 * KEPT  # while some wait: what they have already is not to be asked for again
MOST_ASKED = 100  # ids of one batch: a topic has a few, and bytes that are none may name a thousand
PATIENCE_S = 0.5  # of one question: whoever asks has other sources to read
NONE_FOR_S = 60.0  # a registry may hear of a schema later than the records that are of it come


class Schemas(Generic[T]):
    """What `compiled` makes of the schemas of one registry. One thread asks."""

    def __init__(self, registry: Registry, compiled: Callable[[Schema], T]) -> None:
        """`compiled` raises EventError for a schema that nothing can be decoded with."""
        self._registry, self._compiled = registry, compiled
        self._found: OrderedDict[int, T | EventError] = OrderedDict()  # those asked for last are the last
        self._none_until: dict[int, float] = {}
        self._asked: dict[int, Future[T]] = {}
        self._fetching = Fetching(self._fetched)

    def waits(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """For each of some batches' ids, which are distinct and in the order of the records, why some cannot be had
        now; "" where all are there, or are known to be none. They are kept until the next call. Of one batch the first
        100 are asked for, and `of` knows the others only by chance. Comes back within half a second."""
        self._forget_none()
        wanted = [group[:MOST_ASKED] for group in groups]
        asked = dict.fromkeys(chain.from_iterable(wanted))
        for number in asked:
            if number in self._found:
                self._found.move_to_end(number)
            elif number not in self._asked:
                self._asked[number] = self._fetching.begin(number)
        wait([self._asked[number] for number in asked if number in self._asked], PATIENCE_S)
        away: dict[int, str] = {}
        for number, future in list(self._asked.items()):
            if future.done():
                del self._asked[number]
                if said := self._took(number, future):
                    away[number] = said
        reasons = [next((self._why(n, away) for n in group if n not in self._found), "") for group in wanted]
        self._trim(set(chain.from_iterable(groups)), KEPT_WAITING if any(reasons) else KEPT)
        return reasons

    def of(self, number: int) -> T:
        """The schema with this id, which `waits` has found. Raises EventError `no_schema`."""
        found = self._found.get(number)
        if found is None:
            raise EventError(
                "no_schema", f"schema {number} was not asked for: {MOST_ASKED} others come before it in one batch"
            )
        if isinstance(found, EventError):
            raise EventError(found.reason, found.what)
        return found

    def _why(self, number: int, away: dict[int, str]) -> str:
        return away.get(number) or f"schema {number} is being fetched from {self._registry.address.url}"

    def _trim(self, needed: set[int], kept: int) -> None:
        """Down to `kept`, but for those that are `needed`: they are about to be used."""
        over = len(self._found) - kept
        if over <= 0:
            return
        for number in [number for number in self._found if number not in needed][:over]:
            del self._found[number]
            self._none_until.pop(number, None)

    def _fetched(self, number: int) -> T:
        return self._compiled(self._registry.schema(number))

    def _took(self, number: int, future: Future[T]) -> str:
        try:
            self._found[number] = future.result()
        except RegistryAway as error:
            return str(error)
        except EventError as error:
            self._none(number, error)
        except Exception as error:  # noqa: BLE001 - a library may say what it likes of a schema
            self._none(
                number, EventError("no_schema", f"schema {number} cannot be used: {type(error).__name__}: {error}")
            )
        return ""

    def _none(self, number: int, error: EventError) -> None:
        self._found[number], self._none_until[number] = error, time.monotonic() + NONE_FOR_S

    def _forget_none(self) -> None:
        now = time.monotonic()
        for number in [number for number, until in self._none_until.items() if now > until]:
            del self._none_until[number]
            self._found.pop(number, None)
