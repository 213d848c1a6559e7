"""One request as an app has it, and what it takes from a server and gives back."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from forebay.errors import BadRequest, DeadlineExceeded, ForebayError
from forebay.retrieval.steps import Lap, untimed
from forebay.retrieval.wire import RETRY_AFTER, Headers, header

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class TooLarge(ForebayError):
    """The body is larger than the limit."""


@dataclass(slots=True)
class Asked:
    """One request. `arrived`, of `time.perf_counter`, is the earliest that its first byte can have come. `lap` is told
    of the steps of a lookup."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    arrived: float
    lap: Lap = untimed

    def left_s(self) -> float | None:
        """Seconds that the caller still waits; None where it did not say. Raises DeadlineExceeded."""
        self.within()
        text = header(self.headers, b"forebay-deadline-ms")
        return None if text is None else float(text) / 1000 - (time.perf_counter() - self.arrived)

    def within(self) -> None:
        """Raise DeadlineExceeded if the caller's time is over."""
        text = header(self.headers, b"forebay-deadline-ms")
        if text is None:
            return
        try:
            budget_ms = float(text)
        except ValueError:
            said = text[:40].decode("latin-1")
            raise BadRequest(f"forebay-deadline-ms is {said!r}", do="Send milliseconds") from None
        spent_ms = (time.perf_counter() - self.arrived) * 1000
        if not spent_ms < budget_ms:
            raise DeadlineExceeded(f"{spent_ms:.1f} ms spent of {budget_ms:.1f}", do="Allow more time, or send less")


@dataclass(frozen=True)
class Plain:
    """An answer that is bytes already, or has a status of its own."""

    status: int
    data: bytes
    media: bytes


async def respond(send: Send, status: int, data: bytes, media: bytes, more: Headers = ()) -> None:
    headers = [(b"content-length", b"%d" % len(data)), (b"content-type", media), *more]
    if status in (429, 503):
        headers.append(RETRY_AFTER)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def read(asked: Asked, receive: Receive, most: int) -> None:
    """Fill in the body. Counted while it is read: a length that is announced need not be true. Raises TooLarge, and
    ConnectionAbortedError when who asked is gone."""
    message = await receive()
    if message.get("more_body"):
        chunks, size = [message["body"]], len(message["body"])
        while message.get("more_body"):
            message = await receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > most:
                raise TooLarge(f"a body of more than {most} bytes", do="Send fewer candidates at a time")
        asked.body = b"".join(chunks)
    else:
        asked.body = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ConnectionAbortedError
