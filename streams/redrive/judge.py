"""What would become of a letter's record if it came again now: judged by the Intake's own rules, duplicates apart.

Only what would be accepted is worth sending: a record that is refused again leaves one letter more behind, and a drive
of all letters would find both the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.clock import now_ms
from forebay.events import MAX_RECORD_BYTES, encode
from forebay.segments.blocks.build import events_of
from forebay.streams.deadletter import DeadLetter
from forebay.streams.intake.accept import Accepted, Acceptor, Rules
from forebay.streams.intake.duplicates import Identities
from forebay.streams.letterfilter import Placed
from forebay.streams.origin import is_of_origin
from forebay.streams.redrive.originals import Original
from forebay.streams.sources.codecs import MAX_FOREIGN_BYTES
from forebay.streams.sources.foreign import Foreign
from forebay.streams.sources.translator import Translator
from forebay.streams.sources.waiting import waiting
from forebay.streams.worker.batch import PartitionBatch

PATIENCE_S = 15.0  # for the schemas of some letters: the bound of one answer of a registry is 10
KEPT = 100_000  # records whose letters were met in one drive: 20 MB
# Why a record is not sent, besides the reasons for which the Intake would refuse it again.
NO_ORIGIN = "no_origin"  # the letter does not say which record it is of
ELSEWHERE = "elsewhere"  # it is of a partition that no source of this installation has
TWICE = "twice"  # another letter of the same record came before it
GONE = "gone"  # the letter has a part of it, and the whole is no more
WAITS = "waits"  # its schema is not to be had now: the registry does not answer
NOTHING = "nothing"  # of a foreign topic, by now: a deleted row, where deletes are skipped
REFUSED = "refused"  # the broker refuses what it becomes: the same again, until its topics take larger records


@dataclass(frozen=True)
class Verdict:
    """One letter and the record that it would be. `reason` says why that is not to be sent; "" where it is. `event` is
    what the Intake would make of it, as a line of JSON, where that was asked for."""

    placed: Placed
    reason: str
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    event: bytes = b""


@dataclass
class Judge:
    """Judges letters as of now. `partitions` are how many each source topic has, `rules` the Intake's, and `since` (ms,
    by "topic/partition") from when on it knows what it accepted. `insist` says that what the broker refused is to be
    sent as well, and `foreign` what the records of topics are that others fill."""

    partitions: Mapping[str, int]
    rules: Rules
    since: Mapping[str, int] = field(default_factory=dict)
    insist: bool = False
    foreign: Sequence[Foreign] = ()

    def __post_init__(self) -> None:
        self._names = tuple(f"{topic}/{p}" for topic, count in self.partitions.items() for p in range(count))
        self._numbers = {name: number for number, name in enumerate(self._names)}
        translators = {one.topic: Translator(one) for one in self.foreign}
        mine = {number: name.rpartition("/")[0] for name, number in self._numbers.items()}
        self._translators = {n: translators[topic] for n, topic in mine.items() if topic in translators}
        self._acceptor = Acceptor(self._names, self.rules, self._translators)
        self._patience_s = PATIENCE_S
        self._met: dict[tuple[str, int, int], None] = {}

    def judge(
        self, letters: Sequence[Placed], whole: Callable[[DeadLetter], Original | None], *, events: bool = False
    ) -> list[Verdict]:
        """A verdict for each letter, in order. `whole` finds the record of one that has a part of it. Waits 15 s for
        schemas that letters need, and once more when they could be had since."""
        verdicts = [self._first_look(placed, whole) for placed in letters]
        batches = self._batches(verdicts)
        waits = waiting(batches, self._translators, self._patience_s)
        self._patience_s = 0.0 if waits else PATIENCE_S  # a registry that is away is not waited for by each thousand
        for place in waits:
            for letter_place in batches[place].offsets:
                verdicts[letter_place] = Verdict(verdicts[letter_place].placed, WAITS)
        batches = [batch for place, batch in enumerate(batches) if place not in waits]
        if not batches:
            return verdicts
        places = [place for batch in batches for place in batch.offsets]
        known = {b.partition: _Nothing(self.since.get(self._names[b.partition], 0)) for b in batches}
        accepted = self._acceptor.accept(batches, known)
        told = {places[row] for row in accepted.rows.tolist()}
        for place in places:
            if place not in told:
                verdicts[place] = Verdict(verdicts[place].placed, NOTHING)
        for letter in accepted.letters:
            verdicts[letter.offset] = Verdict(verdicts[letter.offset].placed, letter.reason)
        if events:
            for row, event in zip(accepted.rows.tolist(), self._events(accepted), strict=True):
                verdicts[places[row]] = Verdict(verdicts[places[row]].placed, "", event=event)
        return verdicts

    def _batches(self, verdicts: Sequence[Verdict]) -> list[PartitionBatch]:
        """The records of a source that have no reason yet; of a foreign one each by itself, as each may wait alone."""
        now, found = now_ms(), dict[tuple[int, int], list[tuple[int, Verdict]]]()
        for place, verdict in enumerate(verdicts):
            if not verdict.reason:
                number = self._numbers[_source(verdict.placed.letter)]
                alone = place if number in self._translators else -1
                found.setdefault((number, alone), []).append((place, verdict))
        return [_batch(number, those, now) for (number, _), those in found.items()]

    def _first_look(self, placed: Placed, whole: Callable[[DeadLetter], Original | None]) -> Verdict:
        letter = placed.letter
        origin = letter.origin
        if origin is None:
            return Verdict(placed, NO_ORIGIN)
        if (number := self._numbers.get(_source(letter))) is None:
            return Verdict(placed, ELSEWHERE)
        if not self._is_first((origin.topic, origin.partition, origin.offset)):
            return Verdict(placed, TWICE)
        if letter.reason == REFUSED and not self.insist:
            return Verdict(placed, REFUSED)
        key, value, headers = letter.key, letter.value, letter.headers
        if not letter.is_whole:
            most = MAX_FOREIGN_BYTES if number in self._translators else MAX_RECORD_BYTES
            if letter.length > most:  # refused, whatever is in it
                return Verdict(placed, "too_large")
            original = whole(letter)
            if original is None:
                return Verdict(placed, GONE)
            key, value, headers = original.key, original.value, original.headers
        own = [(name, data) for name, data in headers if not is_of_origin(name)]
        return Verdict(placed, "", key, value, [*own, *origin.to_headers()])

    def _is_first(self, record: tuple[str, int, int]) -> bool:
        if record in self._met:
            return False
        self._met[record] = None
        if len(self._met) > KEPT:
            del self._met[next(iter(self._met))]
        return True

    def _events(self, accepted: Accepted) -> Iterable[bytes]:
        return (encode(event) for block in self._acceptor.whole(accepted) for event in events_of(block))


def _source(letter: DeadLetter) -> str:
    return f"{letter.topic}/{letter.partition}"


class _Nothing:
    """Nothing was accepted before."""

    def __init__(self, since: int) -> None:
        self.since = since

    def add(self, times: Ints, identities: Identities) -> Bools:
        return np.ones(len(times), np.bool_)


def _batch(number: int, found: Sequence[tuple[int, Verdict]], now: int) -> PartitionBatch:
    """The records of one source as if they came now; the place of each among the letters stands for its offset."""
    verdicts = [verdict for _, verdict in found]
    return PartitionBatch(
        number,
        [v.key for v in verdicts],
        [v.value for v in verdicts],
        [place for place, _ in found],
        [now] * len(found),
        [v.headers for v in verdicts],
    )
