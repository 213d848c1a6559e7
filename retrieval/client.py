"""The lookup client: what a service installs to ask. urllib3, msgspec, the messages and the errors; nothing else.

client = Client("http://forebay:8080", timeout_s=0.05)
top = client.rank("u42", candidates=ids, k=50)
for hit in top: ...                               # hit.item, hit.score
top.segments["recent"].state                      # "fresh" | "late" | "expired" | "missing"
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar
from urllib.parse import quote

import msgspec
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError, ProtocolError, TimeoutError
from urllib3.util import Timeout, parse_url

from forebay.errors import (
    BadRequest,
    ConfigError,
    DeadlineExceeded,
    ForebayError,
    GenerationUnavailable,
    Overloaded,
    ServerUnavailable,
    Unauthorized,
)
from forebay.retrieval.messages import (
    MSGPACK,
    EntityResponse,
    ErrorBody,
    RankRequest,
    RankResponse,
    Readiness,
    RetrieveRequest,
)
from forebay.secret import NO_SECRET, Secret

T = TypeVar("T")

_ERRORS: dict[str, type[ForebayError]] = {
    "bad_request": BadRequest,
    "not_found": BadRequest,
    "too_large": BadRequest,
    "generation_unavailable": GenerationUnavailable,
    "deadline_exceeded": DeadlineExceeded,
    "overloaded": Overloaded,
    "unauthorized": Unauthorized,
}


class _OneWrite(HTTPConnection):
    """Sends head and body in one piece: two cost the server a wake-up between them, and the caller a tenth of a ms."""

    _held: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        held: list[bytes] = []
        self._held = held
        try:
            super().request(*args, **kwargs)
        finally:
            self._held = None
        super().send(b"".join(held))

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)
        else:
            self._held.append(bytes(data))


class Client:
    """Keeps connections open; one for all threads of a process. Open it after a fork, not before.

    `timeout_s` is for a whole call, connecting and all `retries` included; the server is told what is left of it and
    does not begin work that nobody waits for. Only the resolution of a host's name cannot be cut short. A retry follows
    a failed connection or a server that is not ready, never one that is overloaded, and never goes past the time. Calls
    raise ServerUnavailable, DeadlineExceeded, BadRequest, GenerationUnavailable or Unauthorized. `token` goes with each
    call; `ca` is who signs the certificate of an https server, the system's own where it is absent.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 1.0,
        retries: int = 0,
        *,
        connections: int = 8,
        token: Secret = NO_SECRET,
        ca: Path | None = None,
    ) -> None:
        try:
            parsed = parse_url(url)
        except LocationParseError:
            parsed = urllib3.util.Url()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"{url!r} is not a server's address", do="Write it like http://forebay:8080")
        if not timeout_s > 0 or retries < 0:
            raise ConfigError(
                f"timeout_s={timeout_s}, retries={retries}", do="Use a time above 0 and 0 or more retries"
            )
        self.url, self.timeout_s, self.retries = url.rstrip("/"), timeout_s, retries
        self._prefix = (parsed.path or "").rstrip("/")
        secured = {"ca_certs": str(ca)} if ca is not None and parsed.scheme == "https" else {}
        if ca is not None and not ca.is_file():
            raise ConfigError(
                "there is no such file", where=str(ca), do="Name who signs the server's certificate, in PEM"
            )
        self._pool = urllib3.connectionpool.connection_from_url(url, maxsize=connections, block=False, **secured)
        self._authorization = {"authorization": f"Bearer {token.reveal()}"} if token else {}
        if parsed.scheme == "http":
            self._pool.ConnectionCls = _OneWrite
        self._encoder = msgspec.msgpack.Encoder()

    def rank(
        self,
        user: str,
        candidates: Sequence[str],
        k: int = 50,
        *,
        filter: str = "",
        boost: Mapping[str, float] = {},
        exclude_seen: bool = False,
        deny: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        generation: str | None = None,
        explain: bool = False,
    ) -> RankResponse:
        """The best `k` of `candidates` for `user`, best first. Unknown ones take part with the default vectors. Which
        of them are let in, and what is added to whose score, is as in RankRequest."""
        request = RankRequest(
            user, list(candidates), k, generation, explain, filter, dict(boost), exclude_seen, list(deny),
            None if allow is None else list(allow),
        )  # fmt: skip
        return self._call("POST", "/v1/rank", RankResponse, self._encoder.encode(request))

    def retrieve(
        self,
        user: str,
        k: int = 50,
        deny: Sequence[str] = (),
        *,
        filter: str = "",
        boost: Mapping[str, float] = {},
        exclude_seen: bool = False,
        allow: Sequence[str] | None = None,
        generation: str | None = None,
        explain: bool = False,
    ) -> RankResponse:
        """The best `k` of all items for `user`, without those in `deny`; the rest is as in `rank`."""
        request = RetrieveRequest(
            user, k, list(deny), generation, explain, filter, dict(boost), exclude_seen,
            None if allow is None else list(allow),
        )  # fmt: skip
        return self._call("POST", "/v1/retrieve", RankResponse, self._encoder.encode(request))

    def entity(self, side: Literal["user", "item"], id: str, *, vectors: bool = False) -> EntityResponse:
        """What is stored of one entity: freshness of each segment and, with `vectors`, its int8 codes and scale."""
        path = f"/v1/entities/{side}/{quote(id, safe='')}"
        return self._call("GET", path + "?vectors=true" if vectors else path, EntityResponse)

    def ready(self) -> Readiness:
        """Whether the server wants lookups, and why not. Raises ServerUnavailable only when nobody answers."""
        return self._call("GET", "/ready", Readiness)

    def close(self) -> None:
        """Close the connections. Calls that are under way finish first."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, path: str, answer: type[T], body: bytes | None = None) -> T:
        deadline = time.monotonic() + self.timeout_s
        left, free = self.retries, 1
        while True:
            try:
                status, data = self._send(method, path, body, deadline)
                if status == 200 or (status == 503 and answer is Readiness):
                    return msgspec.msgpack.decode(data, type=answer)
                self._raise(status, data)
            except msgspec.MsgspecError as error:
                raise ServerUnavailable(f"the answer cannot be read: {error}", where=self.url) from None
            except NewConnectionError as error:
                problem = ServerUnavailable(f"no connection{_said(error)}", where=self.url, do="Is the server running?")
            except TimeoutError:
                raise self._late() from None
            except ProtocolError as error:
                if free:  # the server closed a connection that was kept open: lookups only read, so ask again at once
                    free -= 1
                    continue
                problem = ServerUnavailable(f"the connection broke: {error}", where=self.url)
            except HTTPError as error:
                problem = ServerUnavailable(str(error), where=self.url)
            except Overloaded:
                raise
            except ServerUnavailable as error:
                problem = error
            pause = 0.005 * 2 ** (self.retries - left)
            if left == 0 or time.monotonic() + pause >= deadline:
                raise problem from None
            left -= 1
            time.sleep(pause)

    def _send(self, method: str, path: str, body: bytes | None, deadline: float) -> tuple[int, bytes]:
        """Status and body of one attempt."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise self._late()
        headers = {"accept": MSGPACK, "forebay-deadline-ms": str(max(1, int(remaining * 1000)))}
        headers |= self._authorization
        if body is not None:
            headers["content-type"] = MSGPACK
        response = self._pool.urlopen(
            method,
            self._prefix + path,
            body,
            headers,
            retries=False,
            redirect=False,
            timeout=Timeout(total=remaining),
            preload_content=False,
        )
        try:
            chunks = []
            while True:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self._late()
                sock = getattr(response.connection, "sock", None)
                if sock is not None:  # urllib3 bounds each read alone: a server that drips would hold us forever
                    sock.settimeout(remaining)
                chunk = response.read1(1 << 20)
                if not chunk:
                    break
                chunks.append(chunk)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return response.status, b"".join(chunks)

    def _raise(self, status: int, data: bytes) -> NoReturn:
        try:
            body = msgspec.msgpack.decode(data, type=ErrorBody)
        except msgspec.MsgspecError:  # something in between answered, not the server
            body = ErrorBody("internal", f"status {status} from something that is not a Forebay server")
        raise _ERRORS.get(body.error, ServerUnavailable)(body.message, where=self.url, do=body.do)

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer in {self.timeout_s * 1000:.0f} ms", where=self.url)


def _said(error: Exception) -> str:
    """The system's own words behind urllib3's description of its connection object."""
    return str(error)[str(error).find(": ") :] if ": " in str(error) else ""
