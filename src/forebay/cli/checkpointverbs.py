"""`forebay checkpoints`"""

from __future__ import annotations

from typing import Annotated

import typer

from forebay.cli.flags import CheckpointPlace, Data, Json, noun, settings

checkpoints_app = noun("Copies of the workers' state, from which another machine goes on.")


@checkpoints_app.command("list")
def checkpoints_list(place: CheckpointPlace = None, data: Data = None, json: Json = False) -> int:
    """Every checkpoint, the newest of each store first. Exit code 3 when one cannot be read."""
    from forebay.cli.checkpoints import list_all

    return list_all(settings(checkpoints=place, data_dir=data), json)


@checkpoints_app.command("show")
def checkpoints_show(
    of: Annotated[str, typer.Argument(help="GENERATION/STORE, as g1/user-3: its newest; or …/CHECKPOINT")],
    place: CheckpointPlace = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """One checkpoint: where it stands in the log, and its files."""
    from forebay.cli.checkpoints import show

    show(settings(checkpoints=place, data_dir=data), of, json)


@checkpoints_app.command("prune")
def checkpoints_prune(
    keep: Annotated[
        int | None, typer.Option(min=1, help="Of each store", show_default="the setting checkpoints_kept")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and remove nothing")] = False,
    place: CheckpointPlace = None,
    data: Data = None,
    json: Json = False,
) -> int:
    """Remove all but the newest checkpoints of each store, and what a crash left. Workers do so after each that they
    make."""
    from forebay.cli.checkpoints import prune

    return prune(settings(checkpoints=place, data_dir=data), keep, dry_run, json)
