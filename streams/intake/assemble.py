"""Fields as a Block: texts are gathered into Arrow's buffers, and each attribute becomes a column."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa

from forebay.arrays import Bytes, Ints, Places
from forebay.errors import UsageError
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import MAX_ATTRIBUTES, TEXTS, Attribute, schema_of
from forebay.segments.state.hashing import hashes_of
from forebay.streams.intake.fields import KINDS, SCOPES, Fields, Owned, gathered


def assemble(
    fields: Fields, rows: Places | Ints, appends: Ints, offsets: Ints, sources: Ints, names: tuple[str, ...]
) -> Block:
    """A block of the events at `rows`, in that order; `appends` (ms), `offsets` and `sources` (numbers of `names`) are
    int64 of all n.

    Raises UsageError where they have more than 256 attributes together: cut the batch.
    """
    columns = [
        pa.array(fields.kind[rows].astype(np.uint8)),
        pa.array(fields.time[rows]),
        pa.array(appends[rows]),
        pa.array(offsets[rows]),
        pa.array(sources[rows].astype(np.uint16)),
        pa.array(fields.value[rows]),
        *(_strings(fields.data, fields.texts[rows, place]) for place in range(len(TEXTS))),
    ]
    place_of = np.full(len(fields), -1, np.int64)
    place_of[rows] = np.arange(len(rows))
    found = _attributes(fields.data, fields.owned, place_of, len(rows))
    attributes = tuple(sorted(found))
    columns += [found[attribute] for attribute in attributes]
    return Block(pa.record_batch(columns, schema=schema_of(attributes)), names, attributes)


def _attributes(data: Bytes, owned: Owned, place_of: Ints, count: int) -> dict[Attribute, pa.Array]:
    """A column of `count` rows for each attribute that the chosen events have; `place_of` tells an event's place among
    them, -1 for one that is not chosen."""
    places = place_of[owned.row]
    kept = np.flatnonzero(places >= 0)
    if not len(kept):
        return {}
    tags = hashes_of(data, owned.name[kept, 0], owned.name[kept, 1]) * 9 + owned.scope[kept] * 3 + owned.kind[kept]
    order = np.lexsort((places[kept], tags))
    kept, tags = kept[order], tags[order]
    edges = [0, *(np.flatnonzero(tags[1:] != tags[:-1]) + 1).tolist(), len(tags)]
    if len(edges) - 1 > MAX_ATTRIBUTES:
        raise UsageError(f"{len(edges) - 1} attributes in one block", do=f"Use blocks of at most {MAX_ATTRIBUTES}")
    found: dict[Attribute, pa.Array] = {}
    for start, end in pairwise(edges):
        at = kept[start:end]
        first = at[0]
        name = data[owned.name[first, 0] : owned.name[first, 1]].tobytes().decode()
        attribute = Attribute(SCOPES[owned.scope[first]], name, KINDS[owned.kind[first]])
        found[attribute] = _column(data, owned, at, places[at], count, attribute)
    return found


def _column(data: Bytes, owned: Owned, at: Ints, places: Ints, count: int, attribute: Attribute) -> pa.Array:
    absent = np.ones(count, np.bool_)
    absent[places] = False
    if attribute.kind == "number":
        numbers = np.zeros(count, np.float64)
        numbers[places] = owned.number[at]
        return pa.array(numbers, mask=absent)
    spans = np.zeros((count, 2), np.int64)
    spans[places] = owned.text[at]
    valid = pa.py_buffer(np.packbits(~absent, bitorder="little").tobytes())
    if attribute.kind == "text":
        return _strings(data, spans, valid, int(absent.sum()))
    lengths = spans[:, 1] - spans[:, 0]
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    members = np.repeat(spans[:, 0] - bounds[:-1], lengths) + np.arange(bounds[-1])
    texts = _strings(data, owned.members[members])
    buffers = [valid, pa.py_buffer(bounds.astype(np.int32))]
    return pa.Array.from_buffers(pa.list_(pa.string()), count, buffers, int(absent.sum()), children=[texts])


def _strings(data: Bytes, spans: Ints, valid: pa.Buffer | None = None, nulls: int = 0) -> pa.Array:
    letters, bounds = gathered(data, spans)
    buffers = [valid, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(letters)]
    return pa.Array.from_buffers(pa.string(), len(spans), buffers, nulls)
