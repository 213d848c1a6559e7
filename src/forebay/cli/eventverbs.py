"""`forebay publish | import | archive`: events on their way in, and history that is kept. app.py names the verbs.

What a killed one leaves is said where its work is: publish.py, imports.py, streams/archive.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forebay.cli.flags import Bootstrap, Json, Prefix, settings
from forebay.errors import UsageError

Into = Annotated[
    str | None, typer.Option("--into", help="The archive: a folder, or a URL that fsspec knows", show_default=False)
]


def publish(
    events: Annotated[
        str | None, typer.Argument(help="A JSON-lines file, or - for standard input", show_default=False)
    ] = None,
    synthetic: Annotated[
        int | None, typer.Option(min=1, help="Make up a world of as many impressions instead", show_default=False)
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Of the synthetic world", show_default=False)] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Of the synthetic world", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes up the same world")] = 0,
    rate: Annotated[float, typer.Option(help="Events a second; 0: as fast as it goes")] = 0.0,
    to: Annotated[
        Path | None, typer.Option(help="Write the synthetic world to this file, without a broker", show_default=False)
    ] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    json: Json = False,
) -> int:
    """Send events to Kafka: validated, keyed by entity, idempotent. Exit code 3 when some lines were refused."""
    from forebay.cli.publish import SyntheticFlags, synthesise
    from forebay.cli.publish import publish as verb

    if (events is None) == (synthetic is None):
        raise UsageError("one source of events is needed", do="Name a file, or a size with --synthetic 100000")
    given = settings(bootstrap=bootstrap, topic_prefix=prefix)
    if events is not None:
        return verb(given, events, json)
    return synthesise(given, SyntheticFlags(synthetic or 0, users, items, seed, rate, to), json)


def import_(
    files: Annotated[list[str], typer.Argument(help="Files of events, or folders of them, here or by their URL")],
    into: Into = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="json (lines), csv or parquet", show_default="as a file's name ends"),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", help="FIELD=COLUMN: user=customer_id, attributes.page=page_url", show_default=False),
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE in every event: action=rate", show_default=False),
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option("--split", help="FIELD=SIGN between values: item_attributes.genres=|", show_default=False),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option(
            "--text", help="FIELD: this attribute is a text, also where it looks like a number", show_default=False
        ),
    ] = None,
    time_unit: Annotated[str, typer.Option(help="Of times that are numbers: s, ms, us or ns")] = "ms",
    refused: Annotated[
        str | None, typer.Option(help="File for the rows that are refused", show_default="ARCHIVE/refused.jsonl")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and refuse, and write no events")] = False,
    json: Json = False,
) -> int:
    """Bring history into the archive, by the rules of the Intake: events that are there already are left out, and rows
    that are no events go to a file. Exit code 3 when there were some."""
    from forebay.cli.imports import ImportFlags
    from forebay.cli.imports import bring as verb

    flags = ImportFlags(form, columns or (), constants or (), splits or (), texts or (), time_unit, refused, dry_run)
    return verb(settings(archive=into), files, flags, json)


def archive(
    into: Into = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until it is stopped, once an hour")] = False,
    every: Annotated[str | None, typer.Option(help="Go on, as often as this: 15m", show_default=False)] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    json: Json = False,
) -> int:
    """Write what both clean logs hold, and the archive does not, into Parquet files. Stopped, it writes the file that
    it is at, and the next run goes on behind it."""
    from forebay.cli.archive import archive as verb

    return verb(settings(archive=into, bootstrap=bootstrap, topic_prefix=prefix), follow, every, json)
