"""What a lookup says and what it is told: structs, as JSON or msgpack on the wire.

Times are milliseconds since 1970 (UTC). Unknown fields are ignored and missing ones take their default, so that clients
and servers upgrade in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from forebay import clock

State: TypeAlias = Literal["fresh", "late", "expired", "missing"]
JSON, MSGPACK = "application/json", "application/msgpack"


class RankRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Order `candidates` for `user` and return the best `k`. `generation` None: the one that is served.

    Out of the answer are candidates that do not meet the condition `filter`, those in `deny`, those that are not in
    `allow` where there is one, and with `exclude_seen` those that the user did something with last. `boost` has
    conditions, each with what is added to the score of an item that meets it. A candidate that is not known has no
    attributes.
    """

    user: str
    candidates: list[str]
    k: int = 50
    generation: str | None = None
    explain: bool = False
    filter: str = ""
    boost: dict[str, float] = {}
    exclude_seen: bool = False
    deny: list[str] = []
    allow: list[str] | None = None


class RetrieveRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The best `k` of all items for `user`, without those in `deny`; the rest as in RankRequest."""

    user: str
    k: int = 50
    deny: list[str] = []
    generation: str | None = None
    explain: bool = False
    filter: str = ""
    boost: dict[str, float] = {}
    exclude_seen: bool = False
    allow: list[str] | None = None


class ExplainRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why `items` score as they do for `user`, best first: the answer is that of `rank`, each hit with its `shares`."""

    user: str
    items: list[str]
    generation: str | None = None


class BatchRequest(msgspec.Struct, frozen=True):
    """Several of `rank` in one body. They have one deadline, and the time of all of them."""

    requests: list[RankRequest]


class Hit(msgspec.Struct, frozen=True, gc=False):
    """One item. Not `known`: no vector of it is here, and it was scored with the learned default vectors.

    `shares` (only when asked to explain): what each user segment adds to the score, and under `boost` what the request
    does, where it has boosts; they sum to the score less the bias.
    """

    item: str
    score: float
    known: bool
    shares: dict[str, float] | None = None


class SegmentFreshness(msgspec.Struct, frozen=True, gc=False):
    """How current a segment is. `as_of`: what was appended to the log up to then is in it. `last_event`: the event time
    of the newest event in it; None if there is none.

    State, by the age of `as_of`: `fresh`, `late` (past the segment's bound), `expired` (past its end: the default
    vector was used instead), `missing` (nothing was known: the default vector was used).
    """

    as_of: int | None
    last_event: int | None
    state: State

    def age_ms(self, now_ms: int | None = None) -> int | None:
        """Milliseconds from `as_of` to now by this machine's clock; None without an `as_of`."""
        now = clock.now_ms() if now_ms is None else now_ms
        return None if self.as_of is None else now - self.as_of


class RankResponse(msgspec.Struct, frozen=True):
    """`hits`, best first; equal scores keep the order of the candidates. Fewer than `k` when there are no more.

    `segments` are the user's. `item_segments` tell the weakest link among the returned items: for each item segment
    the oldest `as_of` and the oldest `last_event` of those that are known (None when none is) and the worst state of
    all of them, an unknown item counting as `missing`.
    """

    hits: list[Hit]
    generation: str
    bundle: str
    user_known: bool
    segments: dict[str, SegmentFreshness]
    item_segments: dict[str, SegmentFreshness]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


class BatchEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one request of a batch: an answer or an error."""

    answer: RankResponse | None = None
    error: ErrorBody | None = None


class BatchResponse(msgspec.Struct, frozen=True):
    """An entry for each request, in their order."""

    entries: list[BatchEntry]


class SegmentEntry(msgspec.Struct, frozen=True):
    """One segment of an entity: how current it is and, when asked for, the stored vector: int8 `codes` times `scale`.

    The codes are the bytes that the encoder wrote, also when the segment is expired and lookups do not use them.
    """

    freshness: SegmentFreshness
    codes: bytes | None = None
    scale: float | None = None


class EntityResponse(msgspec.Struct, frozen=True):
    """What is stored of one entity. Not `known`: no row here, and `segments` is empty."""

    side: str
    id: str
    known: bool
    generation: str
    bundle: str
    partition: int | None
    segments: dict[str, SegmentEntry]


class Readiness(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether lookups should come here; `reason` says why not. `lag_ms` is the replica's distance to the log's end.
    `answers`: lookups that come all the same are answered from what is there, which says how old it is. `shard`: which
    users are here, like `2/8`, by the murmur2 partition of their ids among `user_partitions` (0: all users are)."""

    ready: bool
    reason: str = ""
    lag_ms: int | None = None
    answers: bool = False
    shard: str = "1/1"
    user_partitions: int = 0


class ErrorBody(msgspec.Struct, frozen=True):
    """Why there is no answer. `error` is one of the codes below, `do` the remedy.

    bad_request 400 · unauthorized 401 · not_found 404 · generation_unavailable 404 · too_slow 408 · too_large 413, of
    headers 431 · overloaded 429, of connections and bodies 503 · internal 500 · not_ready 503 · deadline_exceeded 504
    · wrong_shard 421, a WrongShardBody
    """

    error: str
    message: str
    do: str = ""


class WrongShardBody(ErrorBody, frozen=True):
    """The user is on another server: that of `shard`, counted from 1."""

    shard: int = 0
