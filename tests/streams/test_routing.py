"""Routing: the partition of a key is the one that Kafka's own clients take."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forebay.streams.connection import kafka_python
from forebay.streams.routing import partitions_of


def _reference(key: bytes, partitions: int) -> int:
    kafka_python()
    from kafka.partitioner.default import murmur2

    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 1000))
def test_routing_equals_kafka_pythons_murmur2(keys: list[bytes], partitions: int) -> None:
    """For any bytes of any length, empty ones too, in one call."""
    assert partitions_of(keys, partitions).tolist() == [_reference(key, partitions) for key in keys]


def test_long_keys_and_every_length_of_tail_agree() -> None:
    """Ids up to the longest allowed, with bytes above 127."""
    pick = random.Random(3)
    keys = [pick.randbytes(length) for length in range(257)]
    assert partitions_of(keys, 7).tolist() == [_reference(key, 7) for key in keys]


def test_keys_of_javas_own_tests_hash_to_javas_values() -> None:
    """The published values of Kafka's UtilsTest.testMurmur2, modulo a prime that keeps 31 bits apart."""
    expected = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    prime = (1 << 31) - 1
    found = partitions_of(list(expected), prime)
    assert found.tolist() == [(value & 0x7FFFFFFF) % prime for value in expected.values()]


def test_no_keys_give_no_partitions() -> None:
    """An empty batch is a batch."""
    assert partitions_of([], 4).dtype == np.int64 and len(partitions_of([], 4)) == 0
