"""Lookups inside a service, without a server: the Engine of `forebay serve`, and a replica that follows the vectors
topics on a thread.

with Embedded() as lookup:                        # settings as those of `forebay serve`
    top = lookup.rank("u42", candidates=ids, k=50)

A process that embeds it holds a generation's rows in memory and a store of its own on disk, and installs what a server
does (the extra `server`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from forebay.config import Settings, load
from forebay.errors import BadRequest, ForebayError, GenerationUnavailable, ServerUnavailable, WrongShard
from forebay.retrieval.calls import rank_request, retrieve_request
from forebay.retrieval.messages import (
    BatchEntry,
    BatchResponse,
    EntityResponse,
    ErrorBody,
    RankRequest,
    RankResponse,
    Readiness,
    WrongShardBody,
)
from forebay.served import behind, kept, opened_copy, served_model

if TYPE_CHECKING:  # what a server installs is loaded when lookups are opened
    from forebay.retrieval.engine import Engine
    from forebay.store.servingcopy import ServingCopy
    from forebay.streams.replica import Replica

log = logging.getLogger("forebay.embedded")
_LOOK_S = 0.02
_END_S = 30.0  # for the replica to come back from what it does; its own waits are shorter


class Embedded:
    """Asked like a Client, by any number of threads. One of a process for a generation: its store has one owner.

    Lookups are answered from what is there, and say how old it is, also where the log is not to be reached or the
    replica has ended; `ready` tells of both. `rank`, `explain` and `batch` take a fraction of a millisecond on the
    caller's thread, `retrieve` milliseconds: on asyncio it belongs onto a thread. They raise BadRequest,
    GenerationUnavailable, and ServerUnavailable where it is not open.
    """

    def __init__(self, settings: Settings | None = None, *, ready_s: float = 600.0, max_lag_s: float = 30.0) -> None:
        """Nothing is opened yet. `settings` None: those of forebay.toml and the environment. `ready_s` is how long
        `open` waits, `max_lag_s` how far behind the log it may be and be ready."""
        self.settings = load({})[0] if settings is None else settings
        self.ready_s, self.max_lag_s = ready_s, max_lag_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="forebay-replica", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="forebay-hot-users", daemon=True)
        self._ended: BaseException | None = None
        self._engine: Engine | None = None
        self._copy: ServingCopy | None = None
        self._replica: Replica | None = None

    def open(self) -> None:
        """Load what the store has, follow the log, and wait until its end is reached and the kernels are compiled. A
        broker that does not answer is waited for, as long as `broker_within` of the settings says.

        Raises GenerationError, BundleError, StoreError, ConfigError, BrokerError and MissingExtra; ServerUnavailable
        when the log's end is not reached in `ready_s`. Nothing is left open then.
        """
        if self._copy is not None or self._stop.is_set():
            raise ServerUnavailable("it was opened before", do="Make another Embedded")
        until = time.monotonic() + self.ready_s
        try:
            engine, replica = self._opened()
            self._replica = replica
            self._thread.start()
            self._keeper.start()
            engine.warm()
            while not replica.status().caught_up:
                if self._ended is not None:
                    raise self._ended
                if time.monotonic() >= until:
                    raise ServerUnavailable(
                        f"the vectors topics were not read to their end in {self.ready_s:.0f} s",
                        where=self.settings.bootstrap,
                        do="Allow more with ready_s, or keep the folder of vectors between starts",
                    )
                time.sleep(_LOOK_S)
            self._engine = engine
        except BaseException:
            self.close()
            raise

    def _opened(self) -> tuple[Engine, Replica]:
        try:
            import forebay.store.servingcopy  # noqa: F401 - all that a server installs, before anything is opened
            from forebay.retrieval.engine import Engine
            from forebay.streams.arrival import once_it_answers
            from forebay.streams.installation import broker_within_s, cluster_of
            from forebay.streams.replica import Replica
            from forebay.streams.topics import Topics
        except ModuleNotFoundError as error:
            from forebay.errors import MissingExtra

            if (error.name or "").startswith("forebay"):
                raise
            raise MissingExtra(error.name or "", "server") from None

        settings = self.settings
        bundle, generation = served_model(settings)
        self._copy = opened_copy(settings, bundle, generation)
        engine = Engine(bundle, self._copy)
        copy, within_s = self._copy, min(broker_within_s(settings), self.ready_s)
        replica = once_it_answers(
            lambda: Replica(cluster_of(settings), Topics(settings.topic_prefix), copy), within_s, self._stop
        )
        if replica is None:
            raise ServerUnavailable("it was closed before it was open", do="Make another Embedded")
        return engine, replica

    def _follow(self) -> None:
        assert self._replica is not None
        try:
            self._replica.run(self._stop)
        except BaseException as error:
            self._ended = error
            log.exception("the replica ended: what is served grows older from here on")

    def _keep(self) -> None:
        assert self._copy is not None
        kept(self._copy.keep, self._stop)

    def close(self) -> None:
        """End the replica and close the store. Calls after it raise ServerUnavailable. No call may be under way."""
        self._stop.set()
        self._engine = None
        for thread in (self._keeper, self._thread):
            if thread.ident is None:
                continue
            thread.join(_END_S)
            if thread.is_alive():
                log.error("%s does not come back: its store stays open until the process ends", thread.name)
                return
        if self._copy is not None:
            self._copy.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- as a Client

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
        """The best `k` of `candidates` for `user`, best first. Unknown ones take part with the default vectors. Which
        of them are let in, and what is added to whose score, is as in RankRequest."""
        request = rank_request(user, candidates, k, generation, explain, filter, boost, exclude_seen, deny, allow)
        return self._open().rank(request)

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
        """The best `k` of all items for `user`, without those in `deny`; the rest is as in `rank`."""
        request = retrieve_request(user, k, deny, generation, explain, filter, boost, exclude_seen, allow)
        return self._open().retrieve(request)

    def explain(self, user: str, items: Sequence[str], *, generation: str | None = None) -> RankResponse:
        """All `items` as `rank` orders them for `user`, each with what every segment adds to its score."""
        return self._open().rank(RankRequest(user, list(items), len(items), generation, True))

    def batch(self, requests: Sequence[RankRequest]) -> BatchResponse:
        """Several of `rank`: an answer or an error for each, in their order."""
        engine, entries = self._open(), []
        for request in requests:
            try:
                entries.append(BatchEntry(answer=engine.rank(request)))
            except WrongShard as error:
                entries.append(BatchEntry(error=WrongShardBody("wrong_shard", error.what, error.do, error.shard)))
            except (BadRequest, GenerationUnavailable) as error:
                code = "bad_request" if isinstance(error, BadRequest) else "generation_unavailable"
                entries.append(BatchEntry(error=ErrorBody(code, error.what, error.do)))
        return BatchResponse(entries)

    def entity(self, side: Literal["user", "item"], id: str, *, vectors: bool = False) -> EntityResponse:
        """What is stored of one entity: freshness of each segment and, with `vectors`, its int8 codes and scale."""
        return self._open().entity(side, id, vectors=vectors)

    def ready(self) -> Readiness:
        """Whether it is current, and why not. Lookups are answered as long as it is open."""
        if self._engine is None or self._replica is None:
            return Readiness(False, "it is not open")
        status = self._replica.status()
        if self._ended is not None:
            said = str(self._ended) if isinstance(self._ended, ForebayError) else type(self._ended).__name__
            reason = f"the replica ended: {said}"
        else:
            reason = behind(status.lag_s, self.max_lag_s)
        return Readiness(not reason, reason, round(status.lag_s * 1000), answers=bool(reason))

    def _open(self) -> Engine:
        if self._engine is None:
            raise ServerUnavailable("it is not open", do="Use it within its `with` block")
        return self._engine
