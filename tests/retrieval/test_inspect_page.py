"""The inspect page as a server sends it: what is shown, what is escaped, and who may see it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import urllib3

from forebay.errors import ConfigError
from forebay.retrieval.admission import Admission, AdmissionOptions
from forebay.retrieval.door import Door
from forebay.retrieval.inspect.bars import Scale, bar, signed
from forebay.retrieval.inspect.markup import el, joined
from forebay.retrieval.inspect.page import PAGES, Page
from forebay.retrieval.inspect.titles import read_titles
from forebay.retrieval.messages import RankRequest, Readiness
from forebay.retrieval.server import create_app, serving

from .test_door import FIRST, STRANGER, tokens  # noqa: F401 - a fixture
from .wire import connect, error, send

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\u202e"


@pytest.fixture
def url(node: Any) -> Iterator[str]:
    node.put("user", [HOSTILE], seed=3)
    node.put("item", [HOSTILE], seed=4)
    with serving(create_app(node.engine, lambda: Readiness(True, lag_ms=12), page=Page(node.engine))) as address:
        yield address


@pytest.fixture
def get(url: str) -> Iterator[Callable[..., Any]]:
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        yield lambda target, **headers: pool.request("GET", url + target, headers=headers)


class _Reading(HTMLParser):
    """The elements of a page with their attributes, and what a person reads."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_a_user_is_shown_with_segments_and_shares(get: Callable[..., Any], node: Any) -> None:
    """The scores and shares are those of a lookup at the same moment."""
    answer = get("/?side=user&id=u")
    page = _Reading(answer.data)
    assert answer.status == 200 and "generation g1" in page.text.lower()
    for segment, fresh in node.engine.entity("user", "u").segments.items():
        assert re.search(rf"{segment} {fresh.freshness.state} ", page.text)
    shown = [unescape(i) for i in re.findall(r'class="item"><bdi>(.*?)</bdi>', answer.data.decode())]
    hits = node.engine.rank(RankRequest("u", shown, len(shown), explain=True)).hits
    assert len(shown) == 12 and [hit.item for hit in hits] == shown
    for hit in hits:
        assert signed(hit.score) in page.text
        assert f'aria-label="recent {signed(hit.shares["recent"])}, taste {signed(hit.shares["taste"])}"' in (
            answer.data.decode()
        )


def test_an_item_is_shown_with_its_nearest(get: Callable[..., Any], node: Any) -> None:
    """By the cosine over the stored vectors, best first, and never itself."""
    page = get("/?side=item&id=i3").data.decode()
    shown = re.findall(r'<a href="/\?side=item&amp;id=(i\d+)"', page)
    ids = [f"i{n}" for n in range(30) if n != 3]
    own, others = node.vectors("item", ["i3"])[0], node.vectors("item", ids)
    cosines = others @ own / ((others**2).sum(axis=1) * (own**2).sum()) ** 0.5
    best = [ids[place] for place in (-cosines).argsort()]
    assert "i3" not in shown and [one for one in shown if one in best][:8] == [b for b in best if b in shown][:8]
    assert shown[0] == best[0] and f"{cosines.max():+.2f}" in page


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("name", [HOSTILE, "nobody", "ü ☃", "a" * 256, "\x00\x1b[2J", "../../etc", "{{7*7}}", "\ud800"])
def test_an_id_is_only_ever_text(get: Callable[..., Any], side: str, name: str) -> None:
    """Known or not. Nothing of it becomes an element or an attribute of its own."""
    target = f"/?side={side}&id={quote(name.encode('utf-8', 'surrogatepass'))}"
    answer = get(target)
    page = _Reading(answer.data)
    tags = {tag for tag, _ in page.elements}
    assert answer.status == 200 and "script" not in tags
    assert not any(key.startswith("on") or key == "style" for _, found in page.elements for key in found)
    images = [found["src"] for tag, found in page.elements if tag == "img"]
    assert images == ["/inspect.svg"]
    searched = next(found for tag, found in page.elements if found.get("id") == "id")
    expected = name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert searched["value"] == expected
    if name == HOSTILE:
        assert "Nothing is stored" not in page.text and HOSTILE in "".join(page.words)


