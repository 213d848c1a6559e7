"""One record per entity with every segment vector of its side: what travels on the vectors topics and rests in stores.

    u1 version (1, or 2 with serving columns) | u1 segments | u2 bytes of the id
    then for each segment: u8 encoder | i8 as_of ms | i8 last_event ms (0: never) | f4 scale | u4 flags | i1[dim] vector
    then, where the spec's [serving] asks for them: u8 hash of what they are | i8[columns]
    then the id in UTF-8                                                            (numbers in bytes, little-endian)

Each segment carries its encoder's hash, so that rows of two generations cannot meet unnoticed; the serving columns
carry one of the attributes that they are codes of. Those of an item are the codes of its attributes, as its state has
them; those of a user the hashes of the items of its last events, newest first and zeros behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from forebay.arrays import Array, Int8s, Ints
from forebay.errors import GenerationMismatch, StoreCorrupt
from forebay.segments.bundle import Bundle
from forebay.segments.spec import FeatureSpec, Side, Spec
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.itemcondition import ItemCondition

Rows = npt.NDArray[np.void]

VERSION, VERSION_SERVING = 1, 2
HELD = 1  # the partition's watermark may not carry this as_of on: an input of the segment waits to be encoded
DEFAULT = 2  # the vector is the learned default one: nothing was known when it was written

HEARTBEAT_KEY = b"\x00heartbeat"  # no entity's key: ids have no control characters
_HEARTBEAT = np.dtype([("version", "u1"), ("as_of", "<i8")])


@dataclass(frozen=True)
class SlotSpec:
    """A segment's place in the record. `encoder` is the unsigned 64-bit hash of its encoder."""

    name: str
    dim: int
    encoder: int


@dataclass(frozen=True)
class ServedColumns:
    """What a row has for requests beside vectors, read from `feature` of its state: the codes of an item's
    `attributes`, or the items that a user did something with last. An item that meets `hide` is in no answer. Without a
    feature there is nothing, and the record is one of version 1."""

    feature: FeatureSpec | None = None
    attributes: tuple[AttributeSpec, ...] = ()
    hide: ItemCondition | None = None

    @classmethod
    def of(cls, spec: Spec, side: Side) -> ServedColumns:
        """Those that `[serving]` asks for."""
        if side == "user":
            return cls(spec.served(side))
        return cls(
            spec.served(side), tuple(spec.attribute(side, name) for name in spec.serving.filter), spec.serving.hide
        )

    def __len__(self) -> int:
        """How many columns, each of 8 bytes."""
        return len(self.attributes) or self.remembers

    @property
    def remembers(self) -> int:
        """How many items of a user."""
        return self.feature.size if self.feature is not None else 0

    @cached_property
    def tag(self) -> int:
        """64 bits of a hash over what the columns mean."""
        return int(xxh3_64_intdigest(repr((self.attributes, self.remembers)).encode()))


