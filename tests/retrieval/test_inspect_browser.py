"""The inspect page in a real Chromium: read, searched and asked by a person, on a desk and on a phone.

Skipped where there is no Chromium (Debian: apt-get install chromium) or no playwright.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.clock import now_ms
from forebay.errors import StoreMissing
from forebay.retrieval.door import Door
from forebay.retrieval.engine import Engine
from forebay.retrieval.inspect.page import Page
from forebay.retrieval.inspect.supposed import Supposed, Supposition
from forebay.retrieval.messages import Readiness
from forebay.retrieval.server import create_app, serving

from .test_door import FIRST, tokens  # noqa: F401 - a fixture

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
LONG = "an-id-of-" + "many-letters-" * 15
PHONE = {"width": 360, "height": 740}


class Turned:
    """Supposes that an event turns every vector of a user by something: what runs the encoders is tested elsewhere, on
    a real broker (tests/streams/suppose)."""

    actions: Sequence[str] = ("rate", "view")

    def __init__(self, node: Any) -> None:
        self.node, self.asked = node, list[Supposition]()

    def suppose(self, supposition: Supposition) -> Supposed:
        self.asked.append(supposition)
        if supposition.item == "nowhere":
            raise StoreMissing("there is no checkpoint of <g1>", do="Let a worker make one")
        before = self.node.vectors("user", [supposition.user])[0]
        after = before + np.random.default_rng(3).normal(size=len(before)).astype(np.float32) / 3
        return Supposed(before, after.astype(np.float32), now_ms() - 61_000, 12, now_ms(), ("A <remark>.",))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def what_if(node: Any) -> Turned:
    return Turned(node)


@pytest.fixture
def url(node: Any, what_if: Turned) -> Iterator[str]:
    node.put("user", [LONG], seed=7, as_of=now_ms())
    node.put("item", [LONG, "<b>bold</b>"], seed=8, as_of=now_ms())
    node.put("item", [f"i{n}" for n in range(30, 150)], seed=9, as_of=now_ms())
    engine = Engine(node.model, node.copy)
    with serving(create_app(engine, lambda: Readiness(True, lag_ms=80), page=Page(engine, what_if))) as address:
        yield address


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """A page of a new visitor; `complaints` of it is what the browser's console says."""
    contexts = []

    def open_page(**how: Any) -> Any:
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("requestfailed", lambda request: page.complaints.append(request.url))
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("script", [True, False])
def test_a_person_searches_and_reads(url: str, visit: Callable[..., Any], script: bool) -> None:
    """With scripts or without them, and the browser has nothing to complain of."""
    page = visit(java_script_enabled=script)
    page.goto(url)
    page.fill("#id", "u")
    page.click("text=Look up")
    assert page.title() == "user u · Forebay" and page.locator("h1").inner_text().split() == ["user", "u"]
    assert page.locator("#segments tbody tr").count() == 2 and page.locator(".hits > li").count() == 12
    first = page.locator(".hits a.item").first
    item = first.inner_text()
    first.click()
    assert page.locator("h1").inner_text().split() == ["item", item] and page.locator(".nearest tbody tr").count() == 12
    assert page.locator("input[name=side]:checked").get_attribute("value") == "item"
    assert page.complaints == []


def test_a_bar_is_as_long_as_its_shares(url: str, visit: Callable[..., Any]) -> None:
    """As the browser draws them: to one scale in all rows."""
    page = visit(viewport={"width": 1200, "height": 900})
    page.goto(url + "/?side=user&id=u")
    drawn = []
    for row in page.locator(".hits > li").all():
        shares = [float(b.inner_text().replace("−", "-")) for b in row.locator(".shares b").all()]
        widths = [r.bounding_box()["width"] for r in row.locator("rect").all()]
        drawn += list(zip([abs(s) for s in shares if s], widths, strict=False))
    scales = [width / share for share, width in drawn if share > 0.2]
    assert len(scales) > 12 and max(scales) / min(scales) < 1.1


def test_a_phone_shows_all_of_it(url: str, visit: Callable[..., Any]) -> None:
    """Nothing is wider than the screen, whatever an id is."""
    for scheme in ("light", "dark"):
        page = visit(viewport=PHONE, is_mobile=True, has_touch=True, color_scheme=scheme)
        targets = ["/", "/?side=user&id=u", f"/?side=user&id={LONG}", f"/?side=item&id={LONG}", "/?side=item&id=i3"]
        for target in [*targets, f"/what-if?id=u&item={LONG}&action=rate&value=5"]:
            page.goto(url + target)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], target
            for box in page.locator(".scroll").all():
                assert box.evaluate("e => e.scrollWidth <= e.clientWidth"), target
        assert page.complaints == []


