"""One call's way to an answer: which server is asked, whether again, and after how long. No sockets and no waits here:
Client and AsyncClient do as it says."""

from __future__ import annotations

import os
import random
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.errors import ConfigError, DeadlineExceeded, ServerUnavailable
from forebay.retrieval.budget import Budget
from forebay.retrieval.calls import Call, NotReady, request_lines
from forebay.retrieval.http1 import request_head
from forebay.retrieval.servers import Server, Servers
from forebay.secret import Secret

PAUSE_S = 0.005  # before a first retry at the same server, at most; twice as long before each one that follows


@dataclass(frozen=True)
class ClientOptions:
    """What a client is bounded by besides its time. The defaults are those of a service that asks a few servers."""

    retry_share: float = 0.1  # of calls: retries at most, as long as calls fail
    retry_burst: float = 10.0  # retries at once
    hedge_share: float = 0.05  # of calls: second requests at most
    hedge_burst: float = 5.0  # second requests at once
    answer_bytes: int = 64 << 20  # of one answer's body
    idle_s: float = 30.0  # a connection that was not used for so long is closed; a server keeps one for 75

    def __post_init__(self) -> None:
        for name in ("retry_share", "hedge_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}", do="Use a share from 0 to 1")
        if min(self.retry_burst, self.hedge_burst) < 0 or min(self.answer_bytes, self.idle_s) <= 0:
            raise ConfigError(f"{self} has a bound below 0", do="Use bounds above 0")


class Terms:
    """What all calls of one client share."""

    def __init__(
        self,
        url: str | Sequence[str],
        timeout_s: float,
        retries: int,
        connections: int,
        hedge_after_s: float | None,
        token: Secret,
        ca: Path | None,
        options: ClientOptions,
    ) -> None:
        """Raises ConfigError for what cannot be used."""
        self.servers = Servers([url] if isinstance(url, str) else list(url))
        if not timeout_s > 0 or retries < 0 or connections < 1 or not (hedge_after_s is None or hedge_after_s > 0):
            raise ConfigError(
                f"timeout_s={timeout_s}, retries={retries}, connections={connections}, hedge_after_s={hedge_after_s}",
                do="Use times above 0, 0 or more retries and 1 or more connections",
            )
        if ca is not None and not ca.is_file():
            raise ConfigError(
                "there is no such file", where=str(ca), do="Name who signs the server's certificate, in PEM"
            )
        if not (token.reveal().isascii() and token.reveal().isprintable()):
            raise ConfigError("the token has signs that no header takes", do="Use printable ASCII, on one line")
        self.timeout_s, self.retries, self.hedge_after_s, self.options = timeout_s, retries, hedge_after_s, options
        self.retry_budget = Budget(options.retry_share, options.retry_burst)
        self.hedge_budget = Budget(options.hedge_share, options.hedge_burst)
        self._lines = request_lines(token.reveal())
        self._heads: dict[tuple[Server, str], bytes] = {}

    def request(self, server: Server, call: Call[Any], deadline: float) -> bytes:
        """The bytes of it, in one piece: two would cost the server a wake-up between them. It says what is left of the
        time. Raises DeadlineExceeded when nothing is."""
        left_ms = int((deadline - time.monotonic()) * 1000)
        body, target = call.body, server.prefix + call.target
        if body is None:
            head = request_head("GET", target, server.name, self._lines[0])
            return b"%bforebay-deadline-ms: %d\r\n\r\n" % (head, max(1, left_ms))
        head = self._heads.get((server, call.target), b"")
        if not head:  # there are four targets that have a body
            head = request_head("POST", target, server.name, self._lines[1])
            self._heads[server, call.target] = head
        return b"%bforebay-deadline-ms: %d\r\ncontent-length: %d\r\n\r\n%b" % (head, max(1, left_ms), len(body), body)

    def late(self) -> DeadlineExceeded:
        """The time of a call is over."""
        where = ", ".join(server.url for server in self.servers.all)
        said = f"no answer in {self.timeout_s * 1000:g} ms"
        return DeadlineExceeded(said, where=where, do="Allow more time (timeout_s), or send fewer candidates")


class Course:
    """One call. `deadline` is of `time.monotonic`."""

    def __init__(self, terms: Terms, user: str | None) -> None:
        self.deadline = time.monotonic() + terms.timeout_s
        self._terms, self._user, self._left = terms, user, terms.retries
        self._tried: list[Server] = []
        terms.retry_budget.earn()
        terms.hedge_budget.earn()

    def server(self) -> Server:
        """Whom to ask next; `Servers.ended` must follow."""
        server = self._terms.servers.choose(self._user, self._tried)
        self._tried.append(server)
        return server

    def connect_by(self) -> float:
        """By when a connection must be there: where another server could be asked, half of the time is left for it."""
        now = time.monotonic()
        more = self._left and self._terms.servers.another(self._tried)
        return now + (self.deadline - now) / 2 if more else self.deadline

    def hedge(self) -> bool:
        """Whether a second request may be sent beside one that is slow."""
        return self._terms.hedge_budget.spend()

    def again(self, server: Server, problem: OSError | NotReady) -> float:
        """What the failure of a request means: seconds to wait before `server` is asked for again.

        A broken connection and a 503 are worth another try, at another server at once; at the same one after a pause,
        which a 503 must name. Raises the error where there is no retry left, no token in the budget, or no time.
        """
        servers = self._terms.servers
        if isinstance(problem, NotReady):
            error, pause = problem.error, problem.retry_after_s
            servers.failed(server, pause)
        else:
            error = ServerUnavailable(_said(problem), where=server.url, do=_remedy(problem))
            pause = min(PAUSE_S * 2 ** (self._terms.retries - self._left), 1.0) * random.uniform(0.5, 1.0)
            servers.failed(server)
        if servers.another(self._tried):
            pause = 0.0
        if self._left == 0 or pause is None or time.monotonic() + pause >= self.deadline:
            raise error
        if not self._terms.retry_budget.spend():
            raise error
        self._left -= 1
        return pause


def _said(error: OSError) -> str:
    """What became of a connection, in the system's own words; asyncio has words of its own for some."""
    what = os.strerror(error.errno) if isinstance(error, ConnectionError) and error.errno else error.strerror
    broke = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
    return f"{'the connection broke' if broke else 'no connection'}: {what or error or type(error).__name__}"


def _remedy(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "Start it with: forebay serve, or name another address"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "Name who signs its certificate: ca, or server_ca in the settings"
    if isinstance(error, ssl.SSLError):
        return "Does it speak TLS? If not, write http:// in its address"
    if isinstance(error, socket.gaierror):
        return "Is the host's name right?"
    return "Is this the address of a lookup server?" if isinstance(error, ConnectionError) else ""
