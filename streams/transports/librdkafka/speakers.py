"""Who tells the item side of what users did: the workers of one generation, never those of two.

Each generation's user side could send the same interactions, and every item count would double. The Intake will be the
one who tells; until then a worker that would be a second speaker refuses to start.
"""

from __future__ import annotations

from forebay.errors import GenerationConflict
from forebay.streams.cluster import Address
from forebay.streams.topics import Topics
from forebay.streams.transports.librdkafka.groups import alive, members

SILENT = ".silent"  # at the end of the client id of a worker that does not tell the item side


def client_id(group: str, slot: str, *, speaks: bool) -> str:
    """The name of a worker among its group's members."""
    return f"{group}.{slot}{'' if speaks else SILENT}"


def refuse_second_speaker(bootstrap: Address, topics: Topics, generation: str) -> None:
    """Raise GenerationConflict when a running worker of another generation tells the item side."""
    mine = topics.group(generation, "user")
    for group in sorted(alive(bootstrap) - {mine}):
        other = topics.generation_of(group, "user")
        if other is None:
            continue
        speaking = [m for m in members(bootstrap, group) if not m.client.endswith(SILENT)]
        if speaking:
            raise GenerationConflict(
                f"generation {other} tells the item side already, and a second one would double every item count",
                where=f"group {group}, worker at {speaking[0].host}",
                do=f"Stop the workers of {other} first, or feed {generation} beside it: forebay work --silent",
            )
