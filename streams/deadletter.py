"""The record format of a dead letter: a record that the Intake refused, with its bytes, its place and the reason.

A letter's key and value are the first 4 KiB and 64 KiB of the original record's, which stays in its source topic; what
is known about it, the lengths and hashes of the whole included, is in text headers (the Intake writes them in its
transaction, once; everyone reads committed ones only). A record may be as large as its topic allows: with all of it
and the headers the letter would be larger, and the transaction would be refused for good.

The record's own headers stand behind them under their own names: up to 8 KiB; past that only those that say where a
record that was driven again comes from (origin.py). Names that begin with `forebay.` are the letter's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Self, TypeAlias

import msgspec

import forebay
from forebay.errors import EventError
from forebay.streams.origin import Origin, is_of_origin

MAX_MESSAGE = 200
MAX_VALUE_BYTES = 64 * 1024  # any event: only what is no event is cut
MAX_KEY_BYTES = 4 * 1024  # any id is 16 times shorter
MAX_HEADER_BYTES = 8 * 1024  # names and values of a record's own headers
_OWN = "forebay."
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_NAMES = tuple(
    _OWN + name
    for name in (
        "reason", "message", "topic", "partition", "offset", "append_time", "processor", "version",
        "length", "sha256", "key_length", "key_sha256", "headers_count",
    )
)  # fmt: skip

Header: TypeAlias = tuple[str, bytes]


# A Struct: as a frozen dataclass each took 3 µs to make, in a stream that may be a tenth poison.
class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """One record that was refused. `append_time` is that record's, in milliseconds since 1970; `processor` is
    the stage that refused it.

    `length` (bytes) and `sha256` (64 hex digits; "" for None) are those of the whole value, of which `value` may be the
    beginning only; `key_length` and `key_sha256` those of the whole key. Where they are not given, `value` and `key`
    are whole. `headers` are the record's own, or not all of `headers_count`; -1 is that of an older version's letter,
    which has none.
    """

    key: bytes | None
    value: bytes | None
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    append_time: int
    processor: str
    version: str = forebay.__version__
    length: int = -1
    sha256: str = ""
    key_length: int = -1
    key_sha256: str = ""
    headers: Sequence[Header] = ()
    headers_count: int = -1

    def __post_init__(self) -> None:
        for kept, length, digest in ((self.value, "length", "sha256"), (self.key, "key_length", "key_sha256")):
            if getattr(self, length) < 0:
                msgspec.structs.force_setattr(self, length, len(kept or b""))
                msgspec.structs.force_setattr(self, digest, _sha256(kept))

    @property
    def is_whole(self) -> bool:
        """Whether key, value and headers are the record's, to be driven again from here; the whole of a cut one is in
        its source topic."""
        whole = self.length == len(self.value or b"") and self.key_length == len(self.key or b"")
        return whole and self.headers_count <= len(self.headers)

    @property
    def origin(self) -> Origin | None:
        """Where the event was first: in the refused record, or in the one of which that was a copy. None where a
        foreign letter does not say it."""
        first = Origin.of(self.headers)
        if first is not None and (first.topic, first.partition) == (self.topic, self.partition):
            return first
        return Origin.of(Origin(self.topic, self.partition, self.offset, self.append_time).to_headers())

    @classmethod
    def of(
        cls,
        error: EventError,
        *,
        key: bytes | None,
        value: bytes | None,
        topic: str,
        partition: int,
        offset: int,
        append_time: int,
        processor: str,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> Self:
        """The dead letter of a record that `error` refuses, its bytes cut to what a letter carries. What the error
        quotes from the record is left out."""
        own = tuple((name, data or b"") for name, data in headers if _is_records(name)) if headers else ()
        return cls(
            key=None if key is None else key[:MAX_KEY_BYTES],
            value=None if value is None else value[:MAX_VALUE_BYTES],
            reason=error.reason,
            message=_unquoted(error.what)[:MAX_MESSAGE],
            topic=topic,
            partition=partition,
            offset=offset,
            append_time=append_time,
            processor=processor,
            length=len(value or b""),
            sha256=_sha256(value),
            key_length=len(key or b""),
            key_sha256=_sha256(key),
            headers=own if not own or _size(own) <= MAX_HEADER_BYTES else _origins(own),
            headers_count=len(own),
        )

    def without_content(self) -> Self:
        """Key, value and headers left out, what is known about them kept."""
        return msgspec.structs.replace(self, key=None, value=None, headers=_origins(self.headers))

    def to_record(self) -> tuple[bytes | None, bytes | None, list[Header]]:
        """Key, value and headers, as both Kafka clients take them."""
        texts = (
            self.reason, self.message[:MAX_MESSAGE], self.topic, str(self.partition), str(self.offset),
            str(self.append_time), self.processor, self.version, str(self.length), self.sha256, str(self.key_length),
            self.key_sha256, str(self.headers_count),
        )  # fmt: skip
        headers = [(name, text.encode("utf-8", "replace")) for name, text in zip(_NAMES, texts, strict=True)]
        return self.key, self.value, [*headers, *self.headers]

    @classmethod
    def from_record(
        cls, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]] | None
    ) -> Self:
        """The dead letter in a record. Never raises: what a foreign record lacks is "" or -1; a record without lengths
        is whole, as those of older versions are."""
        found = [(name, data or b"") for name, data in headers or ()]
        texts = {name: data.decode("utf-8", "replace") for name, data in found if not _is_records(name)}

        def text(name: str) -> str:
            return texts.get(f"{_OWN}{name}", "")

        def number(name: str) -> int:
            return int(text(name)) if re.fullmatch(r"-?[0-9]{1,19}", text(name)) else -1

        return cls(
            key=key,
            value=value,
            reason=text("reason"),
            message=text("message"),
            topic=text("topic"),
            partition=number("partition"),
            offset=number("offset"),
            append_time=number("append_time"),
            processor=text("processor"),
            version=text("version"),
            length=number("length"),
            sha256=text("sha256"),
            key_length=number("key_length"),
            key_sha256=text("key_sha256"),
            headers=tuple((name, data) for name, data in found if _is_records(name)),
            headers_count=number("headers_count"),
        )


def _unquoted(said: str) -> str:
    return _QUOTED.sub("'…'", said) if "'" in said or '"' in said else said


def _is_records(name: str) -> bool:
    """Whether a header is the refused record's own, and not about its letter."""
    return not name.startswith(_OWN) or is_of_origin(name)


def _origins(headers: Sequence[Header]) -> tuple[Header, ...]:
    origin = Origin.of(headers)
    return () if origin is None else tuple(origin.to_headers())


def _size(headers: Sequence[Header]) -> int:
    return sum(len(name.encode()) + len(data) for name, data in headers)


def _sha256(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha256(data).hexdigest()
