"""What a transport over Kafka is told: the group that it is a member of, and what it reads there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forebay.streams.cluster import Address
from forebay.streams.transports.librdkafka.ends import Moment
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.source import Source


@dataclass(frozen=True)
class Membership:
    """`sources` are all partitions of some topics; a member of `group` reads its share of them. `name` is the stage's,
    for threads and metrics; `moment` is what ends are asked after. `follows` are all partitions of a topic that is read
    whole.

    With a folder of `seats` the membership is static, where the transport can: a worker that was killed has its
    partitions again at its next start from there, and no other member notices. Else it is missed for a session first.
    """

    bootstrap: Address
    sources: Sequence[Source]
    group: str
    options: WorkerOptions
    name: str
    moment: Moment
    follows: Sequence[Source] = ()
    seats: Path | None = None
