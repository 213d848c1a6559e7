"""Which server is asked next, and what may be asked beyond the calls: without sockets, by a clock that tests set."""

from __future__ import annotations

from collections import Counter

import pytest

from forebay.errors import ConfigError
from forebay.retrieval.budget import Budget
from forebay.retrieval.course import ClientOptions
from forebay.retrieval.servers import COOL_MOST_S, COOL_S, SILENCES, Server, Servers, server_at

URLS = ["http://a", "http://b", "http://c"]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def servers(clock: Clock) -> Servers:
    return Servers(URLS, clock)


def _chosen(servers: Servers, count: int) -> Counter[str]:
    """Whom so many calls go to that follow one another."""
    found = Counter[str]()
    for _ in range(count):
        server = servers.choose(None)
        servers.ended(server)
        found[server.url] += 1
    return found


def _of(servers: Servers, url: str) -> Server:
    return next(server for server in servers.all if server.url == url)


@pytest.mark.parametrize(
    ("url", "name", "prefix"),
    [
        ("http://forebay:8080/", "forebay:8080", ""),
        ("https://forebay", "forebay", ""),
        ("http://[::1]:8080/a/b/", "[::1]:8080", "/a/b"),
        ("https://forebay:443", "forebay", ""),
        ("http://FOREBAY:443", "forebay:443", ""),
    ],
)
def test_an_address_is_read(url: str, name: str, prefix: str) -> None:
    """Host and port as the header has them, and a path before the server's own."""
    server = server_at(url)
    assert (server.name, server.prefix, server.secure) == (name, prefix, url.startswith("https"))


def test_calls_go_round_and_to_who_has_the_fewest_under_way(servers: Servers) -> None:
    """In turn as long as all are alike."""
    assert _chosen(servers, 9) == dict.fromkeys(URLS, 3)
    held = [servers.choose("u") for _ in range(2)]
    third = next(url for url in URLS if url not in {server.url for server in held})
    assert servers.choose("u").url == third
    servers.ended(held[0])
    assert servers.choose("u") is held[0]


def test_what_was_tried_comes_last(servers: Servers) -> None:
    """Also before one that is left alone: it may be back."""
    a, b, c = (_of(servers, url) for url in URLS)
    servers.failed(c)
    assert servers.choose(None, [a]) is b
    assert servers.choose(None, [a, b]) is c
    assert servers.another([a]) and not servers.another([a, b])


def test_a_server_that_failed_is_left_alone_and_then_tried_by_one(servers: Servers, clock: Clock) -> None:
    """For longer each time, up to a bound; an answer ends it."""
    b = _of(servers, "http://b")
    spans = []
    for _ in range(12):
        servers.failed(b)
        spans.append(b.until - clock.now)
        clock.now = b.until - 0.001
        assert _chosen(servers, 6)["http://b"] == 0
        clock.now = b.until
        assert _chosen(servers, 6)["http://b"] == 1  # one finds out; the others go on elsewhere
    assert 0.5 * COOL_S <= spans[0] <= COOL_S and spans[4] > 4 * COOL_S and spans[-1] == pytest.approx(COOL_MOST_S)
    servers.answered(b)
    assert _chosen(servers, 6)["http://b"] == 2


def test_a_server_may_say_how_long(servers: Servers, clock: Clock) -> None:
    """By its `retry-after`."""
    b = _of(servers, "http://b")
    servers.failed(b, 7.0)
    assert b.until == clock.now + 7.0


def test_silence_counts_when_it_lasts(servers: Servers) -> None:
    """One call that ran out of time says little about a server, several in a row say enough."""
    b = _of(servers, "http://b")
    for _ in range(SILENCES - 1):
        servers.silent(b)
    servers.answered(b)
    for _ in range(SILENCES - 1):
        servers.silent(b)
    assert _chosen(servers, 6)["http://b"] == 2
    servers.silent(b)
    assert _chosen(servers, 6)["http://b"] == 0


def test_where_all_are_left_alone_the_first_to_be_back_is_asked(servers: Servers) -> None:
    """A call is never refused for want of a server."""
    for url, seconds in ("http://a", 3.0), ("http://b", 2.0), ("http://c", 4.0):
        servers.failed(_of(servers, url), seconds)
    assert _chosen(servers, 5) == {"http://b": 5}


def test_a_budget_is_a_share_of_the_calls() -> None:
    """And a few at once, at most: what is not used does not add up for ever."""
    budget = Budget(0.1, 3)
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert 99 <= spent <= 100


@pytest.mark.parametrize(
    "words", [{"retry_share": 1.5}, {"hedge_share": -0.1}, {"retry_burst": -1.0}, {"answer_bytes": 0}, {"idle_s": 0.0}]
)
def test_options_that_bound_nothing_are_refused(words: dict[str, float]) -> None:
    """By name."""
    with pytest.raises(ConfigError):
        ClientOptions(**words)  # type: ignore[arg-type]
