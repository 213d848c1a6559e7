"""What a request costs a client, by what carries it.

    python benchmarks/serving/transports.py [--requests 1000] [--rounds 15]

A POST of 8 KB (1,000 candidates as msgpack) and an answer of 2 KB (50 hits), over one kept connection, from a server in
a process of its own that says the same to everyone. `CPU` is this process's own time, in microseconds for each request.
Carriers take turns within each round, since a machine's speed drifts; told is the median of the rounds' medians.

`sockets` and `protocol` are what Client and AsyncClient are made of, without the encoding of requests and decoding of
answers; `Client` and `AsyncClient` are calls of theirs with both. What is not installed (httpx, aiohttp) is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import importlib.util
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from forebay.retrieval.asyncclient import AsyncClient
from forebay.retrieval.calls import Call
from forebay.retrieval.client import Client
from forebay.retrieval.course import Course
from forebay.retrieval.exchange import Connection, Exchange
from forebay.retrieval.http1 import AnswerReader
from forebay.retrieval.messages import MSGPACK, Hit, RankRequest, RankResponse, SegmentFreshness
from forebay.retrieval.servers import server_at

CANDIDATES, HITS = 1_000, 50
HEADERS = {"accept": MSGPACK, "content-type": MSGPACK, "forebay-deadline-ms": "1000"}


def _answer() -> bytes:
    fresh = {name: SegmentFreshness(1_790_000_000_000, 1_790_000_000_000, "fresh") for name in ("a", "b", "c", "d")}
    hits = [Hit(f"i{10_000 + n}", 0.5, True) for n in range(HITS)]
    return msgspec.msgpack.encode(RankResponse(hits, "g1", "b" * 64, True, fresh, fresh))


class _Serving(asyncio.Protocol):
    """Says the same to every request: it looks for their lengths alone."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._data = answer, bytearray()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._data[:end]).lower()
        at = head.index(b"content-length:") + 15
        if len(self._data) >= end + 4 + int(head[at:].split(b"\r\n", 1)[0]):
            self._data.clear()
            self._transport.write(self._answer)


