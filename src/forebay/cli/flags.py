"""Flags that several verbs have, and what all verbs do alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from forebay.cli.console import print_json, print_table
from forebay.config import Settings, load

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs")]
Bootstrap = Annotated[str | None, typer.Option(help="Kafka, host:port, several by comma", show_default=False)]
Prefix = Annotated[str | None, typer.Option("--prefix", help="In front of every topic and group", show_default=False)]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of bundles and generations", show_default=False)]
CheckpointPlace = Annotated[
    str | None, typer.Option("--checkpoints", help="Where they are: a folder, or an fsspec URL", show_default=False)
]
GenerationName = Annotated[str | None, typer.Option("--generation", help="Name of the generation", show_default=False)]


def settings(**flags: Any) -> Settings:
    """File < environment < `flags`, of which None are not given. Raises ConfigError."""
    return load(flags)[0]


def help_where_nothing_is_asked(context: typer.Context) -> None:
    """Nothing is done, so that it is a usage error; typer's own `no_args_is_help` has another form in each of its
    versions."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def noun(about: str) -> typer.Typer:
    """The verbs of one noun, as `forebay topics …`."""
    made = typer.Typer(help=about, invoke_without_command=True)
    made.callback()(help_where_nothing_is_asked)
    return made


def print_rows(as_json: bool, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A table for people, or a list of objects for programs."""
    if as_json:
        print_json(
            [{c: str(v) if isinstance(v, Path) else v for c, v in zip(columns, row, strict=True)} for row in rows]
        )
    else:
        print_table(columns, rows)
