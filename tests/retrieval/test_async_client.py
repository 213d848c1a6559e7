"""What only AsyncClient has: tasks that are cancelled, many at once on one loop, and loops of other makes."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

from forebay import AsyncClient
from forebay.errors import DeadlineExceeded
from forebay.retrieval.messages import RankRequest, Readiness
from forebay.retrieval.server import create_app, serving

from .callers import asked, peer, said

READY = b"\x81\xa5ready\xc3"


@pytest.fixture
def url(node: Any) -> Iterator[str]:
    with serving(create_app(node.engine, lambda: Readiness(True))) as address:
        yield address


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_many_tasks_share_few_connections(url: str, node: Any, run: Callable[[Awaitable[Any]], Any]) -> None:
    """Each gets its own answer."""
    items = [f"i{n % 30}" for n in range(300)]

    async def main() -> list[str]:
        async with AsyncClient(url, timeout_s=30, connections=4) as client:
            answers = await asyncio.gather(*(client.rank("u", [item], 1) for item in items))
            (pool,) = client._pools.values()
            assert 1 <= len(pool._kept) <= 4
            return [answer.hits[0].item for answer in answers]

    assert run(main()) == items


@pytest.mark.parametrize("words", [{}, {"hedge_after_s": 0.01}])
def test_a_call_that_is_cancelled_closes_its_connection(words: dict[str, Any]) -> None:
    """What it was about to be told is nobody's answer, its slot is free again, and no task is left behind."""
    began, closed = threading.Semaphore(0), threading.Semaphore(0)

    def answer(connection: socket.socket) -> None:
        while request := asked(connection):
            if b"/v1/entities" in request:  # it has no answer: the connection's end is what comes next
                began.release()
                if connection.recv(1) == b"":
                    closed.release()
                return
            connection.sendall(said(READY))

    async def main(address: str) -> None:
        async with AsyncClient(address, timeout_s=20, connections=1, **words) as client:
            for _ in range(3):
                call = asyncio.create_task(client.entity("user", "u"))
                assert await asyncio.to_thread(began.acquire, timeout=20)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert await asyncio.to_thread(closed.acquire, timeout=20)
                assert (await client.ready()).ready
            assert asyncio.all_tasks() == {asyncio.current_task()}
            (server,) = client._terms.servers.all
            assert server.under_way == 0

    with peer(answer) as address:
        asyncio.run(main(address))


def test_a_timeout_around_a_call_is_its_owners() -> None:
    """TimeoutError where the caller's own time is over first, DeadlineExceeded where the client's is."""
    stop = threading.Event()

    async def main(address: str) -> None:
        async with AsyncClient(address, timeout_s=10) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.ready()
        async with AsyncClient(address, timeout_s=0.1) as client:
            with pytest.raises(DeadlineExceeded):
                async with asyncio.timeout(10):
                    await client.ready()
        stop.set()

    with peer(lambda connection: stop.wait(30)) as address:  # type: ignore[arg-type, return-value]
        asyncio.run(main(address))


def test_calls_under_way_finish_when_it_is_closed(url: str) -> None:
    """And leave no connection open."""

    async def main() -> None:
        client = AsyncClient(url, timeout_s=20)
        calls = [asyncio.create_task(client.batch([RankRequest("u", ["i1"])] * 20)) for _ in range(4)]
        await asyncio.sleep(0)
        await client.close()
        assert [len(answer.entries) for answer in await asyncio.gather(*calls)] == [20] * 4
        (pool,) = client._pools.values()
        assert not pool._kept

    asyncio.run(main())