def _serve(pipe: Pipe) -> None:
    import uvloop

    async def main() -> None:
        body = _answer()
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-type: application/msgpack\r\n\r\n" % len(body)
        server = await asyncio.get_running_loop().create_server(lambda: _Serving(head + body), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    uvloop.run(main())


# -- what carries a request: each yields a function that sends `body` and returns the answer's


@contextmanager
def _raw(port: int, body: bytes) -> Iterator[Callable[[], Any]]:
    """The least that is possible: one send, and reads until the bytes are there."""
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    request = f"POST /v1/rank HTTP/1.1\r\nhost: h\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask() -> bytes:
            sock.sendall(request)
            data = sock.recv(1 << 18)
            end = data.index(b"\r\n\r\n") + 4
            at = data.index(b"content-length: ") + 16
            length = int(data[at:].split(b"\r\n", 1)[0])
            while len(data) < end + length:
                data += sock.recv(1 << 18)
            return data[end:]

        yield ask


@contextmanager
def _sockets(port: int, body: bytes) -> Iterator[Callable[[], Any]]:
    with Client(f"http://127.0.0.1:{port}") as client:
        terms, server = client._terms, server_at(f"http://127.0.0.1:{port}")
        connection = Connection(server, time.monotonic() + 10, None)
        call = Call("/v1/rank", RankResponse, "u", body)

        def ask() -> bytearray:
            course = Course(terms, "u")
            terms.servers.ended(course.server())
            assert connection.idle()
            request = terms.request(server, call, course.deadline)
            exchange = Exchange(connection, request, 1 << 20, course.deadline, kept=True)
            while not (connection.poll.poll(1000) and exchange.read()):
                pass
            return exchange.answer.body

        yield ask
        connection.close()


@contextmanager
def _http_client(port: int, body: bytes) -> Iterator[Callable[[], Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask() -> bytes:
        connection.request("POST", "/v1/rank", body, HEADERS)
        return connection.getresponse().read()

    yield ask
    connection.close()


class _OneWrite(http.client.HTTPConnection):
    """Head and body in one piece."""

    _held: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._held = []
        super().request(*args, **kwargs)
        held, self._held = b"".join(self._held), None
        super().send(held)

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)
        else:
            self._held.append(bytes(data))


@contextmanager
def _http_client_once(port: int, body: bytes) -> Iterator[Callable[[], Any]]:
    connection = _OneWrite("127.0.0.1", port, timeout=10)

    def ask() -> bytes:
        connection.request("POST", "/v1/rank", body, HEADERS)
        return connection.getresponse().read()

    yield ask
    connection.close()


@contextmanager
def _urllib3(port: int, body: bytes) -> Iterator[Callable[[], Any]]:
    import urllib3

    with urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=8) as pool:
        yield lambda: pool.urlopen("POST", "/v1/rank", body, HEADERS, retries=False, timeout=10).data


@contextmanager
def _httpx(port: int, body: bytes) -> Iterator[Callable[[], Any]]:
    import httpx

    with httpx.Client(timeout=10) as client:
        yield lambda: client.post(f"http://127.0.0.1:{port}/v1/rank", content=body, headers=HEADERS).content


@contextmanager
def _client(port: int, body: bytes) -> Iterator[Callable[[], Any]]:
    names = msgspec.msgpack.decode(body, type=RankRequest).candidates
    with Client(f"http://127.0.0.1:{port}") as client:
        yield lambda: client.rank("u42", names, HITS)


# -- and on asyncio


@asynccontextmanager
async def _protocol(port: int, body: bytes) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    async with AsyncClient(f"http://127.0.0.1:{port}") as client:
        (pool,) = client._pools.values()
        terms, connection = client._terms, await pool.connect()
        call = Call("/v1/rank", RankResponse, "u", body)

        async def ask() -> bytearray:
            course = Course(terms, "u")
            terms.servers.ended(course.server())
            answer = AnswerReader("", 1 << 20)
            async with asyncio.timeout(1.0):
                await connection.ask(terms.request(pool.server, call, course.deadline), answer)
            return answer.body

        yield ask
        connection.close()


@asynccontextmanager
async def _streams(port: int, body: bytes) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    request = f"POST /v1/rank HTTP/1.1\r\nhost: h\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def ask() -> bytearray:
        answer = AnswerReader("", 1 << 20)
        async with asyncio.timeout(1.0):
            writer.write(request)
            while not answer.feed(await reader.read(1 << 16)):
                pass
        return answer.body

    yield ask
    writer.close()
    await writer.wait_closed()


@asynccontextmanager
async def _aiohttp(port: int, body: bytes) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:

        async def ask() -> bytes:
            async with session.post(f"http://127.0.0.1:{port}/v1/rank", data=body, headers=HEADERS) as response:
                return await response.read()

        yield ask


@asynccontextmanager
async def _httpx_async(port: int, body: bytes) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    import httpx

    async with httpx.AsyncClient(timeout=10) as client:

        async def ask() -> bytes:
            return (await client.post(f"http://127.0.0.1:{port}/v1/rank", content=body, headers=HEADERS)).content

        yield ask


@asynccontextmanager
async def _async_client(port: int, body: bytes) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    names = msgspec.msgpack.decode(body, type=RankRequest).candidates
    async with AsyncClient(f"http://127.0.0.1:{port}") as client:
        yield lambda: client.rank("u42", names, HITS)


THREADED: dict[str, Any] = {
    "raw socket": _raw,
    "sockets": _sockets,
    "http.client, one write": _http_client_once,
    "http.client": _http_client,
    "urllib3": _urllib3,
    "httpx": _httpx,
    "Client": _client,
}
ON_ASYNCIO: dict[str, Any] = {
    "protocol": _protocol,
    "streams": _streams,
    "aiohttp": _aiohttp,
    "httpx, asyncio": _httpx_async,
    "AsyncClient": _async_client,
}


class _Figures:
    """Medians and processor time in µs, by carrier and round."""

    def __init__(self) -> None:
        self.medians: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    def add(self, name: str, spent: list[float], cpu_s: float) -> None:
        self.medians.setdefault(name, []).append(statistics.median(spent) * 1e6)
        self.cpu.setdefault(name, []).append(cpu_s / len(spent) * 1e6)

    def told(self) -> dict[str, dict[str, float]]:
        return {
            name: {
                "p50 us": round(statistics.median(self.medians[name])),
                "least us": round(min(self.medians[name])),
                "CPU us": round(statistics.median(self.cpu[name])),
            }
            for name in self.medians
        }


def _there(name: str) -> bool:
    return all(word not in name or importlib.util.find_spec(word) for word in ("httpx", "aiohttp", "urllib3"))


def _threaded(port: int, body: bytes, requests: int, rounds: int, figures: _Figures) -> None:
    with ExitStack() as stack:
        asks = {n: stack.enter_context(open_it(port, body)) for n, open_it in THREADED.items() if _there(n)}
        for place in range(rounds + 1):
            for name, ask in asks.items():
                spent, cpu = [], time.process_time()
                for _ in range(requests):
                    start = time.perf_counter()
                    ask()
                    spent.append(time.perf_counter() - start)
                if place:  # the first warms up
                    figures.add(name, spent, time.process_time() - cpu)


async def _on_asyncio(port: int, body: bytes, requests: int, rounds: int, figures: _Figures) -> None:
    async with AsyncExitStack() as stack:
        asks = {
            n: await stack.enter_async_context(open_it(port, body)) for n, open_it in ON_ASYNCIO.items() if _there(n)
        }
        for place in range(rounds + 1):
            for name, ask in asks.items():
                spent, cpu = [], time.process_time()
                for _ in range(requests):
                    start = time.perf_counter()
                    await ask()
                    spent.append(time.perf_counter() - start)
                if place:
                    figures.add(name, spent, time.process_time() - cpu)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--requests", type=int, default=1_000, help="of each carrier in a round")
    words.add_argument("--rounds", type=int, default=15)
    given = words.parse_args()
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,))
    process.start()
    port = here.recv()
    body = msgspec.msgpack.encode(RankRequest("u42", [f"i{10_000 + n}" for n in range(CANDIDATES)], HITS))
    figures = _Figures()
    _threaded(port, body, given.requests, given.rounds, figures)
    asyncio.run(_on_asyncio(port, body, given.requests, given.rounds, figures))
    for name, told in figures.told().items():
        print(json.dumps({"carrier": name, **told}), flush=True)
    sizes = {"request_bytes": len(body), "answer_bytes": len(_answer())}
    print(json.dumps({**sizes, "load_average": os.getloadavg()[0]}))
    here.send("end")
    process.join(30)


if __name__ == "__main__":
    main()
