"""What both clients promise, against a real server and against servers that misbehave."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from forebay.errors import (
    BadRequest,
    ConfigError,
    DeadlineExceeded,
    ForebayError,
    GenerationUnavailable,
    Overloaded,
    ServerUnavailable,
    Unauthorized,
)
from forebay.retrieval.course import ClientOptions
from forebay.retrieval.door import Door
from forebay.retrieval.messages import ErrorBody, RankRequest, Readiness, RetrieveRequest
from forebay.retrieval.server import create_app, serving
from forebay.secret import Secret

from .callers import CALLERS, asked, nobody, peer, said
from .test_door import Authority
from .test_server import SMALL
from .wire import connect, whole

READY = b"\x81\xa5ready\xc3"
NOT_READY = msgspec.msgpack.encode(ErrorBody("not_ready", "not yet"))


@pytest.fixture(params=sorted(CALLERS))
def client(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """One of the two: called as it is constructed, and used as a context."""
    return CALLERS[request.param]


@pytest.fixture
def states() -> list[Readiness]:
    """What `ready` says: each is said once, the last one for good."""
    return [Readiness(True)]


@pytest.fixture
def url(node: Any, states: list[Readiness]) -> Iterator[str]:
    with serving(create_app(node.engine, lambda: states.pop(0) if len(states) > 1 else states[0])) as address:
        yield address


# -- answers


def test_the_client_reads_as_in_the_readme(client: Callable[..., Any], url: str, node: Any) -> None:
    """rank, iterate, freshness, retrieve with a deny list."""
    with client(url, timeout_s=10) as c:
        top = c.rank("u", candidates=["i1", "i2", "i3"], k=2)
        assert [hit.item for hit in top] == [
            hit.item for hit in node.engine.rank(RankRequest("u", ["i1", "i2", "i3"], 2))
        ]
        assert top.generation == "g1" and top.segments["recent"].state == "fresh"
        assert top.segments["recent"].as_of == node.now_ms
        similar = c.retrieve("u", k=5, deny=["i1"])
        assert similar == node.engine.retrieve(RetrieveRequest("u", 5, ["i1"]))
        assert c.rank("u", ["i1"], explain=True).hits[0].shares is not None


def test_an_explanation_has_all_items_with_their_shares(client: Callable[..., Any], url: str, node: Any) -> None:
    """In the order of `rank`."""
    items = ["i3", "i1", "i2"]
    with client(url, timeout_s=10) as c:
        assert c.explain("u", items) == node.engine.rank(RankRequest("u", items, 3, explain=True))


def test_a_batch_is_answered_one_by_one(client: Callable[..., Any], url: str, node: Any) -> None:
    """An answer or an error for each, in their order; too many are refused as a whole."""
    one, wrong, two = RankRequest("u", ["i1", "i2"], 1), RankRequest("u", ["i1"], -1), RankRequest("v", ["i3"])
    with client(url, timeout_s=10) as c:
        entries = c.batch([one, wrong, two]).entries
        assert [entry.answer for entry in entries] == [node.engine.rank(one), None, node.engine.rank(two)]
        assert entries[1].error.error == "bad_request" and "k is -1" in entries[1].error.message
        assert c.batch([]).entries == []
        with pytest.raises(BadRequest, match="at most 64"):
            c.batch([one] * 65)


def test_entities_and_readiness(client: Callable[..., Any], url: str, node: Any, states: list[Readiness]) -> None:
    """Ids with slashes, spaces and other letters arrive as they are; not ready is an answer, not an error."""
    node.put("item", ["a/b ü?#%2F"])
    with client(url, timeout_s=10) as c:
        assert c.entity("item", "a/b ü?#%2F").known
        assert c.entity("user", "u", vectors=True) == node.engine.entity("user", "u", vectors=True)
        assert c.ready() == Readiness(True)
        states[:] = [Readiness(False, "warming up")]
        assert c.ready() == Readiness(False, "warming up")


def test_large_bodies_arrive_whole(client: Callable[..., Any], url: str, node: Any) -> None:
    """More than a socket takes at once, both ways."""
    items = [f"i{n}-" + "x" * 150 for n in range(5000)]
    with client(url, timeout_s=30) as c:
        assert [hit.item for hit in c.rank("u", items, 1000)] == items[:1000]  # all unknown: the order stays


def test_one_client_serves_many_threads(client: Callable[..., Any], url: str) -> None:
    """Every caller gets its own answer."""
    with client(url, timeout_s=30) as c, ThreadPoolExecutor(8) as pool:
        items = [f"i{n % 30}" for n in range(200)]
        answers = list(pool.map(lambda item: c.rank("u", [item], 1), items))
    assert [answer.hits[0].item for answer in answers] == items


def test_an_age_is_counted_from_as_of(client: Callable[..., Any], url: str, node: Any) -> None:
    """By the given clock or this machine's."""
    with client(url, timeout_s=10) as c:
        segment = c.rank("u", ["i1"]).segments["taste"]
    assert segment.age_ms(node.now_ms + 40) == 40
    age = segment.age_ms()
    assert age is not None and abs(age - (time.time() * 1000 - node.now_ms)) < 60_000


