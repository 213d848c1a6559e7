"""Hooks: the core says what happened, and whoever wants to know listens. No metrics library is imported by the core.

    emit("step", number=4, name="transact", stage="user", seconds=0.008, events=4096)

| name | said by | details |
| --- | --- | --- |
| step | worker | number 1–5 (streams/worker/processor.py), name, stage (intake, user, item), seconds, events |
| aborted | worker | stage, error (its class): a commit failed, and its batch is done again or by another worker |
| restored | worker | stage, partition, events applied silently, seconds |
| left_memory | Processor | stage, partition, rows of idle entities that left memory |
| fetched | worker | stage, partition, bytes, seconds: a partition's state came from a checkpoint |
| standby_used | worker | stage, partition, `behind` (offsets): a partition's state was kept warm here |
| checkpoint | worker | stage, partition, offset, bytes, new_bytes that travelled, seconds |
| checkpoint_failed | worker | stage, partition: none was made, and it is tried again |
| rebalanced | faust transport, faust app | stage (`app`: the app's own group), seconds |
| accepted | Intake | stage, events of a batch that is committed, duplicates that it dropped |
| encoded | Processor | stage, segment, rows whose vector was made in a batch |
| deferred | Processor | stage, partition, rows with a vector that waits from now on: encoders do not keep up |
| dead_letter | Intake | stage, reason: a record's refusal is committed |
| forgotten | Intake | stage, partition, since (ms): for want of memory, older events are late from now on |
| catalogue_full | Intake | stage, items that were left out of memory, memory (bytes) |
| source_paused | Intake | stage, topic, share of its last records that are no events, records |
| source_resumed | Intake | stage, topic, seconds that it stood still, by (`sample`, `command`, or `moved` elsewhere) |
| stranger | Intake, Processor, jobs | stage, partition: no update in the catalogue, or no Block, was stepped over |
| undeclared | Processor | stage, kind (`action`, or whose attribute), name (100, then `(other)`), committed events |
| held | Processor | side, segment, rows whose vector was not finite and stays as it was |
| extended | extend | number 1–6 (streams/extend.py), step, generation; of a partition stage and partition too |
| applied | Replica | side, rows, seconds since the newest record's append time |
| request | server | path, status, seconds from its first byte, waited of them before its work began |
| user_read | server | path, seconds that a lookup took whose user was not in memory |
| lookup_step | server | path, step (read, user, candidates, score, answer), seconds: of one lookup in 16 |
| served | server | side, segment, state in an answer, seconds since its as_of (absent where nothing is known) |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

Detail: TypeAlias = str | int | float
Hook: TypeAlias = Callable[[str, Mapping[str, Detail]], None]


class News(NamedTuple):
    """What is told when it holds: see `later`."""

    name: str
    details: Mapping[str, Detail]


_hooks: tuple[Hook, ...] = ()


def add_hook(hook: Hook) -> Callable[[], None]:
    """Call `hook(name, details)` at each emit, on the thread that emits; returns what takes it off again.

    A hook that raises stops the batch or the request that it listens to: hooks that must not, catch.
    """
    global _hooks
    _hooks = (*_hooks, hook)

    def remove() -> None:
        global _hooks
        _hooks = tuple(h for h in _hooks if h is not hook)

    return remove


def emit(name: str, /, **details: Detail) -> None:
    """Tell every hook. Costs an empty loop when there is none."""
    for hook in _hooks:
        hook(name, details)


def later(name: str, /, **details: Detail) -> News:
    """What `emit` would tell now, for `tell`: of what counts once it is committed."""
    return News(name, details)


def tell(news: Iterable[News]) -> None:
    """Tell every hook all of it, in order."""
    for name, details in news:
        for hook in _hooks:
            hook(name, details)
