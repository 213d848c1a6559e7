"""`forebay deadletters`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forebay.cli.flags import Bootstrap, Json, Prefix, noun, settings

deadletters_app = noun("Records that the Intake refused: how many and why, one of them, and sending them again.")


Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Of this reason only", show_default=False)]
Sources = Annotated[
    list[str] | None, typer.Option("--source", help="From this topic only, or TOPIC/PARTITION", show_default=False)
]
Since = Annotated[
    str | None, typer.Option(help="Refused since then: 2h (ago), 2026-11-27T09:30, or ms", show_default=False)
]
Until = Annotated[str | None, typer.Option(help="Refused before then; written as --since", show_default=False)]
Last = Annotated[int, typer.Option(min=0, help="How many of the newest offsets are looked through; 0 for all")]


@deadletters_app.command("list")
def deadletters_list(
    reason: Reasons = None,
    source: Sources = None,
    since: Since = None,
    until: Until = None,
    last: Last = 1_000_000,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """Reasons: how many, the newest, and where that one is."""
    from forebay.cli.deadletters import list_reasons
    from forebay.cli.letterflags import LetterFlags

    flags = LetterFlags(reason or (), source or (), since, until, last)
    list_reasons(settings(bootstrap=bootstrap, topic_prefix=prefix), flags, json)


@deadletters_app.command("show")
def deadletters_show(
    place: Annotated[
        str | None,
        typer.Argument(
            help="TOPIC-PARTITION-OFFSET of the record, or the letter's own [PARTITION:]OFFSET; without it the newest",
            show_default=False,
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Write the value's bytes as they are, and nothing else")] = False,
    reason: Reasons = None,
    source: Sources = None,
    since: Since = None,
    until: Until = None,
    last: Last = 1_000_000,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    json: Json = False,
) -> None:
    """One dead letter with all that is known about it and its bytes, safe for a terminal."""
    from forebay.cli.deadletters import show
    from forebay.cli.letterflags import LetterFlags

    flags = LetterFlags(reason or (), source or (), since, until, last)
    show(settings(bootstrap=bootstrap, topic_prefix=prefix), place, flags, raw, json)


@deadletters_app.command("redrive")
def deadletters_redrive(
    reason: Reasons = None,
    source: Sources = None,
    since: Since = None,
    until: Until = None,
    last: Last = 0,
    to: Annotated[
        Path | None,
        typer.Option(help="Write the events to this file, for forebay import, and send nothing", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before many are sent")] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    json: Json = False,
) -> int:
    """Send the records of letters to their source topics again: those that the Intake would accept now. Each counts
    once, however often that is done. Exit code 3 when some were left."""
    from forebay.cli.letterflags import LetterFlags
    from forebay.cli.redrive import RedriveFlags, redrive

    letters = LetterFlags(reason or (), source or (), since, until, last)
    return redrive(settings(bootstrap=bootstrap, topic_prefix=prefix), letters, RedriveFlags(to, dry_run, yes), json)
