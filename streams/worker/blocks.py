"""A batch of records as the Blocks that an Intake wrote."""

from __future__ import annotations

import logging

from forebay.errors import BlockError, BlockTooNew
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import HEADER
from forebay.streams.worker.batch import Headers, PartitionBatch
from forebay.telemetry import emit

log = logging.getLogger("forebay.blocks")


def blocks_of(batch: PartitionBatch, topic: str, stage: str) -> list[Block]:
    """The Blocks of a batch of `topic`, which `stage` reads. What is no Block is told of and stepped over.

    Raises BlockTooNew.
    """
    found = []
    for place, value in enumerate(batch.values):
        try:
            found.append(_block(batch.headers_at(place), value))
        except BlockTooNew as error:
            at = f"{topic}[{batch.partition}], offset {batch.offsets[place]}"
            raise BlockTooNew(error.what, where=at, do=error.do) from None
        except BlockError as error:  # nothing that was accepted: an Intake writes its Blocks whole
            log.warning(
                "%s[%d], offset %d is no block and is stepped over: %s",
                topic, batch.partition, batch.offsets[place], error,
            )  # fmt: skip
            emit("stranger", stage=stage, partition=batch.partition)
    return found


def _block(headers: Headers, value: bytes | None) -> Block:
    header = dict(headers or ()).get(HEADER)
    if header is None or value is None:
        raise BlockError("it has no header of one" if value is not None else "it has no value")
    return Block.decode(header, value)
