"""Client and AsyncClient as tests ask them: the same words for both, and listeners that answer by hand."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from forebay.retrieval.asyncclient import AsyncClient
from forebay.retrieval.client import Client

WAIT_S = 60.0


class OnLoop:
    """An AsyncClient on an event loop of its own thread: its methods wait for their answers. From any thread."""

    def __init__(self, *words: Any, **options: Any) -> None:
        self.client = AsyncClient(*words, **options)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, work: Any) -> Any:
        """What a coroutine returns or raises."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *words, **options: self.run(getattr(self.client, name)(*words, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self.client.close())
            left = self.run(self._others())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()
        assert not left, left

    async def _others(self) -> list[str]:
        """Tasks that were left behind."""
        return [str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


CALLERS: dict[str, Callable[..., Any]] = {"Client": Client, "AsyncClient": OnLoop}


@contextmanager
def peer(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A listener whose every connection is handed to `answer` on a thread of its own, then closed. Yields its
    address."""
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(WAIT_S)
            try:
                answer(connection)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=handle, args=(connection,)))
                threads[-1].start()

        accepting = threading.Thread(target=run)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def asked(connection: socket.socket) -> bytes:
    """The next request, whole; b"" where there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := connection.recv(1 << 16)):
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def said(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    """A whole answer in msgpack, with more `lines` of headers."""
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "content-type: application/msgpack", *lines]
    return "\r\n".join((*head, "", "")).encode() + body


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
