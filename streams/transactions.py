"""Step 4: one Kafka transaction for what a batch gave and the offsets that it came from.

    begin · vectors, heartbeats, interactions, dead letters, ticks · flush · offsets with the group's metadata · commit

Flush stands before the offsets: a small transaction then takes 8 ms instead of 105. The offsets carry the consumer group's
generation, so a worker that was paused and wakes up after its partitions went to another one is refused (Fenced). A crash
anywhere before the commit leaves an open transaction, which readers do not see and the next `init` of the same id aborts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from forebay.errors import BrokerError, BrokerUnavailable, Fenced
from forebay.events import Tick, encode
from forebay.store.codec import HEARTBEAT_KEY, pack_heartbeat
from forebay.streams.processor import Outcome
from forebay.streams.topics import Topics

TICK_KEY = b"\x00tick"  # exempt from the key check: a tick is for its partition, not for an entity
OPERATION_TIMEOUT_S = 30.0


class TransactionLog:
    """The writing end of one side's worker slot. Calls come from one thread at a time."""

    def __init__(
        self, bootstrap: str, topics: Topics, generation: str, side: str, *, transactional_id: str, timeout_ms: int
    ) -> None:
        """`transactional_id` is stable for the worker slot: a restart after kill -9 then aborts what was open at once, instead
        of waiting `timeout_ms` for the broker to do it."""
        self._topics, self._side, self._bootstrap = topics, side, bootstrap
        self._vectors = topics.vectors(generation, side)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout_ms,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 2,
            }
        )
        try:
            self._producer.init_transactions(OPERATION_TIMEOUT_S)
        except KafkaException as error:
            raise BrokerUnavailable(
                f"no transaction can be begun: {error.args[0].str()}",
                where=bootstrap,
                do="Is the broker up? forebay doctor",
            ) from None

    def commit(
        self,
        outcome: Outcome,
        offsets: Sequence[TopicPartition],
        group: Any,
        ticks: dict[int, int],
        *,
        interactions: bool,
    ) -> None:
        """Put `outcome` and `offsets` into the log, all or nothing; returns after the commit.

        Raises Fenced when another worker owns the partitions, and BrokerError when the transaction was aborted: state is then
        ahead of the log, and the caller drops it.
        """
        try:
            self._producer.begin_transaction()
            for partition, key, value in outcome.vectors:
                self._produce(self._vectors, value, key, partition)
            for partition, as_of in outcome.watermarks.items():
                self._produce(self._vectors, pack_heartbeat(as_of), HEARTBEAT_KEY, partition)
            if interactions:
                for key, value in outcome.interactions:
                    self._produce(self._topics.item_updates, value, key)
            for letter in outcome.dead_letters:
                record_key, record_value, headers = letter.to_record()
                self._produce(self._topics.dead_letters, record_value, record_key, headers=headers)
            for partition, time in ticks.items():
                self._produce(self._topics.source(self._side), encode(Tick(time)), TICK_KEY, partition)
            self._producer.flush(OPERATION_TIMEOUT_S)
            if offsets:
                self._producer.send_offsets_to_transaction(list(offsets), group, OPERATION_TIMEOUT_S)
            self._producer.commit_transaction(OPERATION_TIMEOUT_S)
        except KafkaException as failure:
            raise self._aborted(failure.args[0]) from None

    def close(self) -> None:
        """Wait for what is under way. An open transaction is the broker's to abort; what a fenced producer says here was said."""
        with contextlib.suppress(KafkaException):
            self._producer.flush(1.0)

    def _produce(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int = -1, headers: Any = None
    ) -> None:
        while True:
            try:
                if partition < 0:
                    self._producer.produce(topic, value=value, key=key, headers=headers)
                else:
                    self._producer.produce(topic, value=value, key=key, partition=partition, headers=headers)
                return
            except BufferError:  # a million records wait: let some go
                self._producer.poll(0.05)

    def _aborted(self, error: KafkaError) -> BrokerError:
        if error.fatal() or error.code() in (KafkaError._FENCED, KafkaError.FENCED_INSTANCE_ID):
            return Fenced(
                f"another worker has this slot: {error.str()}",
                where=f"{self._side} worker at {self._bootstrap}",
                do="Give each worker process a --slot of its own",
            )
        try:
            self._producer.abort_transaction(OPERATION_TIMEOUT_S)
        except KafkaException as again:
            return Fenced(f"the transaction could not be aborted: {again.args[0].str()}", where=self._bootstrap)
        return BrokerError(f"a transaction was aborted: {error.str()}", where=self._bootstrap)
