"""What a row of a shared table looks like, in bytes.

    u8 seq | i8 hash | u4 place and u4 bytes of the id | u4 partition, u4 live | i8 served [serving columns]
    i8 as_of [segments] | i8 last_event [segments] | f4 scale [segments] | u4 flags [segments]
    f2 half [half_width] | i1 codes [dims of all segments]          up to a multiple of 64, one cache line

or, where halves are kept as int8, with a scale for each of their parts:

    f4 half_scale [parts] | i1 half [half_width] | i1 codes [dims of all segments]

What every reader wants comes first: with four serving columns or fewer, a filter reads one line of each row. The half
comes before the codes: who reads it does not need them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from forebay.store.codec import RowCodec

LINE = 64


class Layout(NamedTuple):
    """A RowLayout as kernels take it. `origin` words lie before row 0, and a row is `width` words. The others are
    offsets in a row, each in units of its own type: words (served, as_of, last_event), 4 bytes (scales, flags,
    half_scale), 2 (half, of int8 too), 1 (codes)."""

    origin: int
    width: int
    segments: int
    served: int
    columns: int
    as_of: int
    last_event: int
    scales: int
    flags: int
    half_scale: int
    half: int
    half_width: int
    codes: int
    dim: int


@dataclass(frozen=True)
class RowLayout:
    """Of one side of one generation; `half_width` numbers of the fusion for `rank` are kept with a row (0: none).

    They are int8 where `half_parts` says where the parts begin that have a scale each, and `half_width` behind them;
    else float16.
    """

    codec: RowCodec
    half_width: int = 0
    half_parts: tuple[int, ...] = ()

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """A row as a structured numpy row; its item size is a multiple of 64."""
        segments, fields = len(self.codec.segments), list[tuple[str, str, tuple[int, ...]]]()
        fields += [(name, kind, ()) for name, kind in _HEAD]
        fields += [("served", "<i8", (len(self.codec.served),))]
        fields += [("as_of", "<i8", (segments,)), ("last_event", "<i8", (segments,))]
        fields += [("scale", "<f4", (segments,)), ("flags", "<u4", (segments,))]
        fields += [("half_scale", "<f4", (max(0, len(self.half_parts) - 1),))]
        # An even number of bytes lies before the half: all that comes before it is of 4 and 8 bytes.
        fields += [("half", "i1" if self.half_parts else "<f2", (self.half_width,)), ("codes", "i1", (self.codec.dim,))]
        offsets, end = [], 0
        for _, kind, shape in fields:
            offsets.append(end)
            end += np.dtype((kind, shape)).itemsize
        formats = [(kind, shape) for _, kind, shape in fields]
        size = -(-end // LINE) * LINE
        return np.dtype({"names": [n for n, _, _ in fields], "formats": formats, "offsets": offsets, "itemsize": size})

    def at(self, origin_words: int) -> Layout:
        """For kernels, of a file whose row 0 lies behind so many words."""
        place = {name: offset for name, (_, offset, *_) in (self.dtype.fields or {}).items()}
        return Layout(
            origin=origin_words,
            width=self.dtype.itemsize // 8,
            segments=len(self.codec.segments),
            served=place["served"] // 8,
            columns=len(self.codec.served),
            as_of=place["as_of"] // 8,
            last_event=place["last_event"] // 8,
            scales=place["scale"] // 4,
            flags=place["flags"] // 4,
            half_scale=place["half_scale"] // 4,
            half=place["half"] // 2,
            half_width=self.half_width,
            codes=place["codes"],
            dim=self.codec.dim,
        )


_HEAD = (
    ("seq", "<u8"),
    ("hash", "<i8"),
    ("name_at", "<u4"),
    ("name_bytes", "<u4"),
    ("partition", "<u4"),
    ("live", "<u4"),
)
