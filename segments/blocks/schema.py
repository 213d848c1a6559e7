"""The columns of a Block: some that every block has, and one for each attribute that its events carry.

Evolution: the first kind is only ever appended to, and a reader knows how many of them a version has. What is in a
block besides is in the record's header: the version, the sources, and the attributes' names and kinds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import msgspec
import pyarrow as pa

from forebay.errors import BlockError, BlockTooNew

HEADER = "forebay.block"
VERSION = 1
BEHAVIOUR, USER_PROFILE, ITEM_UPDATE, TICK = range(4)

Scope: TypeAlias = Literal["event", "item", "user"]
Kind: TypeAlias = Literal["text", "number", "texts"]

TEXTS = ("user", "item", "action", "id")
FIXED = (
    ("kind", pa.uint8()),  # one of the four above
    ("time", pa.int64()),  # event time, ms since 1970
    ("append", pa.int64()),  # when the source's log took it, ms since 1970
    ("offset", pa.int64()),  # in its source
    ("source", pa.uint16()),  # a place in the header's `sources`
    ("value", pa.int64()),  # thousandths
    *((name, pa.string()) for name in TEXTS),  # "" where the kind has none
)
_TYPES: dict[Kind, pa.DataType] = {"text": pa.string(), "number": pa.float64(), "texts": pa.list_(pa.string())}
STRANGER = "Nobody but an Intake may write to this topic: find out who else does"
MAX_ATTRIBUTES = 256  # columns of one block: a block ends earlier where its events have more names


class Attribute(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One attribute column: whose it is (`scope`), its name, and what its values are. An event whose value is of
    another kind, or absent, has a null there."""

    scope: Scope
    name: str
    kind: Kind

    @property
    def column(self) -> str:
        """Its name in the batch."""
        return f"{self.scope}.{self.name}:{self.kind}"


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What travels beside a block. `sources` are "topic/partition"."""

    version: int
    sources: tuple[str, ...]
    attributes: tuple[Attribute, ...]


def attribute_named(column: str) -> Attribute:
    """The attribute of a column's name. Raises ValueError for what is none."""
    scope, dot, rest = column.partition(".")
    name, colon, kind = rest.rpartition(":")
    if not (dot and colon and scope in get_args(Scope) and kind in _TYPES):
        raise ValueError(f"no attribute's column: {column}")
    return Attribute(scope, name, kind)  # type: ignore[arg-type]


_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(Header)


def schema_of(attributes: tuple[Attribute, ...]) -> pa.Schema:
    """The schema of a batch with these attribute columns."""
    fields = [pa.field(name, kind, nullable=False) for name, kind in FIXED]
    return pa.schema([*fields, *(pa.field(a.column, _TYPES[a.kind]) for a in attributes)])


def pack_header(sources: tuple[str, ...], attributes: tuple[Attribute, ...]) -> bytes:
    """The header's bytes."""
    return _encoder.encode(Header(VERSION, sources, attributes))


@lru_cache(maxsize=256)  # the same producers send the same names
def unpack_header(data: bytes) -> tuple[Header, pa.Schema]:
    """The header and the schema that it stands for. Raises BlockError."""
    try:
        header = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BlockError(f"its header cannot be read: {error}", do=STRANGER) from None
    if header.version != VERSION:
        raise BlockTooNew(f"it is of version {header.version}, and {VERSION} is known here", do="Upgrade this worker")
    if len(header.attributes) > MAX_ATTRIBUTES or len(set(header.attributes)) < len(header.attributes):
        raise BlockError("its header names too many attributes, or one of them twice", do=STRANGER)
    return header, schema_of(header.attributes)