@dataclass(frozen=True)
class RowCodec:
    """Packs and unpacks the records of one side of one generation, a batch at a time.

    Rows are numpy structured arrays of `dtype`: `rows["segments"]["recent"]["vector"]` is int8 [n, dim], and `as_of`,
    `last_event`, `scale`, `flags` and `encoder` are [n]. All of them can be assigned to. `encoder` is set by `empty`.
    `rows["served"]["columns"]` is int64 [n, columns], where there are serving columns.
    """

    side: Side
    segments: tuple[SlotSpec, ...]
    served: ServedColumns = ServedColumns()

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        fields = [(s.name, _field(s.dim)) for s in self.segments]
        served = [("tag", "<u8"), ("columns", "<i8", (len(self.served),))]
        more = [("served", np.dtype(served))] if self.served else []
        head = [("version", "u1"), ("count", "u1"), ("id_bytes", "<u2")]
        return np.dtype([*head, ("segments", np.dtype(fields)), *more])

    @property
    def version(self) -> int:
        """Of the records."""
        return VERSION_SERVING if self.served else VERSION

    @cached_property
    def bounds(self) -> Ints:
        """int64 [segments + 1]: segment s has the dimensions bounds[s] to bounds[s + 1] of a concatenated vector."""
        return np.cumsum([0, *(s.dim for s in self.segments)], dtype=np.int64)

    @property
    def dim(self) -> int:
        """Dimensions of all segments together."""
        return int(self.bounds[-1])

    def empty(self, n: int) -> Rows:
        """`n` rows of zeros with version, count and encoders filled in: the form in which writers start."""
        rows = np.zeros(n, self.dtype)
        rows["version"] = self.version
        rows["count"] = len(self.segments)
        if self.served:
            rows["served"]["tag"] = self.served.tag
        for segment in self.segments:
            rows["segments"][segment.name]["encoder"] = segment.encoder
        return rows

    def blank(self, defaults: Sequence[tuple[Int8s, np.float32]]) -> Rows:
        """One row of an entity that nothing was encoded of: each segment has its learned default vector (codes int8
        [dim], scale), and is held at no time."""
        row = self.empty(1)
        for segment, (codes, scale) in zip(self.segments, defaults, strict=True):
            part = row["segments"][segment.name]
            part["vector"], part["scale"], part["flags"] = codes, scale, HELD | DEFAULT
        return row

    def column(self, rows: Rows, field: str) -> Array:
        """A copy of one scalar field of all segments: [n, segments]."""
        segments = rows["segments"]
        return np.stack([segments[s.name][field] for s in self.segments], axis=1)

    def vectors(self, rows: Rows) -> Int8s:
        """A copy of all codes, concatenated in segment order: int8 [n, dim]."""
        segments = rows["segments"]
        return np.concatenate([segments[s.name]["vector"] for s in self.segments], axis=1)

    def columns(self, rows: Rows) -> Ints:
        """The serving columns int64 [n, columns]."""
        return rows["served"]["columns"] if self.served else np.zeros((len(rows), 0), np.int64)

    def pack(self, rows: Rows, ids: Sequence[str]) -> list[bytes]:
        """The records of `rows` (made by `empty`), `ids` in the same order. Fills in `rows["id_bytes"]`."""
        return self.pack_named(rows, [entity.encode() for entity in ids])

    def pack_named(self, rows: Rows, names: Sequence[bytes]) -> list[bytes]:
        """`pack`, of ids in UTF-8."""
        rows["id_bytes"] = np.fromiter(map(len, names), np.uint16, len(names))
        heads = np.ascontiguousarray(rows).view(f"V{self.dtype.itemsize}").tolist()
        return [head + name for head, name in zip(heads, names, strict=True)]

    def unpack(self, values: Sequence[bytes]) -> tuple[Rows, list[str]]:
        """Rows (a writable copy) and ids of `values`.

        Raises StoreCorrupt for a record that is cut short, of another version or not finite, and GenerationMismatch for
        one whose segment count, encoders or serving columns are not this codec's. All or nothing: the message names the
        record.
        """
        size = self.dtype.itemsize
        if any(len(value) <= size for value in values):
            self._explain(next(value for value in values if len(value) <= size))
        rows = np.frombuffer(bytearray().join([value[:size] for value in values]), self.dtype)
        lengths = np.fromiter(map(len, values), np.int64, len(values)) - size
        good = (rows["version"] == self.version) & (rows["count"] == len(self.segments)) & (rows["id_bytes"] == lengths)
        for segment in self.segments:
            column = rows["segments"][segment.name]
            good &= (column["encoder"] == np.uint64(segment.encoder)) & np.isfinite(column["scale"])
        if self.served:
            good &= rows["served"]["tag"] == np.uint64(self.served.tag)
        if not good.all():
            self._explain(values[int(np.argmin(good))])
        try:
            return rows, [value[size:].decode() for value in values]
        except UnicodeDecodeError as error:
            raise StoreCorrupt(f"a record's id is not UTF-8: {error}", where=f"{self.side} vectors") from None

    def _explain(self, value: bytes) -> None:
        """Raise what is wrong with `value`: the generation is judged before the length, which depends on it."""
        where = f"{self.side} vectors"
        if value and value[0] != self.version and value[0] in (VERSION, VERSION_SERVING):
            said = "a record with" if value[0] == VERSION_SERVING else "a record without"
            raise GenerationMismatch(
                f"{said} serving columns, and the generation's spec says otherwise",
                where=where,
                do="Point this reader at its own generation's topic and store",
            )
        if not value or value[0] != self.version:
            raise StoreCorrupt(
                f"record version {value[:1].hex() or 'absent'}, not {self.version}",
                where=where,
                do="Was it written by another version of Forebay? Build another generation: forebay backfill "
                "--generation NEW",
            )
        if len(value) > 1 and value[1] != len(self.segments):
            raise GenerationMismatch(
                f"a record of {value[1]} segments where the generation has {len(self.segments)}",
                where=where,
                do="Point this reader at its own generation's topic and store",
            )
        offset = 4
        for segment in self.segments:
            encoder = int.from_bytes(value[offset : offset + 8], "little")
            if len(value) >= offset + 8 and encoder != segment.encoder:
                raise GenerationMismatch(
                    f"encoder {encoder:016x} where the generation has {segment.encoder:016x}",
                    where=f"segment {self.side}.{segment.name}",
                    do="Point this reader at its own generation's topic and store",
                )
            offset += _field(segment.dim).itemsize
        if self.served and len(value) >= offset + 8:
            tag = int.from_bytes(value[offset : offset + 8], "little")
            if tag != self.served.tag:
                raise GenerationMismatch(
                    f"serving columns {tag:016x} where the generation has {self.served.tag:016x}",
                    where=where,
                    do="Point this reader at its own generation's topic and store",
                )
        raise StoreCorrupt(f"a record of {len(value)} bytes is cut short or damaged", where=where)


def codec_of(bundle: Bundle, side: Side) -> RowCodec:
    """The record format of one side of a bundle's generation."""
    slots = tuple(SlotSpec(s.name, s.dim, bundle.encoder_tag(s)) for s in bundle.spec.side(side))
    return RowCodec(side, slots, ServedColumns.of(bundle.spec, side))


def pack_heartbeat(as_of_ms: int) -> bytes:
    """The 9 bytes under HEARTBEAT_KEY: everything appended up to `as_of_ms` has been applied in this partition."""
    return np.array([(VERSION, as_of_ms)], _HEARTBEAT).tobytes()


def unpack_heartbeat(value: bytes) -> int:
    """as_of in ms. Raises StoreCorrupt for another length or version."""
    if len(value) != _HEARTBEAT.itemsize or value[0] != VERSION:
        raise StoreCorrupt(f"a heartbeat of {len(value)} bytes, version {value[:1].hex()}", where="a vectors topic")
    return int(np.frombuffer(value, _HEARTBEAT)["as_of"][0])


def _field(dim: int) -> np.dtype[np.void]:
    fields = [("encoder", "<u8"), ("as_of", "<i8"), ("last_event", "<i8"), ("scale", "<f4"), ("flags", "<u4")]
    return np.dtype([*fields, ("vector", "i1", (dim,))])
