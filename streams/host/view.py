"""GET /forebay of a faust app's web: its stages, as JSON and as a page."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em}td,th{padding:.1em 1em;text-align:right}.n{text-align:left}"
)
_COLUMNS = ("committed", "applied", "end", "lag")


def add_views(app: Any, status: Callable[[], Mapping[str, Any]]) -> None:
    """`status` is called on the app's loop, for each request. /forebay is JSON unless a browser asks, and
    /forebay/ready is 200, or 503 and why."""

    @app.page("/forebay", name="forebay")
    async def forebay(view: Any, request: Any) -> Any:
        told = status()
        return view.html(page(told)) if "text/html" in request.headers.get("accept", "") else view.json(told)

    @app.page("/forebay/ready", name="forebay-ready")
    async def ready(view: Any, request: Any) -> Any:
        told = status()
        return view.json({"ready": told["ready"], "reason": told["waits"]}, status=200 if told["ready"] else 503)


def page(told: Mapping[str, Any]) -> str:
    """The same as HTML, without a script, and made anew every two seconds by the browser."""
    stages = "".join(_stage(stage) for stage in told["stages"])
    state = "ready" if told["ready"] else f"not ready: {told['waits']}"
    return (
        '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>forebay</title>'
        f"<style>{_STYLE}</style><h1>forebay</h1><p>{html.escape(told['what'])}: {html.escape(state)}</p>{stages}"
    )


def _stage(stage: Mapping[str, Any]) -> str:
    head = '<tr><th class="n">partition</th>' + "".join(f"<th>{name}</th>" for name in _COLUMNS) + "</tr>"
    rows = "".join(
        f'<tr><td class="n">{html.escape(one["partition"])}</td>'
        + "".join(f"<td>{'' if one[name] is None else format(one[name], ',')}</td>" for name in _COLUMNS)
        + "</tr>"
        for one in stage["partitions"]
    )
    waits = f": {html.escape(stage['waits'])}" if stage["waits"] else ""
    title = f"<h2>{html.escape(stage['name'])}{waits}</h2><p>group {html.escape(stage['group'])}</p>"
    return f"{title}<table>{head}{rows}</table>"
