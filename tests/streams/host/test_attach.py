"""Stages in a team's own app, on a real broker: beside its agents, seen in its web, and ended with it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest

from forebay import attach
from forebay.config import Settings
from forebay.errors import BrokerUnavailable, ConfigError, TopicMissing, UsageError
from forebay.events import Behaviour
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.host.connection import cluster_of_app, conf_of
from forebay.streams.host.stages import Carried, Stages
from forebay.streams.host.view import page
from forebay.streams.topics import Topics, ensure
from forebay.streams.transports.faust.consumer import StageConsumer
from forebay.streams.transports.faust.member import Member
from forebay.streams.transports.librdkafka.groups import members
from forebay.streams.transports.librdkafka.start import side_worker
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.source import Source
from forebay.telemetry import add_hook

from ..faustapp import RunningApp

PARTITIONS = 2
WITHIN_S = 60.0


@pytest.fixture(autouse=True)
def own_loop() -> Iterator[None]:
    """An app that is only made asks for this thread's loop, and would make one that nobody closes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def settings(kafka: DevKafka, topics: Topics, tmp_path: Path) -> Settings:
    """Of this test's topics, which exist."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    return Settings(bootstrap=kafka.bootstrap, topic_prefix=topics.prefix, data_dir=tmp_path)


@contextmanager
def hooked(hook: Callable[[str, Any], None]) -> Iterator[None]:
    off = add_hook(hook)
    try:
        yield
    finally:
        off()


def own_agent(host: RunningApp, topic: str, does: Callable[[bytes], None]) -> None:
    """An agent of the team's own."""

    @host.app.agent(host.app.topic(topic, key_type=bytes, value_type=bytes, value_serializer="raw"))
    async def own(stream: Any) -> None:
        async for value in stream:
            does(value)


@pytest.fixture
def own_topic(kafka: DevKafka, topics: Topics) -> str:
    name = f"{topics.prefix}own"
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}})
        admin.wait_for_topics([name])
    return name


