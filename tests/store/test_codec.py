"""The record of an entity: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.errors import GenerationMismatch, StoreCorrupt
from forebay.segments.spec import FeatureSpec
from forebay.segments.spec.attribute import AttributeSpec
from forebay.store.codec import (
    HEARTBEAT_KEY,
    RowCodec,
    Rows,
    ServedColumns,
    SlotSpec,
    pack_heartbeat,
    unpack_heartbeat,
)

IDS = st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=IDS, seed=st.integers(0, 1000))
def test_what_is_packed_is_unpacked(codec: RowCodec, filled: Callable[..., Rows], ids: list[str], seed: int) -> None:
    """Every field and every id comes back, bit for bit."""
    rows = filled(len(ids), seed)
    back, names = codec.unpack(codec.pack(rows, ids))
    assert names == ids
    assert back.tobytes() == rows.tobytes()


def test_the_record_is_what_the_docstring_says(codec: RowCodec) -> None:
    """The bytes of one record are spelled out, so that no numpy version can change the format unnoticed."""
    rows = codec.empty(1)
    first, second = rows["segments"]["content"], rows["segments"]["stats"]
    first["as_of"], first["last_event"], first["scale"], first["flags"] = 1, 2, 0.5, 3
    first["vector"], second["vector"] = -1, 2
    expected = (
        b"\x01\x02\x02\x00"
        + (2**64 - 3).to_bytes(8, "little")
        + (1).to_bytes(8, "little")
        + (2).to_bytes(8, "little")
        + b"\x00\x00\x00\x3f"
        + b"\x03\x00\x00\x00"
        + b"\xff" * 8
        + (7).to_bytes(8, "little")
        + bytes(24)
        + b"\x02" * 4
        + "é".encode()
    )
    assert codec.pack(rows, ["é"]) == [expected]


def test_unpacked_rows_can_be_changed(codec: RowCodec, filled: Callable[..., Rows]) -> None:
    """Readers change flags in place: the rows are a copy, not a view of immutable bytes."""
    rows, _ = codec.unpack(codec.pack(filled(2), ["a", "b"]))
    rows["segments"]["stats"]["flags"] = 1
    assert codec.column(rows, "flags")[:, 1].tolist() == [1, 1]


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 12, 40, 79, 80])
def test_a_record_that_is_cut_short_is_corrupt(codec: RowCodec, filled: Callable[..., Rows], keep: int) -> None:
    """Wherever a record ends early, its id included, the batch is refused."""
    good, bad = codec.pack(filled(2), ["good", "four"])
    assert len(bad) == codec.dtype.itemsize + 4 > keep
    with pytest.raises(StoreCorrupt):
        codec.unpack([good, bad[:keep]])
    with pytest.raises(StoreCorrupt):
        codec.unpack([good, bad[:-1]])


def test_a_record_of_another_version_is_corrupt(codec: RowCodec, filled: Callable[..., Rows]) -> None:
    """A format that this code does not know is not guessed at."""
    (value,) = codec.pack(filled(1), ["a"])
    with pytest.raises(StoreCorrupt, match="version 03"):
        codec.unpack([b"\x03" + value[1:]])


@pytest.mark.parametrize(
    "segments",
    [
        (SlotSpec("content", 8, 2**64 - 3),),
        (SlotSpec("content", 8, 2**64 - 3), SlotSpec("stats", 4, 8)),
        (SlotSpec("content", 16, 99), SlotSpec("stats", 4, 7)),
        (SlotSpec("stats", 4, 7), SlotSpec("content", 8, 2**64 - 3)),
        (SlotSpec("content", 8, 2**64 - 3), SlotSpec("stats", 4, 7), SlotSpec("more", 4, 1)),
    ],
    ids=["fewer segments", "another encoder", "another width", "another order", "more segments"],
)
def test_rows_of_another_generation_never_mix(
    codec: RowCodec, filled: Callable[..., Rows], segments: tuple[SlotSpec, ...]
) -> None:
    """Law 4: a record whose encoders are not this generation's raises, even in a batch of good ones."""
    other = RowCodec("item", segments)
    (stray,) = other.pack(other.empty(1), ["stray"])
    (good,) = codec.pack(filled(1), ["good"])
    with pytest.raises(GenerationMismatch):
        codec.unpack([good, stray])


def test_a_scale_that_is_not_finite_is_corrupt(codec: RowCodec, filled: Callable[..., Rows]) -> None:
    """One such scale would make every score of its entity not a number."""
    rows = filled(2)
    rows["segments"]["stats"]["scale"][1] = np.nan
    with pytest.raises(StoreCorrupt):
        codec.unpack(codec.pack(rows, ["a", "b"]))


def test_an_empty_batch_is_no_special_case(codec: RowCodec) -> None:
    """A poll may bring heartbeats only."""
    rows, ids = codec.unpack(codec.pack(codec.empty(0), []))
    assert len(rows) == 0 and ids == []


def test_a_heartbeat_says_how_far_a_partition_is() -> None:
    """Nine bytes, versioned, under a key that no entity can have."""
    assert unpack_heartbeat(pack_heartbeat(1_790_000_000_123)) == 1_790_000_000_123
    assert len(pack_heartbeat(1)) == 9 and not HEARTBEAT_KEY.decode().isprintable()
    for damaged in (b"", b"\x01", b"\x02" + bytes(8), bytes(10)):
        with pytest.raises(StoreCorrupt):
            unpack_heartbeat(damaged)


def test_records_with_serving_columns_are_of_a_version_of_their_own(
    codec: RowCodec, filled: Callable[..., Rows]
) -> None:
    """They come back as they were, and without any a record has the bytes that it had before there were some."""
    year = AttributeSpec("year", "number")
    served = replace(codec, served=ServedColumns(FeatureSpec("latest", of=("year",)), (year,)))
    rows = served.empty(2)
    rows["segments"] = filled(2)["segments"]
    rows["served"]["columns"] = [[3981], [0]]
    values = served.pack(rows, ["a", "b"])
    assert [value[0] for value in values] == [2, 2] and len(values[0]) == codec.dtype.itemsize + 8 + 8 + 1
    again, names = served.unpack(values)
    assert names == ["a", "b"] and served.columns(again).tolist() == [[3981], [0]]
    plain = codec.pack(filled(1), ["a"])
    assert plain[0][0] == 1 and codec.columns(codec.unpack(plain)[0]).shape == (1, 0)


def test_serving_columns_of_two_generations_never_meet(codec: RowCodec, filled: Callable[..., Rows]) -> None:
    """Law 4: none where there should be some, some where there should be none, and others."""
    feature, year = FeatureSpec("latest", of=("year",)), AttributeSpec("year", "number")
    with_year = replace(codec, served=ServedColumns(feature, (year,)))
    with_genre = replace(codec, served=ServedColumns(feature, (AttributeSpec("genre", "category", ("war",)),)))
    for writer in (codec, with_year, with_genre):
        (value,) = writer.pack(writer.empty(1), ["a"])
        for reader in (codec, with_year, with_genre):
            if reader is not writer:
                with pytest.raises(GenerationMismatch, match="serving columns"):
                    reader.unpack([value])
