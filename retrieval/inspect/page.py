"""The page's requests: what is asked becomes HTML, within bounds, and nothing is written.

    GET /               the search, and what the bundle is made of
    GET /?side=…&id=…   one entity
    GET /what-if?…      the same with an event that did not happen
    GET /inspect.css    its style; GET /inspect.svg its icon

Each answer has headers that let a browser load this style and icon and nothing else, run no script and show the page in
no frame. The HTML is made on a thread, one page at a time: lookups go on beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Final
from urllib.parse import parse_qs

from forebay import clock
from forebay.errors import ForebayError
from forebay.retrieval.engine import Engine
from forebay.retrieval.inspect import views, whatif
from forebay.retrieval.inspect.looking import SHOWN, is_an_id, look
from forebay.retrieval.inspect.markup import Markup, document, el, joined
from forebay.retrieval.inspect.supposed import Outcome, Supposition, WhatIf, supposed
from forebay.retrieval.messages import Readiness, RetrieveRequest
from forebay.retrieval.wire import Headers, header
from forebay.segments.spec import SIDES, SegmentSpec, Side

HOME, WHAT_IF = "/", "/what-if"
PAGES: Final = frozenset({HOME, WHAT_IF})
FILES: Final = {
    "/inspect.css": ("style.css", b"text/css; charset=utf-8"),
    "/inspect.svg": ("icon.svg", b"image/svg+xml"),
}
_POLICY = (
    b"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Headers = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_HTML = b"text/html; charset=utf-8"
_log = logging.getLogger("forebay.server")


@dataclass(frozen=True)
class Shown:
    """An answer of the page."""

    status: int
    data: bytes
    media: bytes
    headers: Headers


class Page:
    """The inspect page of one server. Called on its event loop."""

    def __init__(
        self, engine: Engine, what_if: WhatIf | None = None, lacking: str = "", titles: views.Titles | None = None
    ) -> None:
        """Without `what_if` that part says why it is `lacking`; without a word of that either, it is not shown.
        `titles` are what people call items, by id."""
        self._titles: views.Titles = titles or {}
        self._engine, self._what_if, self._lacking = engine, what_if, lacking
        self._specs: dict[Side, Sequence[SegmentSpec]] = {side: engine.segments(side) for side in SIDES}
        here = files("forebay.retrieval.inspect")
        self._files = {path: ((here / name).read_bytes(), media) for path, (name, media) in FILES.items()}
        self._style = f"/inspect.css?{sha256(self._files['/inspect.css'][0]).hexdigest()[:8]}"
        self._threads = {path: ThreadPoolExecutor(1, f"inspect{path.replace('/', '-')}") for path in sorted(PAGES)}

    def has(self, path: str) -> bool:
        """Whether something is at `path`."""
        return path in PAGES or path in FILES

    async def answer(self, path: str, query: bytes, headers: Headers, ready: Readiness) -> Shown:
        """Whatever is asked, a page says what became of it."""
        if path in self._files:
            data, media = self._files[path]
            return Shown(200, data, media, (*_HEADERS, (b"cache-control", b"max-age=86400")))
        try:
            status, title, body = await asyncio.get_running_loop().run_in_executor(
                self._threads[path], self._made, path, query, headers, ready
            )
        except Exception:  # noqa: BLE001 - whatever it is, a person gets a page, and no traceback
            _log.exception("the inspect page failed")
            status, title, body = 500, "Error", el("main", views.notice("Internal error.", "Read the server's log."))
        data = document(title, body, style=self._style, icon="/inspect.svg")
        return Shown(status, data, _HTML, (*_HEADERS, (b"cache-control", b"no-store")))

    def _made(self, path: str, query: bytes, headers: Headers, ready: Readiness) -> tuple[int, str, Markup]:
        """Status, title and body."""
        asked = _parsed(query)
        side: Side = "item" if asked.get("side") == "item" else "user"
        name = asked.get("id", "")
        engine = self._engine
        standing = views.Standing(
            engine.generation, engine.bundle_hash, engine.copy.rows(), ready, engine.copy.as_of(), clock.now_ms()
        )
        status, title = 200, "Forebay"
        try:
            if not name:
                best = engine.retrieve(RetrieveRequest("", SHOWN)) if standing.rows["item"] else None
                content = views.overview(self._specs, best, self._titles)
            elif not is_an_id(name):
                status = 400
                content = views.notice("This is no id.", "An id has 1 to 256 bytes of UTF-8.")
                name = ""
            else:
                title = f"{side} {name} · Forebay"
                if path == WHAT_IF:
                    side = "user"
                content = self._entity(side, name, standing, self._supposed(path, name, asked, headers))
        except ForebayError as error:
            status, content = 500, views.notice("This cannot be shown.", error.what, error.do)
        body = joined(views.header(standing, side, name), el("main", content, id="content", tabindex="-1"))
        return status, title, el("body", body)

    def _entity(self, side: Side, name: str, standing: views.Standing, outcome: Outcome | None) -> Markup:
        seen = look(self._engine, side, name)
        what_if = None
        if side == "user" and (self._what_if is not None or self._lacking):
            what_if = whatif.part(name, self._what_if, self._lacking, outcome, standing.now_ms, self._titles)
        return joined(
            views.entity_head(seen.entity, self._titles),
            views.segments(seen.entity, self._specs[side], standing.now_ms),
            what_if if outcome is not None else None,
            views.ranking(seen, self._titles, "The ranking as it is" if outcome else "Ranking"),
            what_if if outcome is None else None,
            views.nearest(seen.nearest, self._titles),
        )

    def _supposed(self, path: str, user: str, asked: Mapping[str, str], headers: Headers) -> Outcome | None:
        if path != WHAT_IF or self._what_if is None:
            return None
        # It takes a second of a processor: a link on somebody's page is not to spend it, and a person presses a button.
        if header(headers, b"sec-fetch-site") in (b"cross-site", b"same-site"):
            return Outcome(Supposition(user, asked.get("item", ""), asked.get("action", ""), 0.0), None, "", "")
        return supposed(self._engine, self._what_if, user, asked)


def _parsed(query: bytes) -> Mapping[str, str]:
    """The last value of each name; none of a query that has too many."""
    try:
        found = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=20, errors="replace")
    except ValueError:
        return {}
    return {key: values[-1] for key, values in found.items()}
