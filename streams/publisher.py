"""What an event producer installs: validate, key by entity, send once, and say which events did not arrive.

kafka-python is the client (`forebay[publisher]`): pure Python, so it goes into any service. Half of its time goes into
checksums when the `crc32c` package is missing; that package and the cached partitioner here are why it sends 31 k
events a second instead of 13 k.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import msgspec

from forebay import tracing
from forebay.errors import EventError, PublishError, TopicMissing, UsageError
from forebay.events import Attributes, Behaviour, ItemUpdate, Published, UserProfile, check, decode, encode, stamped
from forebay.streams.clients import publisher_producer
from forebay.streams.cluster import Address
from forebay.streams.connection import connected, kafka_python, reach
from forebay.streams.topics import Topics

EVENT_OVERHEAD_BYTES = (
    1024  # what the client's and our own objects for one unacknowledged event cost, besides its bytes
)
GRACE_S = 1.0  # the client gives an event up after timeout_s; past that and this, we do


class EventPublisher:
    """Sends events to Kafka, idempotently, and hands back those that no broker acknowledged.

        with EventPublisher("localhost:9092") as events:
            events.send(Behaviour(user="u42", item="i7", action="play"))

    Every accepted event ends in exactly one of two ways: acknowledged by all in-sync replicas, or in the `events` of
    one PublishError, in sending order, with the id and time that it was sent with. Such an event may have arrived all
    the same (the answer was lost): sent again as it is, its id lets the Intake count it once.

    `enrich` fills the absent `item_attributes` of a Behaviour by item id; what is absent then, the Intake fills from
    the item's newest update. `linger_ms` is how long a record waits for
    company; `timeout_s` how long an event may stay unacknowledged; `max_memory_bytes` bounds what waits for an
    acknowledgement: past it `send` blocks. `bootstrap` is host:port, or a Cluster where brokers ask for TLS or SASL.
    `client` is passed to kafka-python (compression_type, ...). Threads may share one publisher. Raises
    BrokerUnavailable at once when nobody listens at `bootstrap`.
    """

    def __init__(
        self,
        bootstrap: Address,
        *,
        topics: Topics = Topics(),
        enrich: Mapping[str, Attributes] | None = None,
        linger_ms: int = 5,
        timeout_s: float = 30,
        max_memory_bytes: int = 64 << 20,
        **client: Any,
    ) -> None:
        if timeout_s < 1 or linger_ms > timeout_s * 500:
            raise UsageError(
                f"timeout_s {timeout_s} leaves no time for a retry (linger_ms {linger_ms})",
                do="Use 1 or more, and at least twice the linger",
            )
        self.bootstrap, self.topics = bootstrap, topics
        self._enrich = enrich
        self._timeout_s = timeout_s
        self._limit = max_memory_bytes
        self._lock = threading.Lock()
        self._pending: deque[tuple[Any, Published, int]] = deque()  # in sending order
        self._pending_bytes = 0
        self._failed: list[Published] = []
        self._error: BaseException | None = None
        self._sent = self._acknowledged = self._released = 0
        self._closed = False
        settings = publisher_producer(timeout_s, linger_ms) | {"partitioner": _partitioner()}
        self._settings = settings | client
        self._opening = threading.Lock()
        self._producer: Any = connected("KafkaProducer", bootstrap, **self._settings)

    @property
    def sent(self) -> int:
        """Events that `send` took."""
        return self._sent

    @property
    def acknowledged(self) -> int:
        """Events that are in the log for certain."""
        self._settle()
        with self._lock:
            return self._acknowledged + sum(1 for future, _, _ in self._pending if future.succeeded())

    def send(self, event: Published) -> None:
        """Take one event; returns before it is acknowledged.

        Raises before anything of it is sent: UsageError for what is no event to publish, EventError for one that the
        Intake would refuse, TopicMissing and BrokerUnavailable when its topic cannot be found (within 5 s). Raises
        PublishError when earlier events were given up; `event` is then the last one in it, unsent. After a PublishError
        the next `send` connects anew.
        """
        if self._closed:
            raise UsageError("this publisher is closed", where=str(self.bootstrap), do="Make a new one")
        match event:
            case Behaviour():
                if self._enrich is not None and not event.item_attributes:
                    attributes = self._enrich.get(event.item)
                    if attributes:
                        event = msgspec.structs.replace(event, item_attributes=attributes)
                event, key, topic = stamped(event), event.user, self.topics.behaviour
            case UserProfile():
                event, key, topic = stamped(event), event.user, self.topics.behaviour
            case ItemUpdate():
                event, key, topic = stamped(event), event.item, self.topics.item_updates
            case _:
                raise UsageError(
                    f"{type(event).__name__} is not an event to publish", do="Send Behaviour, UserProfile or ItemUpdate"
                )
        value = _checked(event)
        cost = len(value) + EVENT_OVERHEAD_BYTES
        if not self._make_room(cost) or self._failed:
            self._finish(event)
        self._hand_over(topic, key.encode(), value, event, cost)

    def flush(self) -> None:
        """Return when everything sent so far is acknowledged; else raise PublishError with what is not, all of it."""
        if not self._closed:
            self._finish()

    def close(self) -> None:
        """`flush`, then give the connection back, whatever flush raised. Closing again does nothing."""
        if self._closed:
            return
        try:
            self._finish()
        finally:
            self._closed = True
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Also after an error in the block: what was sent before it is the caller's word already.
        self.close()

    def _hand_over(self, topic: str, key: bytes, value: bytes, event: Published, cost: int) -> None:
        errors = kafka_python().errors
        while True:
            with self._opening:
                if self._producer is None:
                    self._producer = connected("KafkaProducer", self.bootstrap, **self._settings)
                producer = self._producer
            try:
                future = producer.send(topic, value=value, key=key, headers=tracing.of_producer())
                break
            except errors.IllegalStateError:  # another thread gave up and dropped this producer
                if producer is self._producer:
                    raise
            except errors.KafkaTimeoutError:
                reach(self.bootstrap)
                raise TopicMissing(
                    f'no topic "{topic}"', where=str(self.bootstrap), do="Run: forebay topics create"
                ) from None
        with self._lock:
            self._pending.append((future, event, cost))
            self._pending_bytes += cost
            self._sent += 1

    def _settle(self) -> None:
        """Release from the front what is decided. A later one waits behind an undecided one: order without
        callbacks."""
        with self._lock:
            while self._pending and self._pending[0][0].is_done:
                self._release()

    def _release(self) -> None:
        future, event, cost = self._pending.popleft()
        self._pending_bytes -= cost
        self._released += 1
        if future.is_done and future.succeeded():
            self._acknowledged += 1
        else:
            self._failed.append(event)
            self._error = future.exception or self._error

    def _make_room(self, cost: int) -> bool:
        """Wait until `cost` more bytes may be pending; False when the oldest event outlived its time."""
        errors = kafka_python().errors
        self._settle()
        while self._pending_bytes + cost > self._limit and not self._failed:
            try:
                oldest = self._pending[0][0]
            except IndexError:  # nothing left to wait for: one event may be larger than the limit
                return True
            try:
                oldest.get(self._timeout_s + GRACE_S)
            except errors.KafkaError:
                if not oldest.is_done:
                    return False
            self._settle()
        return True

    def _finish(self, *unsent: Published) -> None:
        kafka = kafka_python()
        with self._lock:
            target = self._sent  # what other threads send from here on is not ours to give up
        producer = self._producer
        try:
            if producer is not None:
                producer.flush(self._timeout_s + GRACE_S)
        except kafka.errors.KafkaTimeoutError as slow:
            self._error = slow
        with self._lock:
            while self._pending and self._released < target:
                self._release()
            failed, self._failed = [*self._failed, *unsent], []
            reason, self._error = self._error, None
        if failed:
            self._drop()  # else it would go on trying to send what we hand back
            raise PublishError(
                f"{len(failed)} events were not acknowledged ({reason})",
                failed,
                where=str(self.bootstrap),
                do="Keep the events of this error and send them again: their ids let one that did arrive count once",
            )

    def _drop(self) -> None:
        """Give the producer back without waiting for what it holds; its futures fail."""
        with self._opening:
            producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(GRACE_S)
        except kafka_python().errors.KafkaTimeoutError:
            # Its close() begins with a flush and gives up there, with thread and sockets left open.
            producer._sender.force_close()
            producer._sender.join(GRACE_S)


def _checked(event: Published) -> bytes:
    """The event's bytes, read back as a worker will read them. Raises EventError."""
    try:
        check(event)
        value = encode(event)
    except (
        AttributeError,
        TypeError,
        UnicodeEncodeError,
        msgspec.MsgspecError,
    ) as error:  # structs take any type unseen
        raise EventError("undecodable", f"a field has a value of the wrong type: {error}") from None
    decode(value)
    return value


def _partitioner() -> Any:
    """kafka-python's default partitioner (murmur2, as Java's) for records with a key, with the hashes remembered."""
    kafka_python()
    from kafka.partitioner import Partitioner
    from kafka.partitioner.default import murmur2

    # 5 µs of Python for a key, and a few users send most events. A key is an id of at most 256 bytes: 16 MiB when it is
    # full.
    remembered = lru_cache(maxsize=1 << 15)(murmur2)

    class Murmur2(Partitioner):  # type: ignore[misc]
        def partition(
            self, topic: str, key: object, serialized_key: bytes, value: object, serialized_value: bytes, cluster: Any
        ) -> int:
            partitions: set[int] = cluster.partitions_for_topic(topic)
            place: int = (remembered(serialized_key) & 0x7FFFFFFF) % len(partitions)
            return place if place in partitions else sorted(partitions)[place]

    return Murmur2()
