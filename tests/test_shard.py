"""A user's shard is that of its partition, which is the one that every producer gives it."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import UsageError
from forebay.shard import Shard, partition_of
from forebay.streams.routing import partitions_of


@settings(deadline=None)  # the first call compiles
@given(users=st.lists(st.text(min_size=1).filter(lambda t: t.isprintable()), min_size=1), count=st.integers(1, 500))
def test_a_users_partition_is_that_of_the_intake(users: list[str], count: int) -> None:
    found = partitions_of([user.encode() for user in users], count).tolist()
    assert [partition_of(user, count) for user in users] == found


@given(of=st.integers(1, 9), more=st.integers(0, 20), user=st.text(min_size=1, max_size=9))
def test_each_partition_and_user_is_of_one_shard(of: int, more: int, user: str) -> None:
    shares = [Shard(number, of).partitions(of + more) for number in range(1, of + 1)]
    assert sorted(chain.from_iterable(shares)) == list(range(of + more))
    owner = Shard(1, of).owner(user, of + more)
    assert partition_of(user, of + more) in shares[owner - 1]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b", "-1/2", "1/99999", ""])
def test_what_is_no_shard_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="the second of eight"):
        Shard.parse(text)
    assert str(Shard.parse("2/8")) == "2/8"


def test_more_shards_than_partitions_are_refused() -> None:
    with pytest.raises(UsageError, match="4 partitions"):
        Shard(1, 5).partitions(4)