def test_a_path_before_the_servers_own_is_kept(client: Callable[..., Any]) -> None:
    """A proxy may have it under a name."""
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        seen.append(asked(connection))
        connection.sendall(said(READY))

    with peer(answer) as address, client(address + "/lookups/", timeout_s=10) as c:
        assert c.ready().ready
    head = seen[0].split(b"\r\n")
    assert head[0] == b"GET /lookups/ready HTTP/1.1" and f"host: {address[7:]}".encode() in head


def test_no_proxy_of_the_environment_is_asked(
    client: Callable[..., Any], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is where lookups go."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, nobody())
    with client(url, timeout_s=10) as c:
        assert len(c.rank("u", ["i1"])) == 1


# -- refusals


def test_each_refusal_has_its_own_error(client: Callable[..., Any], url: str, states: list[Readiness]) -> None:
    """The server's words are in the message."""
    with client(url, timeout_s=10, retries=0) as c:
        with pytest.raises(GenerationUnavailable, match="g1 is"):
            c.rank("u", ["i1"], generation="g2")
        with pytest.raises(BadRequest, match="k is -1"):
            c.rank("u", ["i1"], k=-1)
        with pytest.raises(BadRequest, match="cannot be sent"):
            c.rank("u", ["\ud800"])
        with pytest.raises(BadRequest, match="more than"):
            c.rank("u", ["x" * 1000] * 2000)
        states[:] = [Readiness(False, "12 s behind")]
        with pytest.raises(ServerUnavailable, match="12 s behind"):
            c.rank("u", ["i1"])


def test_an_overloaded_server_is_not_asked_again(client: Callable[..., Any]) -> None:
    """Whatever `retries` says: the same load once more helps nobody. A 503 may say it, too."""
    body = msgspec.msgpack.encode(ErrorBody("overloaded", "more is asked than can be answered in time"))
    seen: list[bytes] = []

    for status in ("429 Too Many Requests", "503 Service Unavailable"):

        def busy(connection: socket.socket, status: str = status) -> None:
            while seen.append(asked(connection)) or seen[-1]:
                connection.sendall(said(body, status, "retry-after: 0"))

        with (
            peer(busy) as address,
            client(address, timeout_s=10, retries=5) as c,
            pytest.raises(Overloaded, match="more is asked"),
        ):
            c.rank("u", ["i1"])
    assert len([request for request in seen if request]) == 2


def test_a_token_goes_with_each_call(client: Callable[..., Any], node: Any, tmp_path: Path) -> None:
    """Over TLS, whose certificate is looked at: its authority and its name."""
    import hashlib

    authority, tokens = Authority(tmp_path), tmp_path / "tokens"
    tokens.write_text(hashlib.sha256(b"secret").hexdigest() + "\n")
    door = Door(authority.certificate, authority.key, tokens)
    with serving(create_app(node.engine, lambda: Readiness(True)), door=door) as url:
        with client(url, timeout_s=20, token=Secret("secret"), ca=authority.ca) as c:
            for _ in range(3):
                assert len(c.rank("u", ["i1", "i2"], 2)) == 2
            big = [f"i{n}-" + "x" * 150 for n in range(5000)]
            assert len(c.rank("u", big, 1000)) == 1000
        with client(url, timeout_s=20, token=Secret("secrets"), ca=authority.ca) as c, pytest.raises(Unauthorized):
            c.rank("u", ["i1"])
        for other, ca in (url, None), (url.replace("127.0.0.1", "localhost"), authority.ca):
            with (
                client(other, timeout_s=20, token=Secret("secret"), ca=ca) as c,
                pytest.raises(ServerUnavailable, match="certificate"),
            ):
                c.rank("u", ["i1"])


@pytest.mark.parametrize(
    "url", ["forebay:8080", "ftp://forebay", "", "http://", "http://a:b:c", "http://u:p@a", "http://a?b", [], ["", ""]]
)
def test_an_address_that_is_none_is_refused_at_once(client: Callable[..., Any], url: str) -> None:
    """Not at the first lookup."""
    with pytest.raises(ConfigError):
        client(url)


@pytest.mark.parametrize(
    "words",
    [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"retries": -1}, {"connections": 0}, {"hedge_after_s": 0.0},
     {"ca": Path("/nowhere/ca.pem")}, {"token": Secret("a\r\nx: y")}, {"token": Secret("ü")}],
)  # fmt: skip
def test_a_bound_that_is_none_is_refused_at_once(client: Callable[..., Any], words: dict[str, Any]) -> None:
    """As is a file that is not there."""
    with pytest.raises(ConfigError):
        client("http://forebay:8080", **words)


