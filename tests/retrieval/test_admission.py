"""What a server does with more than it can answer: early refusals, and no answer to a question that is over."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from forebay.retrieval.admission import Admission, AdmissionOptions, Lane, Refusal, Turn
from forebay.retrieval.messages import MSGPACK, ErrorBody, Readiness
from forebay.retrieval.server import create_app, serving

from .wire import BODY, answer, connect, ended, error, post, send, whole

WORK_S = 0.00025
KIND = ("/v1/rank", 10)
HEALTH = b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n"


@dataclass
class World:
    """A lane by a clock that only moves here. `work_s` of seconds for each turn."""

    options: AdmissionOptions = field(default_factory=AdmissionOptions)
    work_s: float = WORK_S
    now: float = 100.0
    served: list[tuple[float, float]] = field(default_factory=list)  # came, answered
    refused: Counter[Refusal] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.lane = Lane(1, self.options, {}, lambda: self.now)
        self._ends: list[tuple[float, int, Callable[[Any], None]]] = []
        self._turns = 0

    def _task(self) -> Any:
        world = self

        class Task:
            def add_done_callback(self, then: Callable[[Any], None]) -> None:
                world._turns += 1
                heapq.heappush(world._ends, (world.now + world.work_s, world._turns, then))

        return Task()

    def ask(self, at: float, left_s: float = float("inf")) -> None:
        """One request at a time that is not before the last one's."""
        self.run(at)
        refusal = self.lane.refuses(KIND, at, left_s)
        if refusal is not None:
            self.refused[refusal] += 1
            return

        def start() -> Any:
            self.served.append((at, self.now + self.work_s))
            return self._task()

        self.lane.put(Turn(KIND, start, lambda: True, at))

    def run(self, until: float) -> None:
        """End what ends until then."""
        while self._ends and self._ends[0][0] <= until:
            self.now, _, then = heapq.heappop(self._ends)
            then(None)
        self.now = max(self.now, until)

    def load(self, of_capacity: float, seconds: float, left_s: float = float("inf")) -> None:
        """Requests at random times, by a seed."""
        chance, end = random.Random(7), self.now + seconds
        at = self.now
        while (at := at + chance.expovariate(of_capacity / self.work_s)) < end:
            self.ask(at, left_s)
        self.run(end + 10)

    def in_time(self, deadline_s: float) -> float:
        """Answers in time as a share of the turns that there were seconds for, by the time of the last one."""
        span = max(end for _, end in self.served) - min(came for came, _ in self.served)
        return sum(end - came <= deadline_s for came, end in self.served) * self.work_s / span


def test_at_three_times_the_load_nearly_all_of_the_capacity_is_answered_in_time() -> None:
    """With a deadline of 50 ms, told or not; without a bound on the wait none would be."""
    for left_s in (0.05, float("inf")):
        world = World()
        world.load(3.0, 5.0, left_s)
        assert world.in_time(0.05) > 0.9
        assert world.refused[Refusal.OVERLOADED] > 9_000
    hopeless = World(AdmissionOptions(short=1 << 30, queue=1 << 30))
    hopeless.load(3.0, 5.0)
    assert hopeless.in_time(0.05) < 0.1


def test_a_load_that_fits_is_hardly_refused() -> None:
    """At 93 % of what can be done queues come and go: a bound of 5 ms at any time would refuse one in ten."""
    world = World()
    world.load(0.93, 20.0)
    assert sum(world.refused.values()) < 0.02 * len(world.served)


def test_a_burst_is_served_whole_and_a_queue_that_stays_is_not() -> None:
    """Eighty at once find an idle server; once there was a queue for a tenth of a second, waits are short."""
    world = World()
    for _ in range(80):
        world.ask(100.0)
    world.run(101.0)
    assert len(world.served) == 80 and not world.refused
    world.load(3.0, 1.0)
    waits = [end - came for came, end in world.served if came > 101.3]
    assert waits and max(waits) < 0.005 + 3 * WORK_S


def test_what_cannot_be_answered_in_time_is_not_begun() -> None:
    """Behind twenty others a request that has 5 ms left is refused, and one with 100 ms is not."""
    world = World()
    for n in range(50):
        world.ask(100.0 + n * 0.01)  # the lane learns how long one takes
    for _ in range(20):
        world.ask(101.0)
    world.ask(101.0, left_s=0.005)
    assert world.refused == {Refusal.OVERLOADED: 1}
    world.ask(101.0, left_s=0.1)
    world.ask(101.0, left_s=0.0)
    assert world.refused == {Refusal.OVERLOADED: 1, Refusal.DEADLINE: 1}