def test_what_is_no_id_is_told_and_what_is_no_request_is_refused(get: Callable[..., Any], url: str) -> None:
    """An id of a million bytes never comes as far as the page."""
    answer = get("/?side=user&id=" + "a" * 257)
    assert answer.status == 400 and "1 to 256 bytes" in answer.data.decode()
    assert get("/?side=nonsense&id=u").status == 200
    assert get("/?" + "&".join(f"x{n}=1" for n in range(500))).status == 200
    assert get("/?%zz=%ff&id=%ff").status == 200
    with connect(url) as connection:
        send(connection, b"GET /?side=user&id=" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n")
        assert error(connection) == (431, "too_large")
    assert get("/?side=user&id=u").status == 200


def test_a_browser_may_do_nothing_but_show_it(get: Callable[..., Any]) -> None:
    """No script, no frame, nothing of another host; pages are not kept, and files are."""
    for target in ("/", "/?side=user&id=u", "/?side=user&id=" + "a" * 300, "/inspect.css", "/inspect.svg"):
        answer = get(target)
        policy = answer.headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'" and "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
        assert "unsafe" not in str(policy) and answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert (answer.headers["cache-control"] == "no-store") == (not target.startswith("/inspect"))
        assert (
            b"http://" not in answer.data.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in answer.data
        )


def test_a_server_without_the_page_has_nothing_there(node: Any) -> None:
    """It can be switched off."""
    with serving(create_app(node.engine, lambda: Readiness(True))) as url, urllib3.PoolManager(retries=False) as pool:
        for target in ("/", "/inspect.css", "/what-if"):
            assert pool.request("GET", url + target).status == 404


def test_a_server_that_is_not_ready_says_why(node: Any) -> None:
    """That is when somebody looks."""
    app = create_app(node.engine, lambda: Readiness(False, "40 s behind <the log>", 40_000), page=Page(node.engine))
    with serving(app) as url, urllib3.PoolManager(retries=False) as pool:
        page = pool.request("GET", url + "/?side=user&id=u").data.decode()
    assert "not ready" in page and "40 s behind &lt;the log&gt;" in page and "Ranking" in page


def test_an_empty_server_shows_what_its_bundle_is_made_of(make_node: Callable[..., Any]) -> None:
    """Before a single row is there."""
    node = make_node()
    with (
        serving(create_app(node.engine, lambda: Readiness(True), page=Page(node.engine))) as url,
        urllib3.PoolManager(retries=False) as pool,
    ):
        home, user, item = (pool.request("GET", url + t) for t in ("/", "/?side=user&id=u", "/?side=item&id=i"))
    assert {home.status, user.status, item.status} == {200}
    assert "Segments of the bundle" in home.data.decode() and "No item is stored" in user.data.decode()
    assert "Nothing is stored of this item" in item.data.decode()


def test_a_person_comes_in_with_a_token(node: Any, tokens: Path) -> None:  # noqa: F811
    """As the password that a browser asks for, or as a bearer; and so nowhere else."""

    def basic(password: str, name: str = "me") -> dict[str, str]:
        return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}

    app = create_app(node.engine, lambda: Readiness(True), page=Page(node.engine))
    with serving(app, door=Door(tokens=tokens)) as url, urllib3.PoolManager(retries=False, timeout=20) as pool:
        for target in ("/", "/?side=user&id=u", "/what-if?id=u", "/inspect.css", "/inspect.svg"):
            for headers in ({}, basic(STRANGER), basic(""), basic(FIRST[:-1]), {"authorization": "Basic %%%"}):
                refused = pool.request("GET", url + target, headers=headers)
                assert refused.status == 401 and b"<" not in refused.data
                assert refused.headers["www-authenticate"].startswith("Basic ")
            assert pool.request("GET", url + target, headers=basic(FIRST)).status == 200
            assert pool.request("GET", url + target, headers=basic(FIRST, "")).status == 200
            assert pool.request("GET", url + target, headers={"authorization": f"Bearer {FIRST}"}).status == 200
        for target in ("/v1/entities/user/u", "/metrics", "/nowhere"):
            refused = pool.request("GET", url + target, headers=basic(FIRST))
            assert refused.status == 401 and refused.headers["www-authenticate"] == "Bearer"


