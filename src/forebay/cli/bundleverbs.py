"""`forebay evaluate | train | spec`: a bundle, from its spec on. app.py names the verbs.

A training that is killed goes on from its `--checkpoint`, and leaves no half bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forebay.cli.flags import Data, Json, noun, settings

spec_app = noun("Specs: checking one, and seeing what it declares.")


def evaluate(
    events: Annotated[
        str, typer.Option("--from", help="An archive, a JSON-lines file, movielens or synthetic:EVENTS")
    ] = "movielens",
    spec: Annotated[
        Path | None, typer.Option(help="segments.toml; with movielens the built-in one", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The report, one HTML file")] = Path("evaluation.html"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each model; intervals are over them")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="One seed and the main models only: three minutes")] = False,
    json: Json = False,
) -> None:
    """Train, score and compare on the part of the log that no choice was made on; write a report to look at."""
    from forebay.cli.evaluate import evaluate as verb

    verb(events, spec, out, seeds, quick, json)


def train(
    events: Annotated[str, typer.Option("--from", help="An archive, a JSON-lines file, movielens or synthetic:EVENTS")],
    spec: Annotated[
        Path | None, typer.Option(help="segments.toml; with movielens the built-in one", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the bundle", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bundle")] = 0,
    epochs: Annotated[
        int | None, typer.Option(help="At most; it stops when validation does not gain", show_default=False)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="1.0 for 100 thousand events, 0.02 for millions", show_default=False)
    ] = None,
    distill: Annotated[
        float | None, typer.Option(help="Share of the target that an early ranker gives, 0 to 1", show_default=False)
    ] = None,
    regime: Annotated[
        str | None, typer.Option(help="joint, or independent: segments, then fusion, then both", show_default=False)
    ] = None,
    sampling: Annotated[
        str | None, typer.Option(help="none, over or under: even the labels out", show_default=False)
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder to go on from when interrupted", show_default=False)
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Folder of a log for TensorBoard", show_default=False)] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="With --segment: the bundle to renew it in, or to add it to", show_default=False)
    ] = None,
    segment: Annotated[
        str | None,
        typer.Option(help="Train this one alone, as user.recent; with --spec one that it adds", show_default=False),
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Compare fusions, dimensions and segments instead")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Train a bundle on what was known before each event. What is not given is as the spec's [training] table has
    it."""
    from forebay.cli.train import TrainFlags
    from forebay.cli.train import sweep as search
    from forebay.cli.train import train as verb

    flags = TrainFlags(seed, epochs, weight_decay, distill, regime, sampling, checkpoint, log, bundle, segment)
    if sweep:
        search(events, spec, flags, json)
    else:
        verb(settings(data_dir=data), events, spec, out, flags, json)


@spec_app.command("check")
def spec_check(
    path: Annotated[Path, typer.Argument(help="segments.toml")],
    events: Annotated[
        str | None,
        typer.Option("--from", help="Events to hold the label against: an archive, or a file", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Check a spec and print its partition: segments, features, widths, bytes of state and vector for an entity."""
    from forebay.cli.spec import show

    show(path, json, events)
