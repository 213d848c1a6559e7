"""One drive through the letters: judge some, deliver those that would be accepted, count the others.

A crash anywhere leaves some records sent and the others not, and the same drive again sends all of them: the first
copies are then known, and the Intake drops the second ones (origin.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from forebay.streams.deadletter import DeadLetter
from forebay.streams.deadletters import Letters, Told
from forebay.streams.letterfilter import Placed
from forebay.streams.redrive.judge import Judge, Verdict
from forebay.streams.redrive.originals import Original
from forebay.streams.redrive.sender import Delivery, Failure

CHUNK_LETTERS, CHUNK_BYTES = 1000, 8 << 20  # in memory at a time
MOST_NAMED = 1000  # failures that are kept by name


@dataclass(frozen=True)
class Driven:
    """So many `letters` were met; the records of `delivered` ones are acknowledged. `left` counts the others by why
    they were not sent, `failed` names the first 1,000 of the `failures` that were. `stopped` says why what lies behind
    was not looked at; "" where all was."""

    letters: int
    delivered: int
    left: Mapping[str, int]
    failed: Sequence[Failure] = ()
    failures: int = 0
    stopped: str = ""


def drive(
    letters: Letters,
    judge: Judge,
    whole: Callable[[DeadLetter], Original | None],
    deliver: Callable[[Sequence[Verdict]], Delivery],
    told: Told,
    *,
    events: bool = False,
) -> Driven:
    """Judge each of `letters` and `deliver` those that would be accepted; with `events` each verdict has its event.
    Raises BrokerUnavailable: what was delivered by then stays so."""
    met = delivered = failures = 0
    left, failed, stopped = Counter[str](), list[Failure](), ""
    for chunk in _chunks(letters.read(told)):
        met += len(chunk)
        verdicts = judge.judge(chunk, whole, events=events)
        left.update(verdict.reason for verdict in verdicts if verdict.reason)
        chosen = [verdict for verdict in verdicts if not verdict.reason]
        delivery = deliver(chosen)
        delivered += len(chosen) - len(delivery.failed)
        failures += len(delivery.failed)
        failed += delivery.failed[: MOST_NAMED - len(failed)]
        if stopped := delivery.stopped:
            break
    return Driven(met, delivered, dict(left.most_common()), failed, failures, stopped)


def _chunks(letters: Iterator[Placed]) -> Iterator[list[Placed]]:
    chunk, size = list[Placed](), 0
    for placed in letters:
        chunk.append(placed)
        size += placed.letter.length + placed.letter.key_length  # of the whole record, which may be fetched
        if len(chunk) == CHUNK_LETTERS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