def test_the_pages_of_a_crowd_are_refused_and_lookups_go_on(node: Any) -> None:
    """They queue apart from lookups, one at a time, and the queue has an end."""
    admission = Admission(AdmissionOptions(), frozenset({"/v1/rank"}), frozenset({"/v1/retrieve"}), PAGES)
    lanes = [admission.lane(path) for path in ("/", "/what-if", "/v1/rank", "/v1/retrieve")]
    assert len({id(lane) for lane in lanes}) == 4 and admission.admits("/") and not admission.admits("/health")


def test_items_are_called_by_their_titles(node: Any, tmp_path: Path) -> None:
    """Of a file that somebody else wrote: they are texts like any other, and the id stays beside them."""
    file = tmp_path / "titles.tsv"
    file.write_text("".join(f"i{n}\tFilm <i>{n}</i> & more\r\n" for n in range(30)) + "\n", "utf-8")
    app = create_app(node.engine, lambda: Readiness(True), page=Page(node.engine, titles=read_titles(file)))
    with serving(app) as url, urllib3.PoolManager(retries=False) as pool:
        for target in ("/", "/?side=user&id=u", "/?side=item&id=i3"):
            page = pool.request("GET", url + target).data.decode()
            assert "<i>" not in page and re.search(r"<bdi>Film &lt;i&gt;\d+&lt;/i&gt; &amp; more</bdi>", page)
        assert re.search(r"<h1>.*Film &lt;i&gt;3&lt;/i&gt;.*<bdi>i3</bdi>.*</h1>", page)


@pytest.mark.parametrize(
    ("data", "said"), [(b"i1\tA\nno tab\n", "line 2 has no tab"), (b"\xff\t", "not UTF-8"), (None, "No such file")]
)
def test_a_file_of_titles_that_is_none_is_named(tmp_path: Path, data: bytes | None, said: str) -> None:
    """When the server starts, and not when somebody looks."""
    file = tmp_path / "titles"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ConfigError, match=said) as raised:
        read_titles(file)
    assert raised.value.where == str(file)


def test_every_text_is_escaped_once() -> None:
    """And only what is made here is HTML."""
    inner = el("b", "<&>")
    assert el("p", inner, "&amp;", None, ["'", ('"',)], title='"<', hidden=True, lang=None) == (
        '<p title="&quot;&lt;" hidden><b>&lt;&amp;&gt;</b>&amp;amp;&#x27;&quot;</p>'
    )
    assert joined("<", el("br")) == "&lt;<br>"


def test_a_bar_is_to_scale_on_both_sides_of_zero() -> None:
    """Its parts are as long as the shares, to the right what adds and to the left what takes away."""
    shares = {"a": 1.0, "b": -0.5, "c": 2.0, "d": 0.0}
    scale = Scale.over([shares, {"a": -1.0, "b": 0.0, "c": 0.0, "d": 0.0}])
    assert (scale.right, scale.left, scale.zero) == (3.0, 1.0, 0.25)
    drawn = re.findall(r'<rect x="([\d.]+)%" width="([\d.]+)%" height="100%" class="(s\d)"/>', bar(shares, scale))
    assert drawn == [("25.00", "25.00", "s0"), ("12.50", "12.50", "s1"), ("50.00", "50.00", "s2")]
    assert "NaN" not in bar({"a": 0.0}, Scale.over([{"a": 0.0}])) and signed(-0.001) == "0.00" and signed(-1) == "−1.00"
