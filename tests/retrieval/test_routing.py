"""Users shared out among servers: each has its own, says so to whoever asks it for another's, and has all items."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from forebay.errors import ConfigError, ServerUnavailable, WrongShard
from forebay.retrieval.client import Client
from forebay.retrieval.messages import Readiness
from forebay.retrieval.routing import ShardedClient, Shards, server_for
from forebay.retrieval.server import create_app, serving
from forebay.segments.spec import SIDES
from forebay.shard import Shard, partition_of
from forebay.store.servingcopy import ServingCopy

from .conftest import NOW, Node

OF, PARTITIONS = 3, 7
USERS = [f"u{n}" for n in range(60)]
ITEMS = [f"i{n}" for n in range(10)]


@pytest.fixture
def urls() -> Iterator[list[str]]:
    """Three servers, each with the users of its partitions."""
    with ExitStack() as stack:
        found = []
        for number in range(1, OF + 1):
            node = Node()
            node.copy = ServingCopy(
                node.model, "g1", node.codecs, dict.fromkeys(SIDES, PARTITIONS), None, Shard(number, OF)
            )
            node.engine = type(node.engine)(node.model, node.copy, clock=lambda: NOW / 1000)
            for user in USERS:
                if partition_of(user, PARTITIONS) % OF == number - 1:
                    node.put("user", [user], partition=partition_of(user, PARTITIONS))
            node.put("item", ITEMS)
            found.append(stack.enter_context(serving(create_app(node.engine, lambda: Readiness(True)))))
        yield found


def test_a_client_of_shards_finds_every_user(urls: list[str]) -> None:
    with ShardedClient(urls, timeout_s=10) as client:
        for user in USERS:
            top = client.rank(user, ITEMS, 3)
            assert top.user_known and len(top) == 3 and all(hit.known for hit in top)
            assert client.entity("user", user).known and client.retrieve(user, 2).user_known
        assert client.entity("item", "i3").known
    shards = Shards(tuple(urls), PARTITIONS)
    assert {server_for(user, shards) for user in USERS} == set(urls)


def test_a_wrong_shard_says_which_one_is_right(urls: list[str]) -> None:
    """By status, error code and number, in `rank`, `retrieve`, `entities`, and in a batch beside what is its own."""
    user = next(user for user in USERS if partition_of(user, PARTITIONS) % OF == 1)
    mine = next(user for user in USERS if partition_of(user, PARTITIONS) % OF == 0)
    with Client(urls[0], timeout_s=10) as client:
        for call in (lambda: client.rank(user, ITEMS), lambda: client.retrieve(user)):
            with pytest.raises(WrongShard, match=r"the user is of shard 2/3, and this is 1/3 .*Ask shard 2/3") as told:
                call()
            assert told.value.shard == 2
        with pytest.raises(WrongShard):
            client.entity("user", user)
        state = client.ready()
        assert (state.shard, state.user_partitions) == ("1/3", PARTITIONS)
    body = json.dumps({"requests": [{"user": user, "candidates": ITEMS}, {"user": mine, "candidates": ITEMS}]})
    request = urllib.request.Request(f"{urls[0]}/v1/batch", body.encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        first, second = json.load(answer)["entries"]
    assert first["error"]["error"] == "wrong_shard" and first["error"]["shard"] == 2 and second["answer"]["user_known"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{urls[0]}/v1/entities/user/{user}")
    with refused.value as answer:
        assert answer.code == 421 and json.load(answer)["shard"] == 2


def test_a_client_that_has_them_in_another_order_asks_again_once(urls: list[str]) -> None:
    """A server is believed; where the address of the shard that it names is another one's, that is told."""
    twice = [urls[1], urls[1], urls[2]]  # the first shard's address is wrong
    second = next(user for user in USERS if partition_of(user, PARTITIONS) % OF == 1)
    first = next(user for user in USERS if partition_of(user, PARTITIONS) % OF == 0)
    with ShardedClient(twice, timeout_s=10) as client:
        assert client.rank(second, ITEMS, 1).user_known
        with pytest.raises(WrongShard) as told:
            client.rank(first, ITEMS, 1)
        assert told.value.shard == 1
    with ShardedClient(urls, timeout_s=10) as client:
        client.rank(first, ITEMS, 1)
        client._shards = Shards(client.urls, PARTITIONS + 1)  # as if the count was another one
        assert all(client.rank(user, ITEMS, 1).user_known for user in USERS)


def test_a_client_of_another_number_of_shards_is_refused(urls: list[str]) -> None:
    with (
        ShardedClient(urls[:2], timeout_s=10) as client,
        pytest.raises(ConfigError, match="shard 1/3, and 2 addresses"),
    ):
        client.rank("u1", ITEMS)
    with pytest.raises(ConfigError):
        ShardedClient([])


def test_one_shard_that_is_down_takes_only_its_users_along(urls: list[str]) -> None:
    with ShardedClient(["http://127.0.0.1:9", *urls[1:]], timeout_s=10) as client:
        for user in USERS:
            if partition_of(user, PARTITIONS) % OF == 0:
                with pytest.raises(ServerUnavailable):
                    client.rank(user, ITEMS)
            else:
                assert client.rank(user, ITEMS).user_known
