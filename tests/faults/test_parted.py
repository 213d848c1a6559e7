"""A transaction whose connections are cut under it: what it asked may reach the broker late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forebay.errors import TransactionLost
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from forebay.streams.transports.librdkafka.transactions import TransactionLog
from forebay.streams.worker.batch import Record

from .proxy import Proxy

pytestmark = pytest.mark.broker


class Cutting(list[Record]):
    """Records whose connections are cut when the last one is given away."""

    def __init__(self, records: list[Record], proxy: Proxy) -> None:
        super().__init__(records)
        self._proxy = proxy

    def __iter__(self) -> Iterator[Record]:
        yield from super().__iter__()
        assert self._proxy.cut(0) > 0


def test_a_producer_whose_connection_was_cut_is_not_used_again(
    kafka: DevKafka, proxy: Proxy, topics: Topics, read: Callable[..., Any]
) -> None:
    """It commits, since librdkafka asks again over a new connection; how the first requests end is not known. The next
    producer of the slot has another epoch."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=2)

    def opened() -> TransactionLog:
        return TransactionLog(
            f"127.0.0.1:{proxy.port}", "user worker", transactional_id=f"{topics.prefix}0", timeout_ms=10_000
        )

    def records(value: bytes) -> list[Record]:
        return [Record(topics.events("item"), 1, None, value)]

    first = opened()
    first.commit(records(b"before"), [], None)
    with pytest.raises(TransactionLost, match="it was committed, and a request of its may come late"):
        first.commit(Cutting(records(b"under way"), proxy), [], None)
    second = opened()
    second.commit(records(b"after"), [], None)
    assert [m.value() for m in read(topics.events("item"), {0: 0, 1: 0})] == [b"before", b"under way", b"after"]
    second.close()
