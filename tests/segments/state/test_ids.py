"""A batch of ids is one buffer: the same strings, hashes and parts as a list of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forebay.segments.state.ids import Ids, hash_id, hash_ids

hash_ids(["compiled", "before the clock of a test runs"])
NAMES = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=20)


@given(NAMES, st.data())
def test_a_buffer_of_ids_is_a_list_of_strings(names: list[str], data: st.DataObject) -> None:
    """Empty ones and those of several bytes a character included, whole and in part, in any order."""
    ids = Ids.of(names)
    assert len(ids) == len(names)
    assert ids.to_strings() == names and ids.to_bytes() == [n.encode() for n in names]
    assert ids.hashes.tolist() == hash_ids(names).tolist() == [hash_id(n) for n in names]
    assert Ids.of_bytes(ids.to_bytes()).hashes.tolist() == ids.hashes.tolist()
    places = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=9)) if names else []
    part = ids.take(np.array(places, np.intp))
    assert part.to_strings() == [names[p] for p in places]
    assert part.take(slice(1, None)).to_strings() == [names[p] for p in places[1:]]