def test_one_slow_turn_does_not_close_the_door() -> None:
    """A pause of a second is no reason to refuse the next thousand: without a queue one is always taken."""
    world = World()
    world.ask(100.0, left_s=0.05)
    world.work_s = 1.0
    world.ask(101.0, left_s=0.05)
    world.work_s = WORK_S
    for n in range(20):
        world.ask(103.0 + n * 0.01, left_s=0.05)
    assert not world.refused and len(world.served) == 22


@dataclass
class Uneven(World):
    """One turn in `every`, by a seed, has a pause of `pause_s` in it: what else runs on the machine had its core."""

    every: int = 10
    pause_s: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._chance, self._plain_s = random.Random(3), self.work_s

    def _task(self) -> Any:
        self.work_s = self._plain_s + (self.pause_s if self._chance.randrange(self.every) == 0 else 0.0)
        return super()._task()

    def late(self, of_capacity: float, left_s: float) -> float:
        """The share of the answers that came too late, of a load that goes on for 20 s."""
        mean_s = self.work_s = self._plain_s + self.pause_s / self.every
        self.load(of_capacity, 20.0, left_s)
        self.work_s = mean_s  # for `in_time`
        return sum(end - came > left_s for came, end in self.served) / len(self.served)


@pytest.mark.parametrize(
    ("work_s", "every", "pause_s", "most"),
    [(0.001, 5, 0.01, 0.05), (0.001, 10, 0.01, 0.05), (0.002, 10, 0.02, 0.2)],
)
def test_pauses_that_come_again_and_again_are_in_the_waits_that_are_foreseen(
    work_s: float, every: int, pause_s: float, most: float
) -> None:
    """A machine with other work takes the core away for longer than a lookup takes. By the times of requests alone a
    queue would be taken for half as long as it is: of answers under a deadline of 50 ms up to 37 in 100 came late."""
    world = Uneven(work_s=work_s, every=every, pause_s=pause_s)
    assert world.late(3.0, 0.05) < most
    assert world.in_time(0.05) > 0.8 and world.refused[Refusal.OVERLOADED] > len(world.served)


