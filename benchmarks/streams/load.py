"""The events that every benchmark of this folder sends: the same for each seed, and of about 190 bytes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Producer

from forebay.cli.benchlive import producer_of, skewed
from forebay.events import Attributes, Behaviour, encode

WAIT_S = 60.0
Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Load:
    """`events` behaviours, Zipf 1.1 over `users`, items by the square of a uniform draw. Times lie within the minute
    before `now_ms`."""

    events: int
    users: int = 100_000
    items: int = 20_000
    seed: int = 0
    genres: tuple[str, ...] = ("Drama",)

    def rows(self) -> Iterator[tuple[int, int, float]]:
        """User, item and value of each event, in the order in which they are sent."""
        random = np.random.default_rng(self.seed)
        users = skewed(random, self.users, self.events).tolist()
        items = (self.items * random.random(self.events) ** 2).astype(int).tolist()
        for n, (user, item) in enumerate(zip(users, items, strict=True)):
            yield user, item, float(1 + n % 5)

    def behaviours(self, now_ms: int) -> Iterator[Behaviour]:
        """The events themselves. Identities are UUIDs, as a producer's are, made of the seed."""
        names = np.random.default_rng([self.seed, 1]).bytes(16 * self.events)
        for n, (user, item, value) in enumerate(self.rows()):
            own: Attributes = {"genres": [self.genres[item % len(self.genres)]]}
            name = str(uuid.UUID(bytes=names[16 * n : 16 * n + 16]))
            yield Behaviour(user_of(user), item_of(item), "rate", value, now_ms - n % 60_000, name, own)

    def pairs(self, now_ms: int) -> Iterator[Pair]:
        """Key and value of each record."""
        for event in self.behaviours(now_ms):
            yield event.user.encode(), encode(event)


def user_of(number: int) -> str:
    """The id of a user."""
    return f"user-{number:06d}"


def item_of(number: int) -> str:
    """The id of an item."""
    return f"item-{number}"


def send(bootstrap: str, topic: str, pairs: Iterable[Pair]) -> tuple[int, int]:
    """Produce all, and return how many records and bytes of values these were. Raises TimeoutError where the broker
    does not take them."""
    producer, count, size = producer_of(bootstrap, 50), 0, 0
    for key, value in pairs:
        _produce(producer, topic, key, value)
        count, size = count + 1, size + len(value)
    if producer.flush(WAIT_S):
        raise TimeoutError(f"the broker did not take all records within {WAIT_S:.0f} s")
    return count, size


def _produce(producer: Producer, topic: str, key: bytes, value: bytes) -> None:
    for _ in range(round(WAIT_S / 0.05)):
        try:
            producer.produce(topic, value, key)
            return
        except BufferError:  # the queue is full: the broker is slower than we are
            producer.poll(0.05)
    raise TimeoutError(f"the broker took no record for {WAIT_S:.0f} s")
