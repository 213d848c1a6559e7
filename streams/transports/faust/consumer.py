"""faust's Kafka consumer for one stage: its thread, its connection and the app's settings, in a group of the stage's.

It is beside the app's own consumer and not that one. The app's reads uncommitted records, would skip what has left the
log, hands records to one stream after the other, and its group is the app's: none of it would do for a clean log. This
one takes part in nothing of the app's streams: no acknowledgement, no commit, no seek, no table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiokafka
from faust.transport.drivers.aiokafka import (
    AIOKafkaConsumerThread,
    Consumer,
    credentials_to_aiokafka_auth,
    server_list,
)

from forebay.streams.transports.faust.hooks import held
from forebay.streams.transports.faust.member import Member
from forebay.streams.transports.faust.shares import Shares
from forebay.streams.worker.options import WorkerOptions

MOST_FETCH = 1 << 20  # bytes of one partition that wait to be taken, and no less than one record
MOST_FETCHED = 8 << 20  # bytes of one answer of a broker
# As good as without end (25 days). aiokafka leaves the group when it is not asked for records for so long, and joins
# again when it is asked: the member does not ask before it has joined. Nothing else hangs on it: heartbeats come from
# the consumer's own thread, a rebalance has a bound of its own, and a worker that stands still is ended by its watchdog
# (streams/worker/watchdog.py).
MOST_SILENT_MS = 2**31 - 1


class StageThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread, which the consumer's loop runs in."""

    consumer: StageConsumer

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> aiokafka.AIOKafkaConsumer:
        """faust's hook. What is said of the app's connection is as faust says it to its own consumer."""
        conf, stage = self.app.conf, self.consumer
        return aiokafka.AIOKafkaConsumer(
            client_id=stage.client,
            group_id=stage.group,
            bootstrap_servers=server_list(self.transport.url, self.transport.default_port),
            partition_assignment_strategy=[Shares(stage.member.still)],
            enable_auto_commit=False,  # offsets are committed by transactions alone
            auto_offset_reset="none",  # never skip silently
            isolation_level="read_committed",
            max_poll_interval_ms=MOST_SILENT_MS,
            max_partition_fetch_bytes=MOST_FETCH,
            fetch_max_bytes=MOST_FETCHED,
            fetch_max_wait_ms=100,
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=stage.options.session_timeout_ms,
            heartbeat_interval_ms=min(3000, stage.options.session_timeout_ms // 5),
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    @property
    def carried(self) -> aiokafka.AIOKafkaConsumer:
        """aiokafka's consumer. Raises ConsumerNotStarted."""
        return self._ensure_consumer()


class StageConsumer(Consumer):  # type: ignore[misc]
    """A service of the app: it is started and stopped with it."""

    _thread: StageThread

    def __init__(self, app: Any, member: Member, group: str, client: str, options: WorkerOptions) -> None:
        """To be made on the app's loop. Raises HookMissing. `client` is the member's name in its group."""
        self.member, self.group, self.client, self.options = member, group, client, options
        super().__init__(app.transport, _nothing, _nothing, _nothing, loop=app.loop, beacon=app.beacon)
        held(self._thread, "thread_loop")

    def _new_consumer_thread(self) -> StageThread:
        return StageThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def thread_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that all of the member runs on."""
        return self._thread.thread_loop

    @property
    def carried(self) -> aiokafka.AIOKafkaConsumer:
        """aiokafka's consumer. Raises ConsumerNotStarted."""
        return self._thread.carried

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Nothing is faust's to commit here: not by its timer, nor when it stops."""
        return False

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        return False

    async def verify_all_partitions_active(self) -> None:
        """faust's own watch over streams: there are none. Ours is streams/worker/watchdog.py."""


async def _nothing(*_: Any) -> None:
    """For what faust calls with messages and partitions: both go to the member."""
