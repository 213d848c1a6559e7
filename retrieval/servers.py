"""Which server is asked: several addresses, what is known of each, and for how long one that failed is left alone."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from urllib.parse import urlsplit

from forebay.errors import ConfigError

COOL_S, COOL_MOST_S = 0.25, 30.0  # after a first failure, and at most; doubled by each one that follows
SILENCES = 5  # calls in a row that ran out of time: a server that takes connections and answers nothing


@dataclass(eq=False)
class Server:
    """One address and how it has been. `under_way` counts the requests that wait for it."""

    url: str
    host: str
    port: int
    secure: bool
    prefix: str
    under_way: int = 0
    failures: int = 0
    silences: int = 0
    until: float = 0.0  # not asked before then, while there is another

    @property
    def name(self) -> str:
        """As the header `host` has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def server_at(url: str) -> Server:
    """Raises ConfigError for what is no address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is not a server's address", do="Write it like http://forebay:8080")
    secure, prefix = parts.scheme == "https", parts.path.rstrip("/")
    if not prefix.isascii() or any(c <= " " for c in prefix):
        raise ConfigError(f"{url!r} is not a server's address", do="Write its path in percent-encoding")
    return Server(url.rstrip("/"), host, port or (443 if secure else 80), secure, prefix)


class Servers:
    """Safe to call from several threads. It knows no sockets."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError for no address, one that is none, and one that is given twice."""
        self.all = tuple(server_at(url) for url in urls)
        if not self.all or len({s.url for s in self.all}) < len(self.all):
            raise ConfigError(f"{list(urls)} are no servers' addresses", do="Name each server once, and one at least")
        self._clock, self._lock, self._turn = clock, Lock(), 0

    def choose(self, user: str | None, tried: Sequence[Server] = ()) -> Server:
        """The server for a request: of those that are not left alone the one that has the fewest under way, in turn
        where it is the same. Without one, that which is left alone for the shortest time; `tried` come last.

        `user` is whose request it is, None for an item's. Every server answers for every user. `ended` must follow.
        """
        with self._lock:
            if len(self.all) == 1:
                self.all[0].under_way += 1
                return self.all[0]
            now, self._turn = self._clock(), (self._turn + 1) % len(self.all)
            order = self.all[self._turn :] + self.all[: self._turn]
            chosen = min(order, key=lambda s: (s in tried, s.until if s.until > now else 0.0, s.under_way))
            if chosen.failures and chosen.until <= now:  # one request finds out how it is; others go on elsewhere
                chosen.until = now + _cool(chosen.failures)
            chosen.under_way += 1
            return chosen

    def another(self, tried: Sequence[Server]) -> bool:
        """Whether a server is there that is not left alone, besides `tried`."""
        now = self._clock()
        return any(s not in tried and s.until <= now for s in self.all)

    def ended(self, server: Server) -> None:
        """A request that `choose` gave a server for is over."""
        with self._lock:
            server.under_way -= 1

    def answered(self, server: Server) -> None:
        """It is there."""
        if server.failures or server.silences:
            with self._lock:
                server.failures = server.silences = 0
                server.until = 0.0

    def failed(self, server: Server, seconds: float | None = None) -> None:
        """There was no connection, or it broke; or the server wants to be left alone for so many `seconds`."""
        with self._lock:
            server.failures += 1
            server.until = self._clock() + (_cool(server.failures) if seconds is None else seconds)

    def silent(self, server: Server) -> None:
        """A call's time ended and nothing had come. A short time says little: only SILENCES of them in a row count."""
        with self._lock:
            server.silences += 1
            if server.silences >= SILENCES:
                server.failures += 1
                server.until = self._clock() + _cool(server.failures)


def _cool(failures: int) -> float:
    """Seconds; at random, so that a fleet of clients does not come back at once."""
    return math.ldexp(COOL_S, min(failures - 1, 10)) * random.uniform(0.5, 1.0) if failures < 8 else COOL_MOST_S
