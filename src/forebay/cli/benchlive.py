"""The live part of `forebay bench stream`: a service that sends events and one that reads vectors, in a process of
their own, as they are where the system runs."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from forebay.arrays import Ints
from forebay.clock import now_ms
from forebay.events import Behaviour, encode
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import HEARTBEAT_KEY
from forebay.streams.clients import tail_consumer
from forebay.streams.offsets import bounds
from forebay.streams.topics import Topics

PATIENCE_S = 300.0
TICK_S = 0.001  # between two looks at what is due
SWITCH_S = 0.0005  # Python's 5 ms would be in the waits: two threads send and read
ITEMS, USERS, SKEW = 20_000, 100_000, 1.1
QUEUE = 1_000_000  # records that wait to be sent: past it the broker is slower than they come

Waits: TypeAlias = dict[Side, list[float]]


@dataclass(frozen=True)
class Offer:
    """So many events a second, so long. `probes` of them in each second are measured: each has a user and an item of
    its own. The others are of users drawn by Zipf, and of items that no probe has."""

    rate: int
    seconds: float
    probes: int

    @property
    def events(self) -> int:
        """Of all of it."""
        return int(self.rate * self.seconds)

    def is_probe(self, number: int) -> bool:
        """Whether event `number`, from 0, is measured: they are spread evenly."""
        return (number + 1) * self.probes // self.rate > number * self.probes // self.rate


@dataclass(frozen=True)
class Offered:
    """What came of an Offer: milliseconds from the call that sends a probe until its vectors are read, by side; how
    many events were sent, and for how long (s)."""

    waits: Waits
    events: int
    seconds: float


def elsewhere() -> ProcessPoolExecutor:
    """One process beside this one, which shares neither its interpreter nor its lock."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def offered(bootstrap: str, topics: Topics, offer: Offer) -> Offered:
    """Send what is offered, and read both vectors topics until each probe is there. Sending is open-loop: what cannot
    be sent in time is sent as soon as it can be. Raises TimeoutError where a probe does not come back."""
    sys.setswitchinterval(SWITCH_S)
    others = _others(offer)
    producer, reader, number = producer_of(bootstrap, 0), _Reader(bootstrap, topics), 0
    try:
        started = time.perf_counter()
        while (passed := time.perf_counter() - started) < offer.seconds:
            for _ in range(min(int(passed * offer.rate), offer.events) - number):
                if offer.is_probe(number):
                    user, item = f"live{offer.rate}-{number}", f"i{ITEMS // 2 + number * offer.probes // offer.rate}"
                    event = Behaviour(user, item, "rate", 4.0, now_ms(), f"l{number}", {"genres": ["Drama"]})
                    value = encode(event)
                    reader.await_(user.encode(), item.encode())
                    producer.produce(topics.behaviour, value, user.encode())
                else:
                    key, value = others[number]
                    producer.produce(topics.behaviour, value, key)
                number += 1
            producer.poll(0)
            time.sleep(TICK_S)
        took = time.perf_counter() - started
        if producer.flush(60):
            raise TimeoutError("the broker did not take all events within 60 s")
        until(lambda: not reader.missing)
    finally:  # else this process would never end
        reader.close()
    return Offered(reader.waits, number, took)


def skewed(random: np.random.Generator, kinds: int, count: int) -> Ints:
    """Zipf with exponent 1.1 over `kinds`, as behaviour logs are."""
    weights = 1.0 / np.arange(1, kinds + 1) ** SKEW
    return random.choice(kinds, count, p=weights / weights.sum())


def producer_of(bootstrap: str, linger_ms: int) -> Producer:
    """A service's own producer of events."""
    return Producer(
        {
            "bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": linger_ms,
            "queue.buffering.max.messages": QUEUE,
        }
    )  # fmt: skip


def until(condition: Callable[[], bool], look: Callable[[], None] = lambda: None) -> None:
    """Wait for `condition`, and `look` meanwhile, which may raise. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        look()
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:.0f} s")
        time.sleep(0.01)


class _Reader:
    """Reads both vectors topics from their ends on, on a thread, and knows since when each key is waited for."""

    def __init__(self, bootstrap: str, topics: Topics) -> None:
        self.waits: Waits = {side: [] for side in SIDES}
        self._sent: dict[str, dict[bytes, float]] = {topics.vectors("g1", side): {} for side in SIDES}
        self._sides: dict[str, Side] = {topics.vectors("g1", side): side for side in SIDES}
        self._consumer = Consumer(tail_consumer(bootstrap) | {"fetch.wait.max.ms": 5, "enable.partition.eof": False})
        places = []
        for topic in self._sent:
            partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
            places += [TopicPartition(topic, p, bounds(self._consumer, topic, p)[1]) for p in partitions]
        self._consumer.assign(places)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    @property
    def missing(self) -> int:
        """How many vectors are waited for."""
        return sum(map(len, self._sent.values()))

    def await_(self, user: bytes, item: bytes) -> None:
        """From now on, until they are read."""
        now = time.perf_counter()
        for sent, key in zip(self._sent.values(), (user, item), strict=True):
            sent[key] = now

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._consumer.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            # One is waited for, and with it comes what is there: a batch would be waited for until it is full.
            for message in [*self._consumer.consume(1, 0.1), *self._consumer.consume(1_000, 0)]:
                if message.error() is None and message.key() != HEARTBEAT_KEY:
                    began = self._sent[message.topic()].pop(message.key(), None)
                    if began is not None:
                        self.waits[self._sides[message.topic()]].append((time.perf_counter() - began) * 1000)


def _others(offer: Offer) -> Sequence[tuple[bytes, bytes]]:
    """Key and value of each event, made before the first is sent; those of probes are not used."""
    if offer.probes >= offer.rate:
        return ()
    random, now = np.random.default_rng(offer.rate), now_ms()
    users = skewed(random, USERS, offer.events).tolist()
    items = (ITEMS // 2 * random.random(offer.events) ** 2).astype(int).tolist()
    return [
        (
            f"u{u}".encode(),
            encode(Behaviour(f"u{u}", f"i{i}", "rate", 4.0, now, f"o{offer.rate}-{n}", {"genres": ["War"]})),
        )
        for n, (u, i) in enumerate(zip(users, items, strict=True))
    ]
