"""Records back to the partitions that they came from: idempotently, each acknowledged by all replicas or named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from forebay.streams.clients import publisher_producer
from forebay.streams.cluster import Address
from forebay.streams.connection import connected, kafka_python
from forebay.streams.letterfilter import Placed
from forebay.streams.redrive.judge import Verdict

TIMEOUT_S = 30.0  # for which a record may stay unacknowledged
GRACE_S = 5.0


@dataclass(frozen=True)
class Failure:
    """A letter whose record was not acknowledged, and what the client says of it."""

    placed: Placed
    said: str


@dataclass(frozen=True)
class Delivery:
    """What became of some records: those that failed, and why no more can be sent; "" where they can."""

    failed: Sequence[Failure] = ()
    stopped: str = ""


class Sender:
    """One producer. One thread."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def send(self, verdicts: Sequence[Verdict]) -> Delivery:
        """Send records and wait until each is acknowledged or given up, for about 35 s at most. One that the broker
        does not take for its size fails alone; what else goes wrong would go wrong with the next ones, too."""
        errors = kafka_python().errors
        sent, failed, stopped = [], [], ""
        for verdict in verdicts:
            letter = verdict.placed.letter
            try:
                future = self._producer.send(
                    letter.topic, key=verdict.key, value=verdict.value, headers=list(verdict.headers),
                    partition=letter.partition,
                )  # fmt: skip
                sent.append((verdict, future))
            except errors.KafkaError as error:
                failed.append(Failure(verdict.placed, _said(error)))
                stopped = stopped or ("" if _is_its_own(error) else _said(error))
        try:
            self._producer.flush(TIMEOUT_S + GRACE_S)
        except errors.KafkaTimeoutError as error:
            stopped = stopped or _said(error)
        for verdict, future in sent:
            if future.is_done and future.succeeded():
                continue
            ended = future.exception or errors.KafkaTimeoutError("not acknowledged in time")
            failed.append(Failure(verdict.placed, _said(ended)))
            stopped = stopped or ("" if _is_its_own(ended) else _said(ended))
        return Delivery(failed, stopped)


@contextmanager
def opened(bootstrap: Address) -> Iterator[Sender]:
    """Over a producer of its own. Raises BrokerUnavailable."""
    producer = connected("KafkaProducer", bootstrap, **publisher_producer(TIMEOUT_S, 5))
    try:
        yield Sender(producer)
    finally:
        try:
            producer.close(GRACE_S)
        except kafka_python().errors.KafkaTimeoutError:
            # Its close() begins with a flush and gives up there, with thread and sockets left open.
            producer._sender.force_close()
            producer._sender.join(GRACE_S)


def _is_its_own(error: Exception) -> bool:
    errors = kafka_python().errors
    return isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
