"""`forebay topics`"""

from __future__ import annotations

from typing import Annotated

import typer

from forebay.cli.flags import Bootstrap, GenerationName, Json, Prefix, noun, print_rows, settings

topics_app = noun("The topics: what is there, and making what is missing.")


@topics_app.command("create")
def topics_create(
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    generation: GenerationName = None,
    partitions: Annotated[int | None, typer.Option(help="Of new topics", show_default=False)] = None,
    replication: Annotated[int, typer.Option(help="Copies of each partition; 3 in production")] = 1,
    json: Json = False,
) -> None:
    """Create the topics that are missing; check the settings of those that are there."""
    from forebay.cli.cluster import cluster
    from forebay.streams.topics import Topics, ensure

    s = settings(bootstrap=bootstrap, topic_prefix=prefix, generation=generation, partitions=partitions)
    found = ensure(
        cluster(s), Topics(s.topic_prefix), generation=s.generation, partitions=s.partitions, replication=replication
    )
    rows = [
        (f.info.name, f.info.partitions, f.info.cleanup_policy, "created" if f.created else "was there") for f in found
    ]
    print_rows(json, ("topic", "partitions", "cleanup", "state"), rows)


@topics_app.command("list")
def topics_list(
    bootstrap: Bootstrap = None, prefix: Prefix = None, generation: GenerationName = None, json: Json = False
) -> None:
    """The topics of this installation and their settings."""
    from forebay.cli.cluster import cluster
    from forebay.streams.topics import SIDES, Topics, describe

    s = settings(bootstrap=bootstrap, topic_prefix=prefix, generation=generation)
    topics = Topics(s.topic_prefix)
    names = [*topics.own_sources, *(topics.events(side) for side in SIDES), topics.catalogue, topics.dead_letters]
    names += [topics.vectors(s.generation, side) for side in SIDES]
    found = describe(cluster(s), names).values()
    rows = [(i.name, i.partitions, i.replication, i.timestamp_type, i.cleanup_policy, i.retention_ms) for i in found]
    print_rows(json, ("topic", "partitions", "replication", "timestamps", "cleanup", "retention_ms"), rows)
