"""`forebay backfill | extend | work | serve | lookup`: a generation: built, kept fresh, served, asked. app.py names the
verbs.

What a killed one leaves, and who goes on with it, is said where its work is: streams/backfill.py, streams/extend.py,
streams/worker/protocol.py, streams/replica.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forebay.cli.flags import Bootstrap, CheckpointPlace, Data, GenerationName, Json, Prefix, settings


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


def extend(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle that has one more segment")],
    of: Annotated[str, typer.Option("--of", help="The generation that runs, which is only read from")],
    events: Annotated[
        str | None,
        typer.Option(
            "--from", help="An archive of the clean logs, read in front of what they have", show_default=False
        ),
    ] = None,
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
    verb(s, bundle, of, rate, json, events)


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
