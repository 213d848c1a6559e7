"""Whether the workers of a process do their work: a line when it changes, and an answer to whoever asks over HTTP."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import unquote

from forebay.errors import ConfigError

log = logging.getLogger("forebay")
_RESUME = re.compile(r"/sources/([^/?#]{1,800})/resume")
REQUEST_S = 5.0  # to read a request: a connection that says nothing is closed


class Worker(Protocol):
    """What is asked, from any thread."""

    @property
    def name(self) -> str: ...

    def not_ready(self) -> str: ...

    def paused(self) -> str: ...

    def resume(self, topic: str) -> bool: ...


class Readiness:
    """Of all workers of a process together."""

    def __init__(self, workers: Sequence[Worker], what: str) -> None:
        """`what` stands behind "ready:" in the line that says so."""
        self._workers, self._what = workers, what
        self._said: str | None = None

    def waits(self) -> str:
        """What is waited for; "" when all are at work."""
        return "; ".join(f"{w.name}: {why}" for w in self._workers if (why := w.not_ready()))

    def paused(self) -> str:
        """Which sources stand still; "" when all are read."""
        return "; ".join(f"{w.name}: {why}" for w in self._workers if (why := w.paused()))

    def look(self) -> None:
        """Log one line when the workers have become ready, and one when they are so no more."""
        waits = self.waits()
        if not waits and self._said != "":
            log.info("ready: %s", self._what)
        elif waits and self._said == "":
            log.warning("not ready: %s", waits)
        if self._said is not None or not waits:
            self._said = waits

    @contextmanager
    def served_at(self, address: str) -> Iterator[str]:
        """Answer GET /ready at `address` (host:port; port 0 takes a free one) until the block ends; yields its URL.

        200 and {"ready": true}, or 503 and {"ready": false, "reason": …}. A source that stands still is a reason, too,
        and leaves the process ready: the others are read, and what mends it may be another version of it.

        POST /sources/TOPIC/resume asks that a source be read again: 200 with the names of the workers that stood still
        for it, 404 where none does. Raises ConfigError.
        """
        host, _, port = address.rpartition(":")
        try:
            server = ThreadingHTTPServer((host.strip("[]") or "127.0.0.1", int(port)), self._handler())
        except (OSError, ValueError, OverflowError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"--status {address}: {said}", do="Use host:port of this machine, as 127.0.0.1:8081"
            ) from None
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="status", daemon=True)
        thread.start()
        bound_host, bound_port = server.server_address[:2]
        url = f"http://{bound_host!s}:{bound_port}"
        log.info("status at %s/ready", url)
        try:
            yield url
        finally:
            server.shutdown()
            server.server_close()

    def resumed(self, topic: str) -> list[str]:
        """Ask that a source be read again; the names of the workers that stand still for it."""
        return [worker.name for worker in self._workers if worker.resume(topic)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        waits, paused, resumed = self.waits, self.paused, self.resumed

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_S

            def do_GET(self) -> None:
                if self.path != "/ready":
                    self.send_error(404)
                    return
                reason = waits()
                self._answer(503 if reason else 200, {"ready": not reason, "reason": reason or paused()})

            def do_POST(self) -> None:
                if (found := _RESUME.fullmatch(self.path)) is None:
                    self.send_error(404)
                    return
                workers = resumed(unquote(found[1]))
                self._answer(200 if workers else 404, {"resumed": workers})

            def _answer(self, code: int, answer: dict[str, object]) -> None:
                body = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A probe every few seconds is no news."""

        return Handler
