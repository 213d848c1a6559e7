"""The command line: every verb by its name, in the order of the help. The verbs stand in the files of their nouns; each
takes its settings from file < environment < flag and hands them to one function. Nothing is done here, and a crash
leaves nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from forebay import __version__
from forebay.cli.bundleverbs import evaluate, spec_app, train
from forebay.cli.checkpointverbs import checkpoints_app
from forebay.cli.eventverbs import archive, import_, publish
from forebay.cli.flags import help_where_nothing_is_asked
from forebay.cli.generationverbs import backfill, extend, lookup, serve, work
from forebay.cli.letterverbs import deadletters_app
from forebay.cli.machineverbs import bench, config, demo, doctor, kafka
from forebay.cli.sourceverbs import source_app
from forebay.cli.topicverbs import topics_app

app = typer.Typer(
    name="forebay",
    help="Segment vectors of a recommender, ready before the request.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
VERBS: Mapping[str, Callable[..., int | None]] = {
    "demo": demo, "kafka": kafka, "publish": publish, "import": import_, "archive": archive, "evaluate": evaluate,
    "train": train, "backfill": backfill, "extend": extend, "work": work, "serve": serve, "lookup": lookup,
    "doctor": doctor, "bench": bench, "config": config,
}  # fmt: skip
for name, verb in VERBS.items():
    app.command(name)(verb)
for name, verbs in {
    "topics": topics_app, "spec": spec_app, "deadletters": deadletters_app, "checkpoints": checkpoints_app,
    "source": source_app,
}.items():  # fmt: skip
    app.add_typer(verbs, name=name)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"forebay {__version__}")
        raise typer.Exit()


@app.callback()
def forebay(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    del version
    help_where_nothing_is_asked(context)
