"""Attributes of events, items and users: what a spec declares of them, and the integer that each value is kept as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

AttributeKind: TypeAlias = Literal["category", "set", "number"]

THOUSANDTHS = 1000  # values and numbers are kept as whole ones
MAX_NUMBER = 1e15  # thousandths of it, doubled, fit an int64


@dataclass(frozen=True)
class AttributeSpec:
    """One declared attribute, under `[attributes.event]`, `[attributes.item]` or `[attributes.user]`:

    position = { number = true }                  a number, kept in thousandths
    device = { category = ["phone", "desk"] }     one of the listed values; any other is unknown
    page = { category = { buckets = 64 } }        any text, hashed into so many buckets; some values share one
    genres = { set = ["war", "love"] }            some of the listed values

    `values` are the listed ones, `buckets` how many there are of a category without a list.
    """

    name: str
    kind: AttributeKind
    values: tuple[str, ...] = ()
    buckets: int = 0

    def __repr__(self) -> str:
        # Vectors are tagged by a hash over this text: a field that is not used must not change the tags of older
        # models.
        buckets = f", buckets={self.buckets}" if self.buckets else ""
        return f"AttributeSpec(name={self.name!r}, kind={self.kind!r}, values={self.values!r}{buckets})"

    @property
    def width(self) -> int:
        """How many codes there are, that of an unknown or absent value (the first) included; 1 for a number."""
        return 1 if self.kind == "number" else (self.buckets or len(self.values)) + 1


def bucket_of(value: str, buckets: int) -> int:
    """1 to `buckets`, by xxh3: the same on every machine and version. 0 is left for an absent value."""
    from xxhash import xxh3_64_intdigest  # reading a spec needs no hash: `publish` reads one without this library

    # An attribute of an item may hold any text that JSON can write, lone surrogates too.
    digest: int = xxh3_64_intdigest(value.encode("utf-8", "surrogatepass"))
    return digest % buckets + 1
