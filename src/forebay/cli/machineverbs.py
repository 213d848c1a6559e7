"""`forebay demo | kafka | doctor | bench | config`: the machine at hand, and what of Forebay is on it. app.py names the
verbs.

None keeps anything but `kafka`, whose folder is a broker's: a crash leaves a log that the next start recovers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from forebay.cli.flags import Bootstrap, Data, GenerationName, Json, Prefix, print_rows, settings
from forebay.config import load
from forebay.errors import ForebayError
from forebay.secret import Secret


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


def kafka(
    directory: Annotated[Path, typer.Option("--dir", help="Where its data lives")] = Path("forebay-data/kafka"),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1")] = 9092,
) -> None:
    """Run Apache Kafka for development in the foreground: one node, no Java and no Docker needed."""
    from forebay.cli.processes import stop_event
    from forebay.streams.dev.devkafka import DevKafka
    from forebay.streams.dev.kafkajars import VERSION

    stop = stop_event()
    with DevKafka(directory, port=port) as broker:
        typer.echo(f"Kafka {VERSION} on {broker.bootstrap}, data in {broker.directory}. Ctrl-C ends it.")
        while not stop.wait(0.5):
            if broker.pid is None:
                raise ForebayError("Kafka ended by itself", where=str(broker.log_file), do="Read its log")


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
