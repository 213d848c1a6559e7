"""Item halves in rows: what a kernel loads is what its twin reads, and both are close to what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebay.segments.state.ids import hash_ids
from forebay.store.codec import RowCodec, SlotSpec
from forebay.store.halfforms import halves_in
from forebay.store.rowlayout import RowLayout
from forebay.store.sharedtable import SharedTable
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import Identity
from forebay.store.tablereader import TableReader

LIMITS = TableLimits(reserve_rows=1 << 12, reserve_name_bytes=1 << 20, least_extent_bytes=4096)
CODEC = RowCodec("item", (SlotSpec("a", 9, 0), SlotSpec("b", 16, 1)))
IDS = [f"i{n}" for n in range(60)]


@pytest.mark.parametrize(
    ("parts", "off"), [((), 2.0**-11), ((0, 40), 1 / 254), ((0, 3, 17, 40), 1 / 254)], ids=["f16", "one part", "parts"]
)
def test_the_kernel_and_its_twin_read_the_same(parts: tuple[int, ...], off: float, tmp_path: Path) -> None:
    """To the bit, at widths that are no multiples of anything."""
    identity = Identity("g1", "b" * 64, RowLayout(CODEC, 40, parts), 1)
    table, halves = SharedTable(tmp_path, identity, LIMITS), np.random.default_rng(1).normal(size=(60, 40)).astype("f4")
    table.upsert(IDS, CODEC.empty(60), [0] * 60, halves)
    reader, hashes = TableReader(tmp_path, identity, LIMITS), hash_ids(IDS)
    found, twin = reader.halves(hashes)[0], halves_in(reader.read(hashes)[0], parts)
    assert np.array_equal(found, twin)
    assert np.abs(found - halves).max() <= off * np.abs(halves).max() * 1.01
    table.close()
