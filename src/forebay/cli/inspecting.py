"""The inspect page of `forebay serve`, as the settings want it, with the process that answers its what-ifs."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from forebay.cli.questions import Question, Reply, command
from forebay.config import Settings
from forebay.errors import ConfigError, ForebayError, ServerUnavailable

if TYPE_CHECKING:
    from forebay.retrieval.engine import Engine
    from forebay.retrieval.inspect.page import Page
    from forebay.retrieval.inspect.supposed import Supposed, Supposition
    from forebay.segments.bundle import Bundle

INSPECT = ("on", "page", "off")
LOAD_S = 20.0  # for torch and the encoders: some seconds of a processor that is free
ANSWER_S = 60.0  # and then to fetch a checkpoint, and to fold what came since
END_S = 5.0
_MOST_BYTES = 1 << 22


@contextmanager
def inspected(settings: Settings, bundle: Bundle, engine: Engine) -> Iterator[Page | None]:
    """The page, or None where it is switched off; what runs beside it ends with the block. Raises ConfigError for
    another word in the setting."""
    from forebay.retrieval.inspect.page import Page
    from forebay.retrieval.inspect.titles import read_titles

    if settings.inspect not in INSPECT:
        raise ConfigError(f"inspect is {settings.inspect!r}", where="the settings", do=f"Use {', '.join(INSPECT)}")
    titles = {}
    if settings.inspect_titles is not None:
        titles = read_titles(settings.inspect_titles)
    if settings.inspect == "off":
        yield None
    elif settings.inspect == "page":
        yield Page(engine, lacking="The setting inspect leaves it out here.", titles=titles)
    elif find_spec("torch") is None:
        lacking = "It runs encoders, and there is no torch here: install forebay[server,worker]."
        yield Page(engine, lacking=lacking, titles=titles)
    else:
        beside = Beside(command(settings), bundle.spec.events.actions)
        try:
            yield Page(engine, beside, titles=titles)
        finally:
            beside.close()


class Beside:
    """Asks the process of supposing.py. It is started with the first question, and again where it has ended."""

    def __init__(
        self, command: Sequence[str], actions: Sequence[str], answer_s: float = ANSWER_S, load_s: float = LOAD_S
    ) -> None:
        """Who asks waits `load_s` for what is loaded once, and `answer_s` in all."""
        self.actions: Sequence[str] = tuple(actions)
        self._command, self._answer_s, self._load_s = list(command), answer_s, load_s
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = self._loaded = False

    def suppose(self, supposition: Supposition) -> Supposed:
        """See WhatIf. One call at a time."""
        from forebay.retrieval.inspect.supposed import Supposed

        asked = supposition
        line = msgspec.json.encode(Question(asked.user, asked.item, asked.action, asked.value)) + b"\n"
        reply = msgspec.json.decode(self._ask(line), type=Reply)
        if reply.error:
            raise ForebayError(reply.error, do=reply.do)
        before, after = (np.frombuffer(data, np.float32) for data in (reply.before, reply.after))
        return Supposed(before, after, reply.checkpoint_ms, reply.events, reply.read_ms, reply.remarks)

    def close(self) -> None:
        """End the process. From another thread: a question that is under way gets no answer."""
        self._closed = True
        self._end()

    def _ask(self, line: bytes) -> bytes:
        began = time.monotonic()
        for _ in range(2):  # it may just have ended for want of questions
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            if not self._loaded:
                until = began + self._load_s
                self._loaded = bool(_line(process.stdout.fileno(), until))
                if not self._loaded and time.monotonic() >= until:
                    # It goes on, so that a slow machine comes to an end.
                    raise ServerUnavailable("the encoders are still being loaded", do="Ask again in some seconds")
            until = began + self._answer_s
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except OSError:
                self._end()
                continue
            if found := _line(process.stdout.fileno(), until):
                return found
            self._end()
            if time.monotonic() >= until:
                why = f"no answer within {self._answer_s:.0f} s"
                break
        else:
            why = "its process ended"
        raise ServerUnavailable(f"what would happen could not be said: {why}", do="Read the server's log")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise ServerUnavailable("the server stops")
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._loaded = False
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
            )  # fmt: skip
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):  # what was not sent has nobody to read it
            process.stdin.close()
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _line(descriptor: int, until: float) -> bytes:
    """What comes up to the end of a line; empty where that does not come."""
    parts = b""
    while len(parts) < _MOST_BYTES and (left := until - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            try:
                part = os.read(descriptor, 1 << 16)
            except OSError:  # closed meanwhile
                return b""
            if not part:
                return b""
            parts += part
            if parts.endswith(b"\n"):
                return parts
    return b""
