"""Why a worker does not go on: each names what an operator does about it."""

from __future__ import annotations

from forebay.errors import Fenced, LogGap, StoreLeads, StoreMissing, TopicMismatch


def log_gap(where: str) -> LogGap:
    """`where` is the partition whose next record is gone."""
    return LogGap(
        "records that the state needs have left the log",
        where=where,
        do="Build another generation from a history that reaches to now: forebay backfill --generation NEW",
    )


def no_state(of: str, folder: str, place: str) -> StoreMissing:
    """`of` is a store, looked for in `folder` and among the Checkpoints at `place`."""
    return StoreMissing(
        f"the state of {of} is neither here nor among the checkpoints at {place}, and not all of it is in the log",
        where=folder,
        do="Name the place that has its checkpoints (checkpoints, in forebay.toml), bring its directory from its last "
        "owner, or build another generation: forebay backfill --generation NEW",
    )


def overtaken(where: str) -> LogGap:
    """Retention took what was to be read next from `where` while a worker was reading."""
    return LogGap(
        "records that were to be read next have left the log",
        where=where,
        do="Start it again: it says what can be done",
    )


def never_accepted(where: str, command: str) -> LogGap:
    """`where` is the source whose next record is gone; `command` goes on after the hole."""
    return LogGap(
        "records have left the log before they were accepted",
        where=where,
        do="Where a history has them, another generation can be built from it: forebay backfill --generation NEW. "
        f"To go on after them: stop the Intake's workers, then {command}",
    )


def grown(topic: str, found: int, known: int, where: str) -> TopicMismatch:
    """`topic` has `found` partitions now, and had `known` when the worker started."""
    return TopicMismatch(
        f"topic {topic} has {found} partitions, and had {known} when this worker started",
        where=where,
        do="Start it again",
    )


def other_count(topic: str, found: int, folded: int, where: str) -> TopicMismatch:
    """`topic` has `found` partitions, and keys were spread over `folded`."""
    return TopicMismatch(
        f"topic {topic} has {found} partitions, and state is folded for {folded}",
        where=where,
        do="Build another generation: forebay backfill --generation NEW",
    )


def store_leads(store: int, group: int, where: str, command: str) -> StoreLeads:
    """The store is at one offset and the group at a lower one, which `command` would move."""
    return StoreLeads(
        f"the store is at offset {store}, the group at {group}",
        where=where,
        do=f"Is this the right --state? If the group was reset: stop its workers, then {command}",
    )


def slot_taken(slot: str, group: str, at: str = "") -> Fenced:
    """Somebody else runs in this slot, on the host that `at` names where it is known."""
    return Fenced(
        f"slot {slot} is that of a running worker{at}",
        where=f"group {group}",
        do="Give each worker process a --slot of its own",
    )
