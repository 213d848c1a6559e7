"""Blocks in a file, one after another: how events wait on disk between two steps of one job.

Nothing is kept in this form: a file is written, read once and deleted by the same job. A Block's own digest tells one
that was cut short.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from forebay.errors import BlockError
from forebay.segments.blocks.block import Block

AGAIN = "Look at the disk, and run the job again: it writes this file anew"
_LENGTHS = struct.Struct("<II")  # bytes of header and value


def append(path: Path, block: Block) -> None:
    """Write `block` behind what is there."""
    with path.open("ab") as file:
        for header, value in block.encode():
            file.write(_LENGTHS.pack(len(header), len(value)) + header + value)


def read(path: Path) -> Iterator[Block]:
    """Every block of the file; none where there is no file. Raises BlockError for one that is not what was written."""
    if not path.exists():
        return
    with path.open("rb") as file:
        while lengths := file.read(_LENGTHS.size):
            if len(lengths) < _LENGTHS.size:
                raise BlockError("the file ends in the middle of a block", where=str(path), do=AGAIN)
            header, value = _LENGTHS.unpack(lengths)
            try:
                yield Block.decode(file.read(header), file.read(value))
            except BlockError as error:
                raise BlockError(error.what, where=str(path), do=AGAIN) from None
