"""The live part of `forebay bench stream`: a service that sends events and one that reads vectors, in a process of
their own, as they are where the system runs."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from confluent_kafka import Consumer, Producer, TopicPartition

from forebay.clock import now_ms
from forebay.events import Behaviour, encode
from forebay.store.codec import HEARTBEAT_KEY
from forebay.streams.clients import tail_consumer
from forebay.streams.offsets import bounds
from forebay.streams.topics import Topics

PATIENCE_S = 300.0
TICK_S = 0.001  # between two looks at what is due
ITEMS = 20_000


def elsewhere() -> ProcessPoolExecutor:
    """One process beside this one, which shares neither its interpreter nor its lock."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def waits_at(bootstrap: str, topics: Topics, rate: int, seconds: float) -> list[float]:
    """Milliseconds from the call that sends an event until its user's vectors are read, for each event; every event
    has a user of its own."""
    topic = topics.vectors("g1", "user")
    consumer = Consumer(tail_consumer(bootstrap) | {"fetch.wait.max.ms": 5, "enable.partition.eof": False})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, bounds(consumer, topic, p)[1]) for p in partitions])
    sent: dict[bytes, float] = {}
    waits: list[float] = []
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            for message in consumer.consume(1, 0.1):  # a batch would be waited for until it is full
                began = None if message.key() == HEARTBEAT_KEY else sent.pop(message.key(), None)
                if began is not None:
                    waits.append((time.perf_counter() - began) * 1000)

    thread = threading.Thread(target=listen)
    thread.start()
    producer, number = producer_of(bootstrap, 0), 0
    started = time.perf_counter()
    try:
        while (passed := time.perf_counter() - started) < seconds:
            for _ in range(int(passed * rate) - number):
                user = f"live{rate}-{number}".encode()
                event = Behaviour(
                    user.decode(), f"i{number % ITEMS}", "rate", 4.0, now_ms(), f"l{number}", {"genres": ["Drama"]}
                )
                sent[user] = time.perf_counter()
                producer.produce(topics.behaviour, encode(event), user)
                number += 1
            producer.poll(0)
            time.sleep(TICK_S)
        producer.flush(10)
        until(lambda: not sent)
    finally:  # else this process would never end
        over.set()
        thread.join()
        consumer.close()
    return waits


def producer_of(bootstrap: str, linger_ms: int) -> Producer:
    """A service's own producer of events."""
    return Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": linger_ms})


def until(condition: Callable[[], bool], look: Callable[[], None] = lambda: None) -> None:
    """Wait for `condition`, and `look` meanwhile, which may raise. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        look()
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:.0f} s")
        time.sleep(0.01)
