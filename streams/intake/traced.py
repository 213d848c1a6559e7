"""Spans of the sampled events of a batch, and their contexts in the Blocks that the events are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forebay import tracing
from forebay.segments.spec import Side
from forebay.streams.intake.accept import Accepted
from forebay.streams.intake.fields import ITEM, USER
from forebay.streams.routing import partitions_of
from forebay.streams.worker.batch import PartitionBatch, Record
from forebay.streams.worker.source import Source
from forebay.tracing import Span


def traced(
    batches: Sequence[PartitionBatch],
    accepted: Accepted,
    blocks: Sequence[Record],
    sources: Sequence[Source],
    logs: Mapping[str, tuple[Side, int]],
) -> tuple[list[Span], list[Record]]:
    """The spans of the sampled events of `batches`, and `blocks` with their contexts: a Block's record has those of up
    to 16 events that were accepted into its partition with it.

    `logs` has each clean log's topic with its side and its number of partitions. A record is looked at where it has
    headers, and only where somebody traces.
    """
    if (tracer := tracing.tracer()) is None:
        return [], list(blocks)
    spans: list[Span] = []
    found: dict[int, bytes] = {}  # row -> the context of its span, of those that were accepted
    rows, first = set[int](), 0
    for batch in batches:
        for place, headers in enumerate(batch.headers):
            if not headers or (parent := tracing.sampled(headers)) is None:
                continue
            rows = rows or set(accepted.rows.tolist())
            taken, source = first + place in rows, sources[batch.partition]
            span = tracer.begin(
                "intake", parent, batch.append_times[place],
                {"forebay.stage": "intake", "forebay.accepted": taken, "messaging.destination.name": source.topic,
                 "messaging.destination.partition.id": str(source.partition),
                 "messaging.kafka.offset": batch.offsets[place]},
            )  # fmt: skip
            if span is not None:
                spans.append(span)
                if taken:
                    found[first + place] = span.context
        first += len(batch.offsets)
    return spans, _carried(found, accepted, blocks, logs) if found else list(blocks)


def _carried(
    found: Mapping[int, bytes],
    accepted: Accepted,
    blocks: Sequence[Record],
    logs: Mapping[str, tuple[Side, int]],
) -> list[Record]:
    contexts: dict[tuple[str, int], list[bytes]] = {}
    fields = accepted.fields
    for topic, (side, count) in logs.items():
        for row, context in found.items():
            start, end = fields.texts[row, USER if side == "user" else ITEM].tolist()
            if start < end:  # a profile has no item, an update no user
                key = fields.data[start:end].tobytes()
                contexts.setdefault((topic, int(partitions_of([key], count)[0])), []).append(context)
    return [
        record._replace(
            headers=(*record.headers, *tracing.carrying(contexts.get((record.topic, record.partition), ())))
        )
        for record in blocks
    ]
