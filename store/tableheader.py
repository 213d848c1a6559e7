"""The first words of a shared table's file: whose rows these are, how they lie, and what changes while it is read.

    0 magic | 1 version | 2 schema | 3 boot | 4 table | 5 origin | 6 width | 7 partitions | 8 bytes of the text
    9 capacity | 10 live | 11 top | 12 epoch of the index | 13 retired | 14 bytes of names | 15 standing
    16 mark of the store | 17 text: generation, bundle and side, for messages | 79 changes of serving columns
    80 watermarks, one a partition                                                                          u8 each

Up to 8 they are written before the file gets its name. The others have one writer and are read at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_64_intdigest

from forebay.shard import ALL, Shard
from forebay.store.reserved import Words
from forebay.store.rowlayout import RowLayout

MAGIC = int.from_bytes(b"FBTABLE1", "little")
VERSION = 2
CAPACITY, LIVE, TOP, EPOCH, RETIRED, NAMED, STANDING, STORED = 9, 10, 11, 12, 13, 14, 15, 16
_SCHEMA, _BOOT, TABLE, _ORIGIN, _WIDTH, _PARTITIONS, _TEXT_BYTES = 2, 3, 4, 5, 6, 7, 8
_TEXT, SERVED, MARKS = 17, 79, 80
_PAGE_WORDS = 512
_MOST_TEXT = (SERVED - _TEXT) * 8


@dataclass(frozen=True)
class Identity:
    """Whose rows a table holds."""

    generation: str
    bundle_hash: str
    layout: RowLayout
    partitions: int
    shard: Shard = ALL

    def __str__(self) -> str:
        share = f" of shard {self.shard}" if self.shard.of > 1 else ""
        return f"{self.layout.codec.side} rows{share} of generation {self.generation}, bundle {self.bundle_hash[:12]}"

    @property
    def schema(self) -> int:
        """A 64-bit hash of all that must be equal for one process to understand what another one writes."""
        codec = self.layout.codec
        parts = [self.generation, self.bundle_hash, codec.side, str(self.partitions), str(self.layout.half_width)]
        parts += [f"{s.name}:{s.dim}:{s.encoder}" for s in codec.segments]
        parts += [str(self.shard)] if self.shard.of > 1 else []
        parts += [f"served:{codec.served.tag}"] if codec.served else []
        parts += [f"int8 halves:{self.layout.half_parts}"] if self.layout.half_parts else []
        return int(xxh3_64_intdigest("\n".join(parts).encode()))

    @property
    def origin_words(self) -> int:
        """Words before the first row: whole pages."""
        return -(-(MARKS + self.partitions) // _PAGE_WORDS) * _PAGE_WORDS

    def written(self, table: int, boot: int) -> Words:
        """The words uint64 [origin] of an empty table."""
        words = np.zeros(self.origin_words, np.uint64)
        text = str(self).encode()[:_MOST_TEXT]
        words[:9] = (
            MAGIC, VERSION, self.schema, boot, table, self.origin_words, self.layout.dtype.itemsize // 8,
            self.partitions, len(text),
        )  # fmt: skip
        words[_TEXT:MARKS].view(np.uint8)[: len(text)] = np.frombuffer(text, np.uint8)
        return words

    def mismatch(self, words: Words, boot: int) -> str:
        """Why a file that begins with `words` is no table of these rows, written since the machine started; "" if it
        is one."""
        if len(words) <= _TEXT_BYTES or int(words[0]) != MAGIC:
            return "this is no table"
        if int(words[1]) != VERSION:
            return f"a table of version {int(words[1])}, and this is {VERSION}"
        if int(words[_SCHEMA]) != self.schema:
            said = bytes(words[_TEXT:MARKS].view(np.uint8)[: int(words[_TEXT_BYTES])]).decode(errors="replace")
            return f"it holds {said}, and not {self}"
        if int(words[_BOOT]) != boot:
            return "the machine was started since it was written"
        return ""


def boot_id() -> int:
    """Another number after each start of the machine: memory that was not written back is gone then, row by row."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return int(xxh3_64_intdigest(file.read().strip()))
