"""A TCP proxy before the broker whose connections a test cuts, with requests and answers on their way."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

CHUNK_BYTES = 1 << 16


class Proxy:
    """Listens on `port`, a free one of the loopback address, and passes bytes on to the port `behind`.

    It has a thread of its own from `with` to the block's end. A broker that is not there closes the client's
    connection, as it would without a proxy.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.behind = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._away = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen()).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._do(self._end()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self, seconds: float) -> int:
        """Reset all connections at both ends, and every new one for `seconds`; returns how many were open. What was
        sent and not read is lost: the broker may have done what nobody gets an answer to."""
        return self._do(self._cut(seconds)).result(seconds + 10)

    def _do(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listening)

    async def _end(self) -> None:
        self._server.close()
        await self._cut(0)

    async def _cut(self, seconds: float) -> int:
        cut = list(self._open)
        for writer in cut:
            _reset(writer)
        self._away = True
        await asyncio.sleep(seconds)
        self._away = False
        return len(cut) // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._away:
            _reset(writer)
            return
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.behind)
        except OSError:
            _reset(writer)
            return
        self._open |= {writer, forth}
        await asyncio.gather(_pass(reader, forth), _pass(back, writer))
        self._open -= {writer, forth}


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """An RST instead of an orderly end: the other side's next call fails, and what it had not read is gone."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() != -1:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