def test_the_keyboard_alone_will_do(url: str, visit: Callable[..., Any], what_if: Turned) -> None:
    """The search has the focus; Tab goes on in the order of the page, and what has the focus can be seen."""
    page = visit()
    page.goto(url)
    assert page.evaluate("document.activeElement.id") == "id"
    page.keyboard.type("u")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?side=user&id=u")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "item"
    style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"
    page.focus("#what-item")
    page.keyboard.type("i7")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.type("4.5")
    page.keyboard.press("Enter")
    page.wait_for_url("**/what-if?**")
    assert what_if.asked == [Supposition("u", "i7", "view", 4.5)]


def test_what_if_shows_the_ranking_move(url: str, visit: Callable[..., Any], what_if: Turned, node: Any) -> None:
    """The places before and after are those of the engine, and what it stands on is told."""
    page = visit()
    page.goto(url + "/?side=user&id=u")
    page.fill("#what-item", "<b>bold</b>")
    page.select_option("#what-action", "rate")
    page.fill("#what-value", "5")
    page.click("text=Suppose")
    assert page.input_value("#what-item") == "<b>bold</b>" and what_if.asked[-1].item == "<b>bold</b>"
    text = page.locator("#what-if").inner_text()
    assert "12 events" in text and "61 s ago" in text and "A <remark>." in text and "bit for bit" in text
    found = what_if.suppose(Supposition("u", "", "", 0.0))
    engine = Engine(node.model, node.copy)
    shown = [row.locator("a.item").inner_text() for row in page.locator(".moving > li").all()]
    every = [f"i{n}" for n in range(150)] + [LONG, "<b>bold</b>"]
    before, after = ([h.item for h in engine.suppose(v, every)] for v in (found.before, found.after))
    assert shown == after[:12] and shown != before[:12]
    moved = page.locator(".moving .moved").all_inner_texts()
    for place, (item, words) in enumerate(zip(shown, moved, strict=True), start=1):
        was = before.index(item) + 1
        assert words == "new" or words == "=" or f"was {was}" in words
        assert (words == "=") == (was == place)
    assert page.complaints == []


def test_what_cannot_be_supposed_is_told_by_name(url: str, visit: Callable[..., Any]) -> None:
    """With the remedy; the rest of the page stays."""
    page = visit()
    page.goto(url + "/what-if?id=u&item=nowhere&action=rate&value=1")
    text = page.locator("#what-if").inner_text()
    assert "no checkpoint of <g1>" in text and "Let a worker make one" in text
    page.goto(url + "/what-if?id=u&item=i1&action=rate&value=nonsense")
    assert "no number" in page.locator("#what-if").inner_text() and page.locator(".hits > li").count() == 12
    assert page.complaints == []


def test_a_link_elsewhere_supposes_nothing(url: str, visit: Callable[..., Any], what_if: Turned) -> None:
    """A press of the button does: what costs a processor's second is not another site's to spend."""
    page = visit()
    page.route("http://elsewhere.test/", lambda route: route.fulfill(
        body=f'<a href="{url}/what-if?id=u&item=i1&action=rate&value=1">x</a>', content_type="text/html"))  # fmt: skip
    page.goto("http://elsewhere.test/")
    page.click("a")
    assert "Nothing was asked yet" in page.locator("#what-if").inner_text() and what_if.asked == []
    page.click("text=Suppose")
    assert page.locator(".moving > li").count() == 12 and len(what_if.asked) == 1


def test_a_browser_is_asked_for_a_token(node: Any, visit: Callable[..., Any], tokens: Path) -> None:  # noqa: F811
    """As the password; without it nothing is shown."""
    with serving(
        create_app(node.engine, lambda: Readiness(True), page=Page(node.engine)), door=Door(tokens=tokens)
    ) as url:
        page = visit(http_credentials={"username": "me", "password": FIRST})
        page.goto(url + "/?side=user&id=u")
        assert page.locator(".hits > li").count() == 12
        assert page.evaluate("getComputedStyle(document.querySelector('.top')).display") == "flex"
        stranger = visit(http_credentials={"username": "me", "password": "wrong"})
        assert stranger.goto(url + "/?side=user&id=u").status == 401
        assert stranger.locator(".hits > li").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read(url: str, visit: Callable[..., Any], scheme: str) -> None:
    """Every text has a contrast of 4.5 with what is behind it (WCAG 2.2, AA)."""
    page = visit(color_scheme=scheme, viewport={"width": 1200, "height": 900})
    for target in ("/", "/?side=user&id=u", "/?side=item&id=i3", "/what-if?id=u&item=i1&action=rate&value=5"):
        page.goto(url + target)
        weak = page.evaluate(_CONTRAST)
        assert weak == [], target


_CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const weak = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) weak.push([e.tagName, e.className, e.textContent.slice(0, 30), ratio.toFixed(2)]);
  }
  return weak;
}"""
