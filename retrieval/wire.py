"""Bytes on the wire: JSON or msgpack by a request's headers, and a whole response as HTTP/1.1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import TypeAlias, TypeVar

import msgspec

from forebay.errors import BadRequest
from forebay.retrieval.messages import JSON, MSGPACK, ErrorBody

T = TypeVar("T")
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]  # names in small letters

RETRY_AFTER = (b"retry-after", b"1")  # whole seconds is what HTTP has; a server is over a burst by then
_STATUS = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a header, or None."""
    for one, value in headers:
        if one == name:
            return value
    return None


def decode(data: bytes, headers: Headers, kind: type[T]) -> T:
    """A body as a `kind`, by its content type. Raises BadRequest."""
    try:
        if _is_msgpack(header(headers, b"content-type") or b""):
            return msgspec.msgpack.decode(data, type=kind)
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"the body is not a {kind.__name__}: {error}", do="GET /openapi.json says what it has"
        ) from None


def is_msgpack(headers: Headers) -> bool:
    """Whether a body is msgpack, by its content type."""
    return _is_msgpack(header(headers, b"content-type") or b"")


def packed(headers: Headers) -> bool:
    """Whether the answer is msgpack: as the request's `accept` wants it, else as the request came."""
    accept = header(headers, b"accept") or b"*/*"
    return _is_msgpack(accept) or (accept == b"*/*" and _is_msgpack(header(headers, b"content-type") or b""))


def encode(answer: object, headers: Headers) -> tuple[bytes, bytes]:
    """An answer as its request wants it, and its content type."""
    if packed(headers):
        return msgspec.msgpack.encode(answer), MSGPACK.encode()
    return msgspec.json.encode(answer), JSON.encode()


def response(
    status: int, error: ErrorBody, headers: Headers, *, close: bool, more: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """A refusal as HTTP/1.1, for where no app is asked. `close` says that it is the connection's last."""
    data, media = encode(error, headers)
    lines = [b"HTTP/1.1 " + _STATUS[status], b"content-length: %d" % len(data), b"content-type: " + media]
    lines += [name + b": " + value for name, value in more]
    if close:
        lines.append(b"connection: close")
    return b"\r\n".join((*lines, b"", data))


def _is_msgpack(media: bytes) -> bool:
    return b"msgpack" in media
