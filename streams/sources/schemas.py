"""Schemas by their ids, ready to decode with: fetched on threads of their own, and kept within a bound."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from forebay.errors import EventError
from forebay.streams.sources.registry import Registry, RegistryAway, Schema

T = TypeVar("T")
KEPT = 1000  # schemas; what one batch needs besides is kept while it is decoded
PATIENCE_S = 0.5  # of one question: whoever asks has other sources to read
NONE_FOR_S = 60.0  # a registry may hear of a schema later than the records that are of it come
THREADS = 4


class Schemas(Generic[T]):
    """What `compiled` makes of the schemas of one registry. One thread asks."""

    def __init__(self, registry: Registry, compiled: Callable[[Schema], T]) -> None:
        """`compiled` raises EventError for a schema that nothing can be decoded with."""
        self._registry, self._compiled = registry, compiled
        self._found: OrderedDict[int, T | EventError] = OrderedDict()  # those asked for last are the last
        self._none_until: dict[int, float] = {}
        self._asked: dict[int, Future[T]] = {}
        self._pool = ThreadPoolExecutor(THREADS, "schemas")

    def waits(self, numbers: set[int]) -> str:
        """Why some of `numbers` cannot be had now; "" when all are there, or are known to be none. Comes back within
        half a second."""
        while len(self._found) > KEPT:
            self._none_until.pop(self._found.popitem(last=False)[0], None)
        self._forget_none()
        for number in numbers:
            if number in self._found:
                self._found.move_to_end(number)
            elif number not in self._asked:
                self._asked[number] = self._pool.submit(self._fetched, number)
        wait([self._asked[number] for number in numbers if number in self._asked], PATIENCE_S)
        reason = ""
        for number, future in list(self._asked.items()):
            if future.done():
                del self._asked[number]
                reason = self._took(number, future) or reason
            elif number in numbers:
                reason = reason or f"schema {number} is being fetched from {self._registry.address.url}"
        return reason if numbers - self._found.keys() else ""

    def of(self, number: int) -> T:
        """The schema with this id, which `waits` has found. Raises EventError `no_schema`."""
        found = self._found.get(number)
        if found is None:
            raise EventError("no_schema", f"schema {number} was not asked for")
        if isinstance(found, EventError):
            raise EventError(found.reason, found.what)
        return found

    def _fetched(self, number: int) -> T:
        return self._compiled(self._registry.schema(number))

    def _took(self, number: int, future: Future[T]) -> str:
        try:
            self._found[number] = future.result()
        except RegistryAway as error:
            return f"{error.what} ({error.where})"
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