# -- time


def test_silence_and_dripping_are_both_deadline_exceeded(client: Callable[..., Any]) -> None:
    """The time is for the whole call: a server that sends a byte now and then cannot stretch it."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"
    stop = threading.Event()

    def silent(connection: socket.socket) -> None:
        stop.wait(30)

    def dripping(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        while not stop.wait(0.05):
            connection.sendall(b"x")

    for answer in (silent, dripping):
        stop.clear()
        with peer(answer) as address:
            with client(address, timeout_s=0.3) as c, pytest.raises(DeadlineExceeded, match="300 ms"):
                c.rank("u", ["i1"])
            stop.set()


def test_the_server_is_told_what_is_left_of_the_time(client: Callable[..., Any]) -> None:
    """And no more than that."""
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        seen.append(asked(connection))
        connection.sendall(said(READY))

    with peer(answer) as address, client(address, timeout_s=7) as c:
        c.ready()
    (line,) = [line for line in seen[0].split(b"\r\n") if line.startswith(b"forebay-deadline-ms: ")]
    assert 1 <= int(line.split()[1]) <= 7000


def test_a_peer_that_takes_no_bytes_does_not_hold_a_call(client: Callable[..., Any]) -> None:
    """A body of megabytes that nobody reads is given up in time, too."""
    stop = threading.Event()
    with peer(lambda connection: stop.wait(30)) as address:  # type: ignore[arg-type, return-value]
        with client(address, timeout_s=0.3) as c, pytest.raises(DeadlineExceeded):
            c.rank("u", ["x" * 1000] * 20_000)
        stop.set()


def test_a_call_waits_for_a_free_connection_within_its_time(client: Callable[..., Any]) -> None:
    """No more than `connections` are open at once, and who gets none is told so in time."""
    stop, lock, open_now, most = threading.Event(), threading.Lock(), [0], [0]

    def answer(connection: socket.socket) -> None:
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        try:
            while request := asked(connection):
                stop.wait(30 if b"/v1/entities" in request else 0.02)
                connection.sendall(said(READY))
        finally:
            with lock:
                open_now[0] -= 1

    with peer(answer) as address, ThreadPoolExecutor(8) as pool:
        with client(address, timeout_s=30, connections=2) as c:
            assert all(answer.ready for answer in pool.map(lambda _: c.ready(), range(24)))
            assert most[0] == 2  # here: the peer hears of a connection's end some time after the client
        with client(address, timeout_s=0.5, connections=1) as c:
            calls = [pool.submit(c.entity, "user", "u") for _ in range(3)]
            for call in calls:
                with pytest.raises(DeadlineExceeded):
                    call.result(30)
            stop.set()


# -- connections that break, and answers that are none


def test_nobody_there_is_server_unavailable(client: Callable[..., Any]) -> None:
    """A refused connection is told from a slow one, with what to do."""
    said = "no connection: Connection refused .*Start it with: forebay serve, or name another address"
    with client(nobody(), timeout_s=10) as c, pytest.raises(ServerUnavailable, match=said):
        c.rank("u", ["i1"])


def test_who_answers_without_tls_or_is_no_lookup_server_is_told_with_what_to_do(
    client: Callable[..., Any],
) -> None:
    """An https address of a server without TLS, and a connection that ends before an answer."""

    def hang_up(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"no TLS, and no HTTP\r\n\r\n")

    def leave(connection: socket.socket) -> None:
        connection.recv(65536)

    for answer, scheme, do in (
        (hang_up, "https:", "Does it speak TLS"),
        (leave, "http:", "Is this the address of a lookup server"),
    ):
        with (
            peer(answer) as address,
            client(address.replace("http:", scheme), timeout_s=10, retries=0) as c,
            pytest.raises(ServerUnavailable, match=do),
        ):
            c.ready()


def test_an_answer_of_something_else_is_told_with_what_to_do(client: Callable[..., Any]) -> None:
    """A proxy's page, or that of any other server."""

    def page(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\ncontent-type: text/html\r\n\r\n<p>No</p>")

    said = "status 404 from something that is not a Forebay server .*Is this the address of a lookup server"
    with peer(page) as address, client(address, timeout_s=10) as c, pytest.raises(ServerUnavailable, match=said):
        c.rank("u", ["i1"])


def test_one_text_in_place_of_a_list_is_refused(client: Callable[..., Any]) -> None:
    """Its letters would be ids that nobody meant, each of them unknown. Nothing is sent."""
    with client(nobody(), timeout_s=10) as c:
        for words in {"candidates": "i17"}, {"candidates": [], "deny": "i17"}, {"candidates": [], "allow": "i17"}:
            with pytest.raises(BadRequest, match=r"is one text, 'i17'. Give a list of ids"):
                c.rank("u", **words)
        with pytest.raises(BadRequest, match="deny is one text"):
            c.retrieve("u", deny="i17")
        with pytest.raises(BadRequest, match="items is one text"):
            c.explain("u", "i17")


def test_a_connection_that_was_closed_while_idle_costs_nothing(client: Callable[..., Any]) -> None:
    """The server hung up on a kept connection: the call is sent again on a new one, without a retry being allowed."""
    served: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        served.append(asked(connection))
        connection.sendall(said(READY))
        if len(served) == 1:
            served.append(asked(connection))  # the next call is on its way, and meets the end of the connection

    with peer(answer) as address, client(address, timeout_s=10, retries=0) as c:
        assert c.ready().ready
        assert c.ready().ready
    assert len(served) == 3 and all(served)


def test_what_nobody_asked_for_is_nobodys_answer(client: Callable[..., Any]) -> None:
    """Bytes behind an answer, with it or later, end the connection: the next call has a new one."""
    other = said(msgspec.msgpack.encode(Readiness(False, "of somebody else")))
    taken, sent = threading.Semaphore(0), threading.Semaphore(0)
    connections: list[socket.socket] = []

    for together in (True, False):

        def answer(connection: socket.socket, together: bool = together) -> None:
            connections.append(connection)
            while asked(connection):
                connection.sendall(said(READY) + (other if together else b""))
                assert taken.acquire(timeout=30)
                if not together:
                    connection.sendall(other)
                sent.release()

        connections.clear()
        with peer(answer) as address, client(address, timeout_s=10, retries=0) as c:
            for _ in range(3):
                assert c.ready() == Readiness(True)
                taken.release()
                assert sent.acquire(timeout=30)
                time.sleep(0.05)  # what was sent is there
        assert len(connections) == 3


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "half a body": said(READY)[:-3],
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n\x81\xa5rea",
    "no last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n" + READY + b"\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_half_an_answer_is_none(client: Callable[..., Any], url: str, sent: bytes) -> None:
    """By name; and where another server is there, its answer comes instead."""

    def answer(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(sent)

    with peer(answer) as address:
        with (
            client(address, timeout_s=10) as c,
            pytest.raises(ServerUnavailable, match="the connection broke: it ended"),
        ):
            c.ready()
        with client([address, url], timeout_s=10) as c:
            for _ in range(4):
                assert len(c.rank("u", ["i1", "i2"])) == 2


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "html": (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 8\r\n\r\n" + READY, "text/html"),
    "json": (b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"ready":true}', "cannot be read"),
    "a proxy's": (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>", "status 502"),
    "elsewhere": (b"HTTP/1.1 302 Found\r\nlocation: http://a/\r\ncontent-length: 0\r\n\r\n", "status 302"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
    "another answer": (said(msgspec.msgpack.encode({"ready": "yes"})), "cannot be read"),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\ncontent-length: 9\r\n\r\n" + READY, "two lengths"),
    "a length below 0": (b"HTTP/1.1 200 OK\r\ncontent-length: -8\r\n\r\n" + READY, "no number"),
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\ntransfer-encoding: chunked\r\n\r\n" + READY, "no known way",
    ),
    "a wrong chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-8\r\n" + READY, "no size"),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "told"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_answer_of_a_server_is_not_believed(client: Callable[..., Any], sent: bytes, told: str) -> None:
    """A typed error that says what came; it is not asked for again."""
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        seen.append(asked(connection))
        connection.sendall(sent)

    with (
        peer(answer) as address,
        client(address, timeout_s=10, retries=3) as c,
        pytest.raises(ServerUnavailable, match=told) as raised,
    ):
        c.ready()
    assert address in str(raised.value) and len(seen) == 1


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "by its length": (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n", b""),
    "to its end": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
    "in chunks": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "in one chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffff\r\n", b"x" * 4096),
    "in its headers": (b"HTTP/1.1 200 OK\r\n", b"x-more: " + b"x" * 4096 + b"\r\n"),
    "in a header": (b"HTTP/1.1 200 OK\r\nx-more: ", b"x" * 4096),
    "in a chunk's size": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"0" * 4096),
}


@pytest.mark.parametrize(("head", "more"), ENDLESS.values(), ids=ENDLESS)
def test_an_answer_without_end_is_refused(client: Callable[..., Any], head: bytes, more: bytes) -> None:
    """Past the bound, before the time is over and before memory is."""

    def answer(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(head)
        while more:
            connection.sendall(more)

    options = ClientOptions(answer_bytes=1 << 20)
    with (
        peer(answer) as address,
        client(address, timeout_s=30, options=options) as c,
        pytest.raises(ServerUnavailable, match=r"more than|no size"),
    ):
        c.ready()


FRAMES: dict[str, bytes] = {
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3\r\n\x81\xa5r\r\n5;x=y\r\neady\xc3\r\n0\r\nx: y\r\n\r\n",
    "to the end": b"HTTP/1.0 200 OK\r\n\r\n" + READY,
    "behind another": b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + said(READY),
    "with another case": b"HTTP/1.1 200 OK\r\nContent-Length:8\r\nContent-Type: Application/x-msgpack\r\n\r\n" + READY,
}


@pytest.mark.parametrize("sent", FRAMES.values(), ids=FRAMES)
def test_answers_are_read_as_a_proxy_may_frame_them(client: Callable[..., Any], sent: bytes) -> None:
    """Byte by byte, too, and several on one connection where it goes on."""

    def answer(connection: socket.socket) -> None:
        while asked(connection):
            for place in range(len(sent)):
                connection.sendall(sent[place : place + 1])
            if b"1.0" in sent:
                return

    with peer(answer) as address, client(address, timeout_s=20, retries=0) as c:
        for _ in range(3):
            assert c.ready() == Readiness(True)


# -- retries, several servers


def _counting(seen: list[bytes], *answers: bytes) -> Callable[[socket.socket], None]:
    """Gives these answers in turn, the last one for good, whatever the connection."""

    def answer(connection: socket.socket) -> None:
        while request := asked(connection):
            seen.append(request)
            connection.sendall(answers[min(len(seen), len(answers)) - 1])

    return answer


def test_a_503_is_asked_again_when_it_says(client: Callable[..., Any]) -> None:
    """As many times as were allowed, and no more; without a `retry-after`, or past the time, not at all."""
    no = said(NOT_READY, "503 Service Unavailable", "retry-after: 0")
    seen: list[bytes] = []
    with peer(_counting(seen, no, no, said(READY), no)) as address, client(address, timeout_s=10, retries=2) as c:
        with pytest.raises(ServerUnavailable, match="cannot be read"):  # it got to the third, which is no ranking
            c.rank("u", ["i1"])
        with pytest.raises(ServerUnavailable, match="not yet"):
            c.rank("u", ["i1"])
    assert len(seen) == 6
    for lines in ((), ("retry-after: 3600",), ("retry-after: soon",)):
        seen.clear()
        with (
            peer(_counting(seen, said(NOT_READY, "503 Service Unavailable", *lines))) as address,
            client(address, timeout_s=10, retries=2) as c,
            pytest.raises(ServerUnavailable, match="not yet"),
        ):
            c.rank("u", ["i1"])
        assert len(seen) == 1


def test_a_real_server_that_gets_ready_is_waited_for(
    client: Callable[..., Any], url: str, states: list[Readiness]
) -> None:
    """For as long as its `retry-after` says."""
    with client(url, timeout_s=10) as c:
        states[:] = [Readiness(False, "not yet"), Readiness(True)]
        assert len(c.rank("u", ["i1"])) == 1


def test_retries_stay_within_their_budget(client: Callable[..., Any]) -> None:
    """A server that breaks every connection sees the calls, and no more beside them than the budget has."""
    seen: list[bytes] = []
    options = ClientOptions(retry_share=0.0, retry_burst=5)
    with (
        peer(lambda connection: seen.append(asked(connection))) as address,
        client(address, timeout_s=20, retries=3, options=options) as c,
    ):
        for _ in range(10):
            with pytest.raises(ServerUnavailable):
                c.rank("u", ["i1"])
    assert len(seen) == 10 + 5


def test_a_server_that_is_gone_is_passed_over(client: Callable[..., Any], url: str) -> None:
    """No call fails, and what is broken is asked now and then, not each time."""
    seen: list[bytes] = []
    with (
        peer(lambda connection: seen.append(asked(connection))) as address,
        client([nobody(), address, url], timeout_s=20, retries=2) as c,
    ):
        for _ in range(30):
            assert len(c.rank("u", ["i1", "i2"])) == 2
    assert 1 <= len(seen) < 15


def test_a_server_that_takes_no_connections_leaves_time_for_another(client: Callable[..., Any], url: str) -> None:
    """A machine that is gone says nothing, not even no: half of a call's time is for it, where another could answer."""
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # nobody accepts them, and there is no room for more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        gone = f"http://127.0.0.1:{full.getsockname()[1]}"
        with client([gone, url], timeout_s=3.0) as c:
            for _ in range(4):
                assert len(c.rank("u", ["i1", "i2"])) == 2
        with client(gone, timeout_s=0.3) as c, pytest.raises(DeadlineExceeded):
            c.rank("u", ["i1"])


def test_servers_share_the_calls(client: Callable[..., Any], url: str, node: Any) -> None:
    """In turn, where none has more under way than another."""
    seen: dict[str, list[bytes]] = {"one": [], "two": []}
    with (
        peer(_counting(seen["one"], said(READY))) as one,
        peer(_counting(seen["two"], said(READY))) as two,
        client([one, two], timeout_s=10) as c,
    ):
        for _ in range(10):
            c.ready()
    assert [len(calls) for calls in seen.values()] == [5, 5]


def test_a_server_that_is_killed_costs_no_call(client: Callable[..., Any], url: str) -> None:
    """kill -9 between and during calls: another one answers, and it is asked again when it is back."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mortal = f"http://127.0.0.1:{port}"
    code = (
        SMALL
        + """
from forebay.retrieval.messages import Readiness
from forebay.retrieval.server import serve
serve(create_app(engine, lambda: Readiness(True)), port=int(sys.argv[1]))
"""
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start() -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", code, str(port)], env=environment)
        end = time.monotonic() + 60
        with client(mortal, timeout_s=5) as c:
            while time.monotonic() < end:
                try:
                    c.ready()
                    return child
                except ForebayError:
                    time.sleep(0.05)
        raise AssertionError("it does not start")

    child = start()
    stop, problems, calls = threading.Event(), list[ForebayError](), [0]

    def ask() -> None:
        while not stop.is_set():
            try:
                c.rank("u", ["i1", "i2"])
                calls[0] += 1
            except ForebayError as error:
                problems.append(error)

    options = ClientOptions(retry_burst=50)
    try:
        with client([mortal, url], timeout_s=10, retries=2, options=options) as c:
            with ThreadPoolExecutor(4) as pool:
                for _ in range(4):
                    pool.submit(ask)
                time.sleep(0.3)
                child.send_signal(signal.SIGKILL)
                child.wait(30)
                time.sleep(0.5)
                stop.set()
            assert problems == [] and calls[0] > 20
            child = start()
            end = time.monotonic() + 30
            server = next(s for s in getattr(c, "client", c)._terms.servers.all if s.url == mortal)
            while server.failures and time.monotonic() < end:
                c.rank("u", ["i1"])
            assert not server.failures
    finally:
        stop.set()
        child.kill()
        child.wait(30)


# -- a second request beside a slow one


def test_a_slow_server_is_helped_out_by_another(client: Callable[..., Any], url: str) -> None:
    """The first answer counts, whoever gives it, and the other connection is closed: nobody gets its answer later."""
    stop, closed = threading.Event(), threading.Semaphore(0)

    def silent(connection: socket.socket) -> None:
        while asked(connection):
            stop.wait(0.01)
        closed.release()

    with peer(silent) as slow, client([slow, url], timeout_s=30, hedge_after_s=0.02) as c:
        for _ in range(4):
            assert len(c.rank("u", ["i1", "i2"])) == 2
        assert closed.acquire(timeout=30)


def test_second_requests_are_a_bounded_share(client: Callable[..., Any]) -> None:
    """Off unless it is asked for; then as many as the budget has."""
    seen: list[bytes] = []
    stop = threading.Event()

    def silent(connection: socket.socket) -> None:
        seen.append(asked(connection))
        stop.wait(30)

    options = ClientOptions(hedge_share=0.0, hedge_burst=3)
    with peer(silent) as address:
        for words, requests in ({}, 5), ({"hedge_after_s": 0.01, "options": options}, 8):
            seen.clear()
            with client(address, timeout_s=0.2, **words) as c:
                for _ in range(5):
                    with pytest.raises(DeadlineExceeded):
                        c.rank("u", ["i1"])
            assert len(seen) == requests
        stop.set()


def test_a_refusal_does_not_end_a_call_that_has_another_chance(client: Callable[..., Any], url: str) -> None:
    """The slow one says no after the second was sent: the second's answer is the call's."""
    asked_twice = threading.Event()

    def refusing(connection: socket.socket) -> None:
        asked(connection)
        asked_twice.wait(10)
        connection.sendall(said(NOT_READY, "503 Service Unavailable"))

    def late(connection: socket.socket) -> None:
        while request := asked(connection):
            asked_twice.set()
            time.sleep(0.3)
            with connect(url) as there:
                there.sendall(request)
                connection.sendall(whole(there)[1])

    with (
        peer(refusing) as first,
        peer(late) as second,
        client([second, first], timeout_s=20, retries=0, hedge_after_s=0.02) as c,
    ):
        for server in c.client._terms.servers.all if hasattr(c, "client") else c._terms.servers.all:
            server.under_way = 1 if server.url == second else 0  # the first request goes to the other one
        assert len(c.rank("u", ["i1", "i2"])) == 2


def test_a_second_request_to_nobody_does_no_harm(client: Callable[..., Any], url: str) -> None:
    """The first one's answer still comes."""

    def slow(connection: socket.socket) -> None:
        while request := asked(connection):
            time.sleep(0.1)
            with connect(url) as there:
                there.sendall(request)
                connection.sendall(whole(there)[1])

    with peer(slow) as address, client([nobody(), address], timeout_s=20, retries=1, hedge_after_s=0.02) as c:
        for _ in range(3):
            assert len(c.rank("u", ["i1", "i2"])) == 2
