"""A record as somebody else wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from forebay.streams.worker.batch import Headers

Row: TypeAlias = Mapping[str, Any]


class Raw(NamedTuple):
    """One record of a foreign topic."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Found(NamedTuple):
    """What a record holds: its fields by name, and whether it says that the thing is `gone`."""

    row: Row
    gone: bool = False


class Codec(Protocol):
    """Bytes into a value. One thread at a time."""

    def waits(self, batches: Sequence[list[bytes]]) -> list[str]:
        """For each of `batches` why its values cannot be decoded now, though they may be later; "" where nothing is
        missing, and then they can be until the next call. Comes back within a second."""

    def decode(self, value: bytes) -> Any:
        """The value: objects as mappings. Raises EventError, and whatever its library raises for odd bytes; called for
        what `waits` has found nothing missing."""


class Form(Protocol):
    """What the records of one topic look like. One thread at a time."""

    def waits(self, batches: Sequence[list[Raw]]) -> list[str]:
        """See Codec."""

    def found(self, record: Raw) -> Found | None:
        """What a record holds; None for one that says nothing. Raises as Codec does."""
