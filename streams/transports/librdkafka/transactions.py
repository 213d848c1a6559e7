"""Step 4: one Kafka transaction for what a batch gave and the offsets that it came from.

    begin · records · flush · offsets with the group's metadata · commit

Flush stands before the offsets: a small transaction then takes 8 ms instead of 105. The offsets carry the consumer
group's generation, so a worker that was paused and wakes up after its partitions went to another one is refused: its
transaction is aborted. A crash anywhere before the commit leaves an open transaction, which readers do not see and the
next `init` of the same id aborts.

A failed transaction ends in one of four ways, and each has its error: it was aborted and the log can be used again
(BrokerError); the broker refuses a record of it for its content, and it was aborted (RecordRefused); another worker has
the slot (Fenced); or nobody knows, since the broker did not answer in time (TransactionLost), and the producer must be
made anew.

A producer is also left behind whenever a request of its may still be on its way: a connection was lost, or an answer
did not come. librdkafka has one epoch for all transactions of a producer (its issue 5423, without KIP-890), so that
the broker would count such a request to a later transaction: the old offsets, or half of the new records. A new
producer has another epoch, which shuts out what the old one asked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from forebay.errors import BrokerError, BrokerUnavailable, Fenced, RecordRefused, TransactionLost
from forebay.streams.clients import worker_producer
from forebay.streams.cluster import Address
from forebay.streams.worker.batch import Record

OPERATION_TIMEOUT_S = (
    30.0  # of each call; a frozen broker was seen to outlast it, so that callers wait with a bound of their own
)
# What a record is refused for by itself: another try of the same bytes ends the same way.
_CONTENT = {
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_RECORD,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
}
# A consumer that was fenced (FENCED_INSTANCE_ID) is not among them: a request to join that a frozen broker hears last
# makes a member of this name that nobody is. The transport waits for its end, or says who has the slot.
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED}
# A request went without an answer.
_PARTED = {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._ALL_BROKERS_DOWN}


class TransactionLog:
    """The writing end of a worker's slot. Calls come from one thread at a time."""

    def __init__(
        self,
        bootstrap: Address,
        name: str,
        *,
        transactional_id: str,
        timeout_ms: int,
        operation_timeout_s: float | None = None,
    ) -> None:
        """Take the transactional id: whoever had it before is fenced, and what it left open is aborted at once, instead
        of after `timeout_ms` by the broker. The id is stable for the worker slot; `name` is whose it is, for errors.

        Raises BrokerUnavailable when the broker does not answer within `operation_timeout_s`.
        """
        self._name, self._bootstrap = name, str(bootstrap)
        self._timeout_s = timeout_ms / 1000
        self._call_s = OPERATION_TIMEOUT_S if operation_timeout_s is None else operation_timeout_s
        self._refused: KafkaError | None = None
        self._parted: KafkaError | None = None
        self._producer = Producer(
            worker_producer(bootstrap, transactional_id, timeout_ms)
            | {"on_delivery": self._undelivered, "error_cb": self._went_wrong}
        )
        try:
            self._producer.init_transactions(self._call_s)
        except KafkaException as error:
            raise BrokerUnavailable(
                f"no transaction can be begun: {error.args[0].str()}",
                where=self._bootstrap,
                do="Is the broker up? forebay doctor",
            ) from None

    def commit(
        self,
        records: Sequence[Record],
        offsets: Sequence[TopicPartition],
        group: Any,
    ) -> None:
        """Put `records` and `offsets` into the log, all or nothing; returns after the commit.

        Raises BrokerError, RecordRefused, Fenced or TransactionLost, as the module's text has them: state is then ahead
        of the log, and the caller drops it.
        """
        begun = time.monotonic()
        try:
            self._producer.poll(0)  # what was lost between two transactions had no request on its way; may raise
            self._refused = self._parted = None
            self._producer.begin_transaction()
            for record in records:
                self._produce(record)
            if self._producer.flush(self._call_s):
                raise self._lost("records were not taken in time")
            if offsets:
                self._producer.send_offsets_to_transaction(list(offsets), group, self._call_s)
            self._producer.commit_transaction(self._call_s)
            self._producer.poll(0)
        except KafkaException as failure:
            raise self._failed(failure.args[0], time.monotonic() - begun) from None
        except SystemError as failure:
            # confluent-kafka raises a fatal error inside the poll, and calls delivery reports on top of it.
            if not isinstance(failure.__cause__, KafkaException):
                raise
            raise self._failed(failure.__cause__.args[0], time.monotonic() - begun) from None
        if self._parted is not None:
            raise self._lost(f"it was committed, and a request of its may come late: {self._parted.str()}")

    def close(self) -> None:
        """Wait for what is under way. An open transaction is the broker's to abort; what a fenced producer says here
        was said."""
        with contextlib.suppress(KafkaException, SystemError):
            self._producer.flush(1.0)

    def _produce(self, record: Record) -> None:
        place: dict[str, Any] = {} if record.partition < 0 else {"partition": record.partition}
        if record.headers:
            place["headers"] = list(record.headers)  # librdkafka takes no other sequence
        deadline = time.monotonic() + self._call_s
        while True:
            try:
                self._producer.produce(record.topic, value=record.value, key=record.key, **place)
                return
            except BufferError:  # a million records wait: let some go
                if time.monotonic() > deadline:
                    raise self._lost("the queue of records stays full") from None
                self._producer.poll(0.05)

    def _undelivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and error.code() in _CONTENT:
            self._refused = error

    def _went_wrong(self, error: KafkaError) -> None:
        if error.code() in _PARTED:
            self._parted = error

    def _failed(self, error: KafkaError, took_s: float) -> BrokerError:
        if self._refused is None and error.code() in _CONTENT:
            self._refused = error
        if error.fatal() or error.code() in _FENCED:
            # The broker fences a transaction that outlived its time-out, too: then nobody else has the slot.
            if took_s >= self._timeout_s:
                return self._lost(f"it outlived its {self._timeout_s:.0f} s: {error.str()}")
            return Fenced(
                f"another worker has this slot: {error.str()}",
                where=f"{self._name} at {self._bootstrap}",
                do="Give each worker process a --slot of its own",
            )
        try:
            self._producer.abort_transaction(self._call_s)
        except KafkaException as again:
            return self._lost(f"{error.str()}; nor could it be aborted: {again.args[0].str()}")
        if self._parted is not None or error.code() in _PARTED:
            return self._lost(f"it was aborted, and a request of its may come late: {error.str()}")
        if self._refused is not None:
            return RecordRefused(f"a record was refused: {self._refused.str()}", where=self._bootstrap)
        return BrokerError(f"a transaction was aborted: {error.str()}", where=self._bootstrap)

    def _lost(self, said: str) -> TransactionLost:
        return TransactionLost(f"how a transaction ended is not known: {said}", where=self._bootstrap)
