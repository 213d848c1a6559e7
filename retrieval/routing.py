"""Which of several servers has a user, and a client that asks that one.

client = ShardedClient(["http://shard-1:8080", "http://shard-2:8080"], timeout_s=0.05)
top = client.rank("u42", candidates=ids, k=50)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

from forebay.errors import ConfigError, DeadlineExceeded, ServerUnavailable, WrongShard
from forebay.retrieval.client import Client
from forebay.retrieval.messages import EntityResponse, RankResponse
from forebay.secret import NO_SECRET, Secret
from forebay.shard import Shard

T = TypeVar("T")


@dataclass(frozen=True)
class Shards:
    """The servers' addresses in the order of their shards, and the number of the users' partitions."""

    urls: tuple[str, ...]
    partitions: int


def server_for(user: str, shards: Shards) -> str:
    """The address of the server that has `user`."""
    return shards.urls[Shard(1, len(shards.urls)).owner(user, shards.partitions) - 1]


class ShardedClient:
    """One Client for each shard, behind the calls of one. One for all threads of a process.

    `urls` has one address for each shard, in their order: a balancer of the replicas of that shard may be behind it.
    The number of partitions is asked for with the first lookup, of whichever server answers first. A server that says
    that the user is another shard's is believed once, and the request goes there; after that it is a WrongShard. Each
    of these requests has `timeout_s`. Otherwise errors are those of Client.
    """

    def __init__(
        self,
        urls: Sequence[str],
        timeout_s: float = 1.0,
        retries: int = 0,
        *,
        connections: int = 8,
        token: Secret = NO_SECRET,
        ca: Path | None = None,
    ) -> None:
        if not urls:
            raise ConfigError("there is no address", do="Give the address of each shard's server, in their order")
        self.urls, self.timeout_s = tuple(url.rstrip("/") for url in urls), timeout_s
        self._clients = {
            url: Client(url, timeout_s, retries, connections=connections, token=token, ca=ca) for url in self.urls
        }
        self._shards: Shards | None = None

    def rank(
        self,
        user: str,
        candidates: Sequence[str],
        k: int = 50,
        *,
        filter: str = "",
        boost: Mapping[str, float] = {},
        exclude_seen: bool = False,
        deny: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        generation: str | None = None,
        explain: bool = False,
    ) -> RankResponse:
        """As Client.rank."""
        return self._asked(
            user,
            lambda c: c.rank(
                user, candidates, k, filter=filter, boost=boost, exclude_seen=exclude_seen, deny=deny, allow=allow,
                generation=generation, explain=explain,
            ),
        )  # fmt: skip

    def retrieve(
        self,
        user: str,
        k: int = 50,
        deny: Sequence[str] = (),
        *,
        filter: str = "",
        boost: Mapping[str, float] = {},
        exclude_seen: bool = False,
        allow: Sequence[str] | None = None,
        generation: str | None = None,
        explain: bool = False,
    ) -> RankResponse:
        """As Client.retrieve."""
        return self._asked(
            user,
            lambda c: c.retrieve(
                user, k, deny, filter=filter, boost=boost, exclude_seen=exclude_seen, allow=allow,
                generation=generation, explain=explain,
            ),
        )  # fmt: skip

    def entity(self, side: Literal["user", "item"], id: str, *, vectors: bool = False) -> EntityResponse:
        """As Client.entity. Every server has all items."""
        return self._asked(id, lambda c: c.entity(side, id, vectors=vectors))

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asked(self, user: str, call: Callable[[Client], T]) -> T:
        url = server_for(user, self._learned())
        try:
            return call(self._clients[url])
        except WrongShard as error:
            right = self.urls[error.shard - 1] if 0 < error.shard <= len(self.urls) else url
            if right == url:
                raise
        return call(self._clients[right])

    def _learned(self) -> Shards:
        if self._shards is not None:
            return self._shards
        problem: Exception | None = None
        for url in self.urls:
            try:
                state = self._clients[url].ready()
            except (ServerUnavailable, DeadlineExceeded) as error:
                problem = error
                continue
            if Shard.parse(state.shard).of != len(self.urls):
                raise ConfigError(
                    f"the server is shard {state.shard}, and {len(self.urls)} addresses are named",
                    where=url,
                    do="Name one address for each shard, in their order",
                )
            self._shards = Shards(self.urls, max(1, state.user_partitions))
            return self._shards
        assert problem is not None
        raise problem
