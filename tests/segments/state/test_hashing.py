"""The compiled hash is the library's, for every length."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from forebay.segments.state.hashing import LONGEST, hashes_of


def _hashed(texts: list[bytes]) -> list[int]:
    lengths = np.array([len(t) for t in texts], np.int64)
    ends = np.cumsum(lengths)
    return hashes_of(np.frombuffer(b"".join(texts), np.uint8), ends - lengths, ends).view(np.uint64).tolist()


def test_every_length_up_to_the_longest_and_past_it() -> None:
    """Each length takes a path of the algorithm by itself; the longer ones are the library's."""
    pick = random.Random(1)
    texts = [pick.randbytes(length) for length in range(LONGEST + 60) for _ in range(3)]
    assert _hashed(texts) == [xxh3_64_intdigest(text) for text in texts]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_texts_that_lie_side_by_side_do_not_meet(texts: list[bytes]) -> None:
    """Empty ones included."""
    assert _hashed(texts) == [xxh3_64_intdigest(text) for text in texts]
