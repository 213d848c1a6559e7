"""What a member does in the moments of a rebalance that no test of a running broker can be made to hit: aiokafka's own
coordinator, with the answers of a broker that are written here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState

from forebay.streams.transports.faust.consumer import StageConsumer
from forebay.streams.transports.faust.member import Member
from forebay.streams.transports.faust.shares import Place, Shares, _assignment, shares
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.source import Source

SIX = range(6)


def _places(*numbers: int) -> list[Place]:
    return [("t", n) for n in numbers]


class Answers:
    """A member "A" of a topic "t", its coordinator, and a broker's answers: `plan` are what it is given in one round
    after the other, and `meanwhile` runs once while the broker holds back an answer to its join."""

    def __init__(self, *, partitions: Sequence[int], silent_ms: int = 300_000, by_itself: bool = False) -> None:
        self.member = Member([Source("t", n, "") for n in partitions], "broker", "user")
        self.state = SubscriptionState()
        self.plan: list[list[Place]] = []
        self.sent: list[str] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(partitions), add_listener=lambda heard: None)
        client = SimpleNamespace(
            cluster=cluster, set_topics=lambda topics: None, api_version=(2, 3), _maybe_wait_metadata=_nothing
        )
        self.coordinator = GroupCoordinator(
            client, self.state, group_id="g", assignors=[Shares(self.member.still)], enable_auto_commit=False,
            rebalance_timeout_ms=60_000, session_timeout_ms=6000, heartbeat_interval_ms=10, retry_backoff_ms=10,
            max_poll_interval_ms=silent_ms,
        )  # fmt: skip
        self.coordinator._send_req = self._answer
        self.coordinator.start_commit_offsets_refresh_task = lambda assignment: None
        self.coordinator.coordinator_id = 0
        self.coordinator._coordinator_dead_fut = asyncio.get_running_loop().create_future()
        if not by_itself:
            self.coordinator._coordination_task.cancel()
            self.coordinator._start_heartbeat_task = lambda: None
        self.member.begin(
            SimpleNamespace(
                _coordinator=self.coordinator,
                subscribe=lambda topics, listener: self.state.subscribe(set(topics), listener=listener),
                assignment=self.state.assigned_partitions, seek=_ignore, pause=_ignore, resume=_ignore,
            )
        )  # fmt: skip

    async def round(self, given: list[Place]) -> None:
        """One rebalance, at whose end A is given `given`."""
        self.plan.append(given)
        subscription = self.state.subscription
        await self.coordinator.ensure_active_group(subscription, subscription.assignment)

    async def close(self) -> None:
        self.coordinator._coordination_task.cancel()
        await self.coordinator._stop_heartbeat_task()

    @property
    def joins_again(self) -> bool:
        return bool(self.coordinator.need_rejoin(self.state.subscription))

    async def _answer(self, request: Any) -> Any:
        name = type(request).__name__
        self.sent.append(name)
        if name.startswith("JoinGroup"):
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                await meanwhile()
            return SimpleNamespace(
                error_code=0, member_id="A", generation_id=len(self.sent), group_protocol="forebay-1", leader_id="L"
            )
        if name.startswith("SyncGroup"):
            return SimpleNamespace(error_code=0, member_assignment=_assignment(self.plan.pop(0)).encode())
        return SimpleNamespace(error_code=0)


async def _nothing(*_: object) -> None:
    await asyncio.sleep(0)


def _ignore(*_: object) -> None:
    """Where it reads is not looked at."""


def test_what_is_let_go_of_while_the_group_joins_is_told_in_a_round_of_its_own() -> None:
    """A says with its join that it has 2 still, and its worker lets go of it before the others have joined: the group
    gives 2 to nobody. Without another round it would be nobody's for good."""

    async def story() -> None:
        at = Answers(partitions=SIX)
        everything = set(_places(*SIX))
        await at.round(_places(0, 1, 2))
        given = shares(everything, {"A": at.member.still(), "B": _places(3, 4, 5), "C": []})
        await at.round(given["A"])
        assert [news.partitions for news in at.member.news if news.kind == "revoked"] == [(2,)]
        assert not at.joins_again  # the worker has not let go yet
        # B lets go of what it was to give, and joins again; A follows, with 2 in what it says.
        given = shares(everything, {"A": at.member.still(), "B": _places(3, 4), "C": []})
        at.meanwhile = lambda: at.member.let_go((2,))
        await at.round(given["A"])
        assert everything - {place for found in given.values() for place in found} == {("t", 2)}
        assert at.joins_again
        given = shares(everything, {"A": at.member.still(), "B": given["B"], "C": given["C"]})
        await at.round(given["A"])
        assert {place for found in given.values() for place in found} == everything
        assert not at.joins_again
        await at.close()

    asyncio.run(story())


def test_what_is_let_go_of_and_given_back_at_once_needs_no_further_round() -> None:
    """The others left meanwhile: 2 comes back to A, which opens it anew."""

    async def story() -> None:
        at = Answers(partitions=SIX)
        await at.round(_places(0, 1, 2))
        await at.round(_places(0, 1))
        at.meanwhile = lambda: at.member.let_go((2,))
        at.member.news.clear()
        await at.round(_places(0, 1, 2))
        assert [(news.kind, news.partitions) for news in at.member.news] == [("assigned", (2,))]
        assert not at.joins_again
        await at.close()

    asyncio.run(story())


def test_a_silent_fold_of_an_hour_does_not_end_a_membership(tmp_path: Path) -> None:
    """Nobody asks for records meanwhile. aiokafka would leave the group, and wait to be asked before it joins again;
    the member asks when it has joined: each would wait for the other."""

    async def story() -> None:
        app = faust.App("fold", broker="kafka://127.0.0.1:1", datadir=str(tmp_path), web_enabled=False)
        stage = StageConsumer(app, Member([Source("t", 0, "")], "broker", "user"), "g", "c", WorkerOptions())
        carried = stage._thread._create_consumer(asyncio.get_running_loop())
        await carried.stop()
        stage.thread_loop.close()  # its thread has never run
        at = Answers(partitions=[0], silent_ms=carried._max_poll_interval_ms, by_itself=True)
        at.plan.append(_places(0))
        await _until(lambda: at.member._has == {0})
        joined = at.coordinator.generation
        at.state._last_fetch_ended = time.monotonic() - 3600
        heard = len(at.sent)
        await _until(lambda: len(at.sent) >= heard + 5)
        assert {name.partition("Request")[0] for name in at.sent[heard:]} == {"Heartbeat"}
        assert at.coordinator.generation == joined > 0 and not at.joins_again
        await at.close()

    asyncio.run(story())


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)
