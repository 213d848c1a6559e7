"""What store/rocks.py relies on in rocksdict, one maintainer's library: an upgrade that changes any of it fails
here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch


def _options(cache_bytes: int = 4 << 20) -> Options:
    options, blocks = Options(raw_mode=True), BlockBasedOptions()
    blocks.set_block_cache(Cache(cache_bytes))
    options.set_block_based_table_factory(blocks)
    return options


def test_an_existing_store_ignores_the_given_cache_unless_its_column_family_is_named(tmp_path: Path) -> None:
    """The trap, and the way around it."""
    Rdict(str(tmp_path), _options()).close()
    plain = Rdict(str(tmp_path), _options())
    assert plain.property_int_value("rocksdb.block-cache-capacity") != 4 << 20
    plain.close()
    options = _options()
    named = Rdict(str(tmp_path), options, column_families={"default": options})
    assert named.property_int_value("rocksdb.block-cache-capacity") == 4 << 20
    named.close()


def test_an_iterator_at_a_corrupt_block_is_invalid_and_its_status_raises(tmp_path: Path) -> None:
    """valid() alone looks like the end of the data."""
    db = Rdict(str(tmp_path), _options())
    for i in range(5000):
        db[f"{i:05d}".encode()] = os.urandom(64)
    db.flush()
    db.close()
    (table,) = tmp_path.glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    db = Rdict(str(tmp_path), _options())
    iterator, rows = db.iter(), 0
    iterator.seek_to_first()
    while iterator.valid():
        rows += 1
        iterator.next()
    assert 0 < rows < 5000
    with pytest.raises(Exception, match="Corruption"):
        iterator.status()
    del iterator
    db.close()


def test_a_batch_is_applied_in_order(tmp_path: Path) -> None:
    """A range deletion ahead of puts in one batch does not delete them."""
    db = Rdict(str(tmp_path), _options())
    db[b"d1"] = b"old"
    batch = WriteBatch(raw_mode=True)
    batch.delete_range(b"d", b"e")
    batch.put(b"d1", b"new")
    db.write(batch)
    assert db.get([b"d1", b"d2"]) == [b"new", None]
    db.close()


def test_lock_errors_keep_their_words(tmp_path: Path) -> None:
    """They are plain Exceptions: the text is all there is."""
    db = Rdict(str(tmp_path), _options())
    with pytest.raises(Exception, match="lock hold by current process"):
        Rdict(str(tmp_path), _options())
    db.close()
