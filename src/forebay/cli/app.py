"""The verbs and their words. Each takes its settings from file < environment < flag and hands them to one function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from forebay import __version__
from forebay.cli.checkpointverbs import checkpoints_app
from forebay.cli.flags import (
    Bootstrap,
    CheckpointPlace,
    Data,
    GenerationName,
    Json,
    Prefix,
    help_where_nothing_is_asked,
    noun,
    print_rows,
    settings,
)
from forebay.cli.letterverbs import deadletters_app
from forebay.cli.sourceverbs import source_app
from forebay.cli.topicverbs import topics_app
from forebay.config import load
from forebay.errors import ForebayError, UsageError
from forebay.secret import Secret

app = typer.Typer(
    name="forebay",
    help="Segment vectors of a recommender, ready before the request.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
spec_app = noun("Specs: checking one, and seeing what it declares.")
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


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, to be asked")] = False,
    port: Annotated[int, typer.Option(help="Of the lookup server")] = 8080,
    kafka_port: Annotated[int, typer.Option(help="Of the Kafka broker")] = 19092,
    json: Json = False,
) -> int:
    """The main job on MovieLens-100K: real Kafka, a trained bundle, a stream worker, a lookup server, a ranking that
    moves."""
    from forebay.cli.demo import Demo

    return Demo(port=port, kafka_port=kafka_port, keep=keep, as_json=json).run()


@app.command()
def kafka(
    directory: Annotated[Path, typer.Option("--dir", help="Where its data lives")] = Path("forebay-data/kafka"),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1")] = 9092,
) -> None:
    """Run Apache Kafka for development in the foreground: one node, no Java and no Docker needed."""
    from forebay.cli.processes import stop_event
    from forebay.streams.dev.devkafka import DevKafka

    stop = stop_event()
    with DevKafka(directory, port=port) as broker:
        typer.echo(f"Kafka 4.3.1 on {broker.bootstrap}, data in {broker.directory}. Ctrl-C ends it.")
        while not stop.wait(0.5):
            if broker.pid is None:
                raise ForebayError("Kafka ended by itself", where=str(broker.log_file), do="Read its log")


@app.command()
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


Into = Annotated[
    str | None, typer.Option("--into", help="The archive: a folder, or a URL that fsspec knows", show_default=False)
]


@app.command("import")
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def backfill(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle")],
    events: Annotated[str, typer.Option("--from", help="An archive, a JSON-lines file, movielens or synthetic:EVENTS")],
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    generation: GenerationName = None,
    data: Data = None,
    state: Annotated[Path | None, typer.Option(help="Folder of partition stores", show_default=False)] = None,
    checkpoints: CheckpointPlace = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="That build partitions side by side", show_default="one for each core")
    ] = None,
    json: Json = False,
) -> None:
    """Build a generation out of history: partition stores at the Cut and their checkpoints, vectors in the generation's
    topics, manifest."""
    from forebay.cli.train import backfill as verb

    s = settings(
        bootstrap=bootstrap,
        topic_prefix=prefix,
        generation=generation,
        data_dir=data,
        state_dir=state,
        checkpoints=checkpoints,
    )
    verb(s, bundle, events, json, processes)


@app.command()
def extend(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle that has one more segment")],
    of: Annotated[str, typer.Option("--of", help="The generation that runs, which is only read from")],
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    generation: GenerationName = None,
    data: Data = None,
    state: Annotated[Path | None, typer.Option(help="Folder of partition stores", show_default=False)] = None,
    checkpoints: CheckpointPlace = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Events of the log, and rows, in a second; 0: as fast as it goes")
    ] = 50_000,
    json: Json = False,
) -> None:
    """Build a generation whose bundle has one more segment, out of a running one's checkpoints and the clean logs: what
    both have is carried over. Killed, it goes on with the partition that it was at."""
    from forebay.cli.extend import extend as verb
    from forebay.cli.extend import step_back

    step_back()
    s = settings(
        bootstrap=bootstrap,
        topic_prefix=prefix,
        generation=generation,
        data_dir=data,
        state_dir=state,
        checkpoints=checkpoints,
    )
    verb(s, bundle, of, rate, json)


@app.command()
def work(
    only: Annotated[
        str | None, typer.Option(help="intake, user or item: one stage instead of all three", show_default=False)
    ] = None,
    slot: Annotated[str, typer.Option(help="Names this worker: stable over restarts, another for each process")] = "0",
    status: Annotated[
        str | None,
        typer.Option(
            help="host:port that answers GET /ready, /health and /metrics, and forebay source resume",
            show_default=False,
        ),
    ] = None,
    transport: Annotated[
        str, typer.Option(help="Whose consumers carry: librdkafka or faust, the same for all workers of a group")
    ] = "librdkafka",
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    generation: GenerationName = None,
    data: Data = None,
    state: Annotated[Path | None, typer.Option(help="Folder of the workers' stores", show_default=False)] = None,
    checkpoints: CheckpointPlace = None,
) -> None:
    """Run the stream's workers, events in and segment vectors out, until they are stopped: the Intake, and both sides
    of a generation."""
    from forebay.cli.processes import work as verb

    s = settings(
        bootstrap=bootstrap,
        topic_prefix=prefix,
        generation=generation,
        data_dir=data,
        state_dir=state,
        checkpoints=checkpoints,
        status=status,
    )
    verb(s, only, slot, transport=transport)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on", show_default=False)] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    generation: GenerationName = None,
    data: Data = None,
    vectors: Annotated[Path | None, typer.Option(help="Folder of this node's copy", show_default=False)] = None,
    max_lag: Annotated[float, typer.Option(help="Seconds behind the log up to which this node is ready")] = 30.0,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="That answer: from 2 on beside one that writes, on the next ports too")
    ] = 1,
    tables: Annotated[
        Path | None, typer.Option(help="Folder of the rows that several processes share", show_default=False)
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Of the users, like 2/8: the second of eight nodes", show_default=False)
    ] = None,
) -> int:
    """Serve lookups over HTTP from this node's own copy of a generation's vectors."""
    flags = {
        "host": host,
        "port": port,
        "bootstrap": bootstrap,
        "topic_prefix": prefix,
        "generation": generation,
        "data_dir": data,
        "vectors_dir": vectors,
        "tables_dir": tables,
        "shard": shard,
    }
    if processes > 1:
        from forebay.cli.node import serve_many

        return serve_many(flags, max_lag, processes)
    from forebay.cli.processes import serve as verb

    verb(settings(**flags), max_lag)
    return 0


@app.command()
def lookup(
    entity: Annotated[str, typer.Argument(help="user:ID or item:ID")],
    k: Annotated[int, typer.Option("-k", help="Items to show for a user")] = 10,
    use: Annotated[str, typer.Option(help="rank what retrieve finds, or retrieve alone")] = "rank",
    candidates: Annotated[int, typer.Option(min=1, help="With rank: how many items retrieve finds for it")] = 200,
    filter: Annotated[
        str | None, typer.Option(help="Only items that meet this condition: year >= 1990", show_default=False)
    ] = None,
    boost: Annotated[
        list[str] | None,
        typer.Option(
            help="CONDITION=WEIGHT, added to the score of items that meet it; again for more", show_default=False
        ),
    ] = None,
    exclude_seen: Annotated[bool, typer.Option("--exclude-seen", help="Without the user's last items")] = False,
    server: Annotated[str | None, typer.Option(help="Address of a lookup server", show_default=False)] = None,
    json: Json = False,
) -> None:
    """What is known of an entity: its segments with both times and, for a user, the best items and why."""
    from forebay.cli.lookup import LookupFlags
    from forebay.cli.lookup import lookup as verb

    verb(
        settings(server=server),
        entity,
        LookupFlags(k, use, candidates, filter or "", tuple(boost or ()), exclude_seen),
        json,
    )


@app.command()
def doctor(
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    generation: GenerationName = None,
    data: Data = None,
    server: Annotated[str | None, typer.Option(help="Address of a lookup server", show_default=False)] = None,
    json: Json = False,
) -> int:
    """One line for each check, with the remedy of what is wrong. Exit code 1 when something is."""
    from forebay.cli.doctor import doctor as verb

    s = settings(bootstrap=bootstrap, topic_prefix=prefix, generation=generation, data_dir=data, server=server)
    return verb(s, json)


@app.command()
def bench(
    what: Annotated[
        str, typer.Argument(help="lookup, apply, stream, backfill, index, index-1m, server, or all: the first two")
    ] = "all",
    repeats: Annotated[int, typer.Option(help="Of each measurement; the median and the spread are told")] = 5,
    json: Json = False,
) -> None:
    """Measure this machine against the budgets: lookups in process and over HTTP, events through a Processor, the
    whole stream, and a backfill, on a broker of its own; the item index of 100,000 or a million beside its peers;
    server processes under one client and four."""
    from forebay.cli.bench import bench as verb

    verb(what, repeats, json)


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


@app.command()
def config(json: Json = False) -> None:
    """Every setting, its value and where that came from."""
    found, origins = load({})
    rows = [(name, _shown(getattr(found, name)), origin) for name, origin in origins.items()]
    print_rows(json, ("setting", "value", "from"), rows)


def _shown(value: Any) -> Any:
    """A setting as people and programs see it; a secret shows only that there is one."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value) if isinstance(value, Secret) else value