def test_a_machine_that_is_free_again_has_its_queue_again() -> None:
    """What was learned in the time of pauses is forgotten within a second."""
    world = Uneven(work_s=0.001)
    world.late(3.0, 0.05)
    world.every = 1 << 30
    world.served.clear()
    world.run(200.0)
    world.load(3.0, 3.0, 0.02)
    waits = [end - came for came, end in world.served if came > 201.0]
    assert sorted(waits)[len(waits) // 2] > 0.008  # half of the deadline, less what is still before them


def test_the_queue_has_a_length() -> None:
    """Whatever little its requests take."""
    world = World(AdmissionOptions(queue=10), work_s=1e-6)
    for _ in range(20):
        world.ask(100.0)
    assert world.refused == {Refusal.OVERLOADED: 9}


def test_a_few_who_have_time_are_not_refused_for_being_slow() -> None:
    """Eight callers, each of whom waits for its answer, of lookups that take 50 ms: a queue that stays, and harms none.
    One that has no time for it is told so."""
    world = World(work_s=0.05)
    for n in range(100):
        world.ask(100.0 + n * 0.05)
        if n == 0:
            for _ in range(7):
                world.ask(100.0)
    assert not world.refused
    world.ask(105.0, left_s=0.4)
    assert world.refused == {Refusal.OVERLOADED: 1}


def test_who_left_the_queue_is_passed_over() -> None:
    """Nobody reads that answer."""
    world = World()
    began: list[int] = []

    def turn(n: int, wanted: bool) -> Turn:
        def start() -> Any:
            began.append(n)
            return world._task()

        return Turn(KIND, start, lambda: wanted, world.now)

    for n, wanted in enumerate([True, False, False, True]):
        world.lane.put(turn(n, wanted))
    world.run(101.0)
    assert began == [0, 3]


class Slow:
    """An engine's `rank` that blocks the loop until it is let go; counts what is begun."""

    def __init__(self, engine: Any) -> None:
        self._rank, self.let_go, self.begun, self.entered = engine.rank, threading.Event(), 0, threading.Event()
        self.let_go.set()
        engine.rank = self

    def __call__(self, request: Any, *more: Any) -> Any:
        self.begun += 1
        self.entered.set()
        assert self.let_go.wait(20)
        return self._rank(request, *more)


@pytest.fixture
def served(node: Any) -> Iterator[tuple[str, Slow]]:
    with serving(create_app(node.engine, lambda: Readiness(True))) as url:
        yield url, Slow(node.engine)


def test_time_in_the_servers_socket_is_charged(served: tuple[str, Slow]) -> None:
    """Requests that came while the loop was at work, and were over before it looked, are not begun and not answered
    with 200."""
    url, slow = served
    with ExitStack() as stack:
        first, *others = [stack.enter_context(connect(url)) for _ in range(6)]
        for connection in (first, *others):
            send(connection, post())
            assert answer(connection)[0] == 200
        begun = slow.begun
        slow.let_go.clear()
        slow.entered.clear()
        send(first, post())
        assert slow.entered.wait(20)
        for connection in others:
            send(connection, post(headers="forebay-deadline-ms: 200\r\n"))
        time.sleep(0.3)
        slow.let_go.set()
        assert answer(first)[0] == 200
        assert [error(connection) for connection in others] == [(504, "deadline_exceeded")] * 5
        assert slow.begun == begun + 1
        send(others[0], post(headers="forebay-deadline-ms: 20000\r\n"))  # the connection goes on
        assert answer(others[0])[0] == 200


def test_work_that_took_too_long_is_no_answer(served: tuple[str, Slow]) -> None:
    """The deadline was over when the work was done: 504, and never a late 200."""
    url, slow = served
    with connect(url) as connection:
        slow.let_go.clear()
        send(connection, post(headers="forebay-deadline-ms: 5000\r\n"))
        slow.let_go.set()
        assert answer(connection)[0] == 200
        slow.let_go.clear()
        slow.entered.clear()
        send(connection, post(headers="forebay-deadline-ms: 100\r\n"))
        if slow.entered.wait(1):  # it may be over before: then there is nothing to wait for
            time.sleep(0.15)
        slow.let_go.set()
        assert error(connection) == (504, "deadline_exceeded")


def test_a_refusal_is_typed_and_the_connection_goes_on(node: Any) -> None:
    """429 with `retry-after`, in the form that was asked for; health is not refused."""
    options = AdmissionOptions(queue=1)
    with serving(create_app(node.engine, lambda: Readiness(True), admission=options)) as url, ExitStack() as stack:
        slow = Slow(node.engine)
        first, closing, *others = [stack.enter_context(connect(url)) for _ in range(6)]
        for connection in (first, closing, *others):  # all are read in one round, then
            send(connection, HEALTH)
            assert answer(connection)[0] == 200
        slow.let_go.clear()
        send(first, post())
        assert slow.entered.wait(20)
        send(closing, post(headers="connection: close\r\n") * 2)
        for connection in others:
            send(connection, post(headers="accept: application/msgpack\r\n"), HEALTH)
        time.sleep(0.2)
        slow.let_go.set()
        assert answer(first)[0] == 200
        told = [whole(connection) for connection in others]  # one of all is taken: there is no queue before it
        refused = [data for status, data in told if status == 429]
        assert len(refused) >= 3 and {status for status, _ in told} <= {200, 429}
        for data in refused:
            head, _, body = data.partition(b"\r\n\r\n")
            assert b"retry-after: 1" in head and MSGPACK.encode() in head and b"connection" not in head
            assert msgspec.msgpack.decode(body, type=ErrorBody).error == "overloaded"
        assert {answer(connection)[0] for connection in others} == {200}
        status, headers, _ = answer(closing)
        assert status == (429 if len(refused) == 3 else 200) and headers["connection"] == "close" and ended(closing)
        send(others[0], post(BODY))
        assert answer(others[0])[0] == 200


def test_a_search_does_not_stand_in_the_way_of_a_lookup(node: Any) -> None:
    """It has a lane of its own: while threads search, the loop ranks."""
    with serving(create_app(node.engine, lambda: Readiness(True))) as url, ExitStack() as stack:
        go, search = threading.Event(), node.engine.retrieve
        node.engine.retrieve = lambda *asked: search(*asked) if go.wait(20) else None
        searching = [stack.enter_context(connect(url)) for _ in range(4)]
        for connection in searching:
            send(connection, post(b'{"user":"u"}', path="/v1/retrieve"))
        with connect(url) as connection:
            send(connection, post())
            assert answer(connection)[0] == 200
        go.set()
        assert [answer(connection)[0] for connection in searching] == [200] * 4


def test_what_is_read_is_charged_from_the_round_before_it() -> None:
    """While a lookup is at work nobody looks at the connections: what is read after it may have come at its start."""

    class Loop:
        def __init__(self) -> None:
            self.soon: list[Callable[[], None]] = []

        def call_soon(self, then: Callable[[], None]) -> None:
            self.soon.append(then)

    loop: Any = Loop()
    admission = Admission(AdmissionOptions(), frozenset({"/v1/rank"}), frozenset())
    before = time.perf_counter()
    idle = admission.arrived(loop)
    assert before <= idle <= time.perf_counter()
    assert admission.arrived(loop) == idle  # of one round
    admission.turn()
    admission.lookups.running = 1
    loop.soon.pop()()
    time.sleep(0.01)
    assert admission.arrived(loop) == idle
    loop.soon.pop()()
    time.sleep(0.01)
    assert idle < admission.arrived(loop) < time.perf_counter() - 0.01
