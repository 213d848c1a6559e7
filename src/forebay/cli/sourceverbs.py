"""`forebay source`"""

from __future__ import annotations

import http.client
import json
from typing import Annotated
from urllib.parse import quote

import typer

from forebay.cli.console import out, print_json
from forebay.cli.flags import Bootstrap, Json, Prefix, noun, settings
from forebay.errors import ForebayError, UsageError

ANSWER_S = 10.0
source_app = noun("The topics that the Intake reads: what they are, what their records become, and reading one again.")


@source_app.command("list")
def source_list(bootstrap: Bootstrap = None, prefix: Prefix = None, json: Json = False) -> None:
    """Every source: our own two topics, and those of [[source]] tables in forebay.toml."""
    from forebay.cli.sources import list_sources

    list_sources(settings(bootstrap=bootstrap, topic_prefix=prefix), json)


@source_app.command("check")
def source_check(
    topic: Annotated[str | None, typer.Argument(help="One of the sources", show_default="all of them")] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    json: Json = False,
) -> int:
    """Read the newest 100 records of each source, and show what they become, or why not. Nothing is committed. Exit
    code 3 when some were refused."""
    from forebay.cli.sources import check

    return check(settings(bootstrap=bootstrap, topic_prefix=prefix), topic, json)


@source_app.command("resume")
def resume(
    topic: Annotated[str, typer.Argument(help="The source's topic, as the worker's log names it")],
    status: Annotated[str, typer.Option(help="host:port that the worker's --status names")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs")] = False,
) -> None:
    """Have a worker read a source again that stands still since too many of its records were no events. All that waits
    is read; what is no event in it becomes dead letters."""
    workers = _asked(topic, status)
    if as_json:
        print_json({"topic": topic, "workers": workers})
    else:
        out.print(f"{topic} is read again by: {', '.join(workers)}", markup=False)


def _asked(topic: str, status: str) -> list[str]:
    """The workers that stood still. Raises ForebayError where none did, or nobody answers."""
    host, _, port = status.removeprefix("http://").rstrip("/").rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise UsageError(f"--status {status}", do="Use host:port, as the worker's own --status has it")
    connection = http.client.HTTPConnection(host.strip("[]") or "127.0.0.1", int(port), timeout=ANSWER_S)
    try:
        connection.request("POST", f"/sources/{quote(topic, safe='')}/resume")
        answer = connection.getresponse()
        data = answer.read(65_536)
    except (OSError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ForebayError(
            f"no worker answers: {said}", where=status, do="Is it running with --status? See: forebay work --help"
        ) from None
    finally:
        connection.close()
    try:
        workers = [str(name) for name in json.loads(data)["resumed"]]
    except (ValueError, KeyError, TypeError):
        raise ForebayError("the answer is not that of a worker", where=status, do="Name its --status") from None
    if not workers:
        raise ForebayError(
            f"{topic} does not stand still there", where=status,
            do="Each worker process has its own sources: forebay doctor says which stand still, its log why",
        )  # fmt: skip
    return workers