@pytest.mark.broker
def test_an_agent_and_the_stages_do_not_wait_for_one_another(
    kafka: DevKafka, topics: Topics, settings: Settings, own_topic: str, tmp_path: Path, make_history: Any,
    publish: Callable[..., None], clean: Callable[..., Any], lag: Callable[..., int], wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """In the middle of a batch the worker waits until the agent has had an event, and the agent then holds up the app's
    loop until the worker has committed a batch: on one loop neither would ever go on. All events are there once."""
    had, committed, said = threading.Event(), threading.Event(), list[bytes]()
    told: dict[str, list[bool]] = {"agent": [], "stage": []}

    def hook(name: str, details: Any) -> None:
        if name != "step" or details["stage"] != "intake" or not details["events"]:
            return
        if details["number"] == 2 and not told["stage"]:
            publish(own_topic, [(b"k", b"in a batch")])
            told["stage"].append(had.wait(WITHIN_S))
        if details["number"] == 4:
            committed.set()

    def agent(value: bytes) -> None:
        said.append(value)
        if value == b"in a batch":
            had.set()
            told["agent"].append(committed.wait(WITHIN_S))

    history: History = make_history(400, until_ms=time.time_ns() // 1_000_000)
    publish(topics.behaviour, history.behaviours)
    host = RunningApp(kafka.bootstrap, tmp_path, name=f"{topics.prefix}shop", streams=True)
    own_agent(host, own_topic, agent)
    stages = attach(host.app, settings, only="intake")
    with hooked(hook), host:
        wait_for(lambda: lag(topics.behaviour, topics.intake_group, PARTITIONS) == 0 or stages.error, "the events")
        publish(own_topic, [(b"k", b"after it")])
        wait_for(lambda: b"after it" in said, "the agent's second event")
    assert told == {"agent": [True], "stage": [True]} and stages.error is None
    counted = Counter((e.user, e.item, e.id) for e in clean(topics, "user") if isinstance(e, Behaviour))
    assert counted == Counter((b.user, b.item, b.id) for b in history.behaviours)


@pytest.mark.broker
def test_the_loop_turns_while_a_backlog_is_folded(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path, make_history: Any, feed: Callable[..., None],
    stored: Callable[..., Any], lag: Callable[..., int], wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Counted in turns: the app's loop has turned during every batch, whatever a batch is busy with. What is folded is
    what was sent, and who stops leaves nothing behind: all is written, and the group is empty."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    history: History = make_history(3000, until_ms=time.time_ns() // 1_000_000)
    feed(topics, "user", history.behaviours, PARTITIONS, 50)
    turns, at_steps = [0], list[int]()

    def hook(name: str, details: Any) -> None:
        if name == "step" and details["number"] in (2, 4) and details["events"]:
            at_steps.append(turns[0])

    async def turn() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    def make(carried: Carried) -> list[Worker]:
        processor = Processor(bundle, "user", topics, "g1", PARTITIONS, tmp_path / "state")
        return [side_worker(processor, kafka.bootstrap, options, carry=carried)]

    options = WorkerOptions(batch_records=4, heartbeat_interval_s=0.2, session_timeout_ms=3000)
    host = RunningApp(kafka.bootstrap, tmp_path)
    stages = Stages(host.app, make, "the user side", options)
    host.app.add_dependency(stages)
    with hooked(hook), host:
        turning = asyncio.run_coroutine_threadsafe(turn(), host.loop)
        group = topics.group("g1", "user")
        wait_for(lambda: lag(topics.events("user"), group, PARTITIONS) == 0 or stages.error, "the events")
        turning.cancel()
    assert len(at_steps) > 10 and len(set(at_steps)) > len(at_steps) // 2
    assert members(kafka.bootstrap, group) == []
    states = stored(bundle, tmp_path / "state", "user")
    folded = {user: int.from_bytes(state[8:16], "little") for user, (state, _) in states.items()}
    assert folded == Counter(b.user for b in history.behaviours)


@pytest.mark.broker
def test_the_web_of_the_app_says_how_the_stages_are(
    kafka: DevKafka, topics: Topics, settings: Settings, tmp_path: Path, make_history: Any,
    publish: Callable[..., None], wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """JSON for programs, a page for browsers, and a probe; each partition with its lag. The app's own group is told of
    nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def get(path: str, accept: str = "*/*") -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def partitions() -> list[dict[str, Any]]:
        return json.loads(get("/forebay")[1])["stages"][0]["partitions"]

    publish(topics.behaviour, make_history(50, until_ms=time.time_ns() // 1_000_000).behaviours)
    host = RunningApp(kafka.bootstrap, tmp_path, web_enabled=True, web_host="127.0.0.1", web_port=port)
    stages = attach(host.app, settings, only="intake", slot="7")
    assert stages.status()["waits"] == "the stages are being loaded"
    with host:
        wait_for(lambda: get("/forebay/ready")[0] == 200 or stages.error, "readiness")
        assert json.loads(get("/forebay/ready")[1]) == {"ready": True, "reason": ""}
        wait_for(lambda: sum(p["committed"] for p in partitions()) >= 50, "the events")
        found = json.loads(get("/forebay")[1])
        assert found["what"] == "the intake, slot 7" and found["stages"][0]["group"] == topics.intake_group
        named = {p["partition"] for p in found["stages"][0]["partitions"]}
        assert {f"{topics.behaviour}[{n}]" for n in range(PARTITIONS)} < named
        wait_for(lambda: all(p["lag"] == 0 for p in partitions()), "no lag")
        status, shown = get("/forebay", accept="text/html,*/*")
        assert status == 200 and shown.startswith("<!doctype html>") and f"{topics.behaviour}[0]" in shown
        stages.workers[0]._absence.failed(TopicMissing("away"))
        assert get("/forebay/ready")[0] == 503


@pytest.mark.broker
def test_what_ends_a_stage_ends_the_app_by_name(
    kafka: DevKafka, topics: Topics, tmp_path: Path, wait_for: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is there to read: the app is told so, as soon as it has started, and in a line."""
    host = RunningApp(kafka.bootstrap, tmp_path)
    stages = attach(host.app, Settings(bootstrap=kafka.bootstrap, topic_prefix=topics.prefix), only="intake")
    with host:
        wait_for(lambda: host.app.crashed, "the crash")
    assert isinstance(stages.error, TopicMissing) and host.app.crash_reason is stages.error
    assert any(record.getMessage().startswith("TopicMissing: ") for record in caplog.records)
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # faust's thread raises, too
def test_an_app_whose_broker_is_away_ends_by_name(
    tmp_path: Path, wait_for: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """In a line that says where it looked and what to do; mode's traceback would hide it."""
    nobody = "127.0.0.1:1"
    host = RunningApp(nobody, tmp_path)
    member = Member([Source("t", 0, "")], nobody, "user")
    transport = SimpleNamespace(
        where=nobody, carrier=lambda: StageConsumer(host.app, member, "g", "c", WorkerOptions())
    )
    carried = Carried(host.app)
    carried.transports.append(transport)  # type: ignore[arg-type]
    stages = Stages(host.app, lambda _: [], "the user side", carried=carried)
    host.app.add_dependency(stages)
    with host:
        wait_for(lambda: host.app.crashed and stages.error, "the crash")
    assert isinstance(stages.error, BrokerUnavailable) and stages.error.where == nobody and stages.error.do
    said = [record.getMessage() for record in caplog.records if record.name == "forebay.host"]
    assert [line for line in said if line.startswith(f"BrokerUnavailable: {stages.error}")]


def test_who_watches_the_workers_looks_whatever_the_app_s_loop_does(
    tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    """What says that the watch goes on is to say so when it does: a loop that an agent holds up is another matter."""
    looks: list[str] = []
    host = RunningApp("127.0.0.1:1", tmp_path)
    stages = Stages(host.app, lambda _: [], "nothing", look=lambda: looks.append(threading.current_thread().name))
    host.app.add_dependency(stages)
    held, gate = threading.Event(), threading.Event()
    with host:
        wait_for(lambda: bool(looks), "a look")
        host.loop.call_soon_threadsafe(lambda: (held.set(), gate.wait(WITHIN_S)))
        assert held.wait(WITHIN_S)
        before = len(looks)
        wait_for(lambda: len(looks) > before + 3, "looks while the loop stands")
        gate.set()
    assert set(looks) == {"forebay"}


@pytest.mark.broker
def test_what_befalls_a_group_is_told_to_hooks(
    kafka: DevKafka, topics: Topics, settings: Settings, own_topic: str, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    """Rebalances, of the stages by their name and of the app's own streams as the app's."""
    told: list[tuple[str, float]] = []
    host = RunningApp(kafka.bootstrap, tmp_path, name=f"{topics.prefix}shop", streams=True)
    own_agent(host, own_topic, lambda value: None)
    attach(host.app, settings, only="intake")

    def hook(name: str, details: Any) -> None:
        if name == "rebalanced":
            told.append((details["stage"], details["seconds"]))

    with hooked(hook), host:
        wait_for(lambda: {"app", "intake"} <= {stage for stage, _ in told}, "the rebalances")
    assert all(seconds >= 0 for _, seconds in told)


class TestWhereTheAppConnects:
    def test_an_address_and_a_password_are_the_app_s(self) -> None:
        """In the words of the other clients; what they say again is what the app was told."""
        credentials = faust.SASLCredentials(username="ada", password="secret", mechanism="SCRAM-SHA-256")
        app = faust.App("a", broker="kafka://one:9092;kafka://two", broker_credentials=credentials)
        found = cluster_of_app(app, Settings())
        assert found.bootstrap == "one:9092,two:9092" and found.protocol == "SASL_PLAINTEXT"
        assert (found.user, found.password.reveal(), found.mechanism) == ("ada", "secret", "SCRAM-SHA-256")
        assert "secret" not in repr(found)
        again = conf_of(found)
        assert again["broker"] == "kafka://one:9092;kafka://two:9092"
        assert cluster_of_app(faust.App("b", **again), Settings()) == found

    def test_certificates_are_those_of_the_settings(self, tmp_path: Path) -> None:
        """A context does not say which files it was made of."""
        import ssl

        ca = tmp_path / "ca.pem"
        ca.write_text("")
        given = faust.SSLCredentials(ssl.create_default_context())
        app = faust.App("a", broker="kafka://one", broker_credentials=given)
        found = cluster_of_app(app, Settings(kafka_ca=ca))
        assert (found.protocol, found.ca, found.bootstrap) == ("SSL", ca, "one:9092")

    def test_what_cannot_be_passed_on_is_refused_by_name(self) -> None:
        """Another driver, and credentials that only a callback knows."""
        with pytest.raises(ConfigError, match="kafka://"):
            cluster_of_app(faust.App("a", broker="confluent://one"), Settings())
        app = faust.App("b", broker="kafka://one", broker_credentials=faust.GSSAPICredentials())
        with pytest.raises(ConfigError, match="GSSAPICredentials are not known"):
            cluster_of_app(app, Settings())

    def test_a_stage_that_is_none_is_refused_when_it_is_attached(self) -> None:
        """Not when the app starts."""
        with pytest.raises(UsageError, match="only"):
            attach(faust.App("a", broker="kafka://one"), Settings(), only="users")


def test_a_page_shows_names_as_they_are_written() -> None:
    """And no markup of theirs; an end that is not known yet is left out."""
    partition = {"partition": "<b>[0]", "committed": 12345, "applied": 12345, "end": None, "lag": None}
    stage = {"name": "user", "stage": "user", "group": "g", "waits": "joining", "partitions": [partition]}
    shown = page({"ready": False, "waits": "<i>", "what": "generation g1", "stages": [stage]})
    assert "&lt;b&gt;[0]" in shown and "<b>" not in shown and "&lt;i&gt;" in shown
    assert "12,345" in shown and "None" not in shown and "joining" in shown
