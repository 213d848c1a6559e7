"""What a training run reads, made once: the parts of a history with what was known before each of their impressions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from forebay.arrays import Bools, Floats, Ints, Places
from forebay.errors import UsageError
from forebay.segments.history import History
from forebay.segments.history.choices import Choices
from forebay.segments.history.examples import Examples
from forebay.segments.history.labelcounts import LabelCounts
from forebay.segments.history.readings import Question, answers
from forebay.segments.history.scratch import Scratch
from forebay.segments.spec import SIDES, SegmentSpec, Side, Spec
from forebay.segments.state.kept import Kept
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import Inputs, SegmentReader, Vocabulary
from forebay.segments.training.options import TrainingOptions


@dataclass(frozen=True)
class Part:
    """n impressions: `inputs` of every segment by its title, as of a staleness; `labels` bool [n]; `users` and `items`
    int64 [n], row numbers in the logs; `times` int64 [n] (ms)."""

    inputs: Mapping[str, Kept]
    labels: Bools
    users: Ints
    items: Ints
    times: Ints

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Places) -> Part:
        """The impressions at `index`."""
        inputs = {title: i.subset(index) for title, i in self.inputs.items()}
        return Part(inputs, self.labels[index], self.users[index], self.items[index], self.times[index])

    def take(self, segments: Iterable[SegmentSpec], index: Places) -> dict[str, Inputs]:
        """The segments' inputs of the impressions at `index`."""
        return {s.title: self.inputs[s.title].take(index) for s in segments}


@dataclass(frozen=True)
class Asked:
    """`choices` of the validation part as a network reads them: `users` are the inputs of their m users just before,
    `catalogues` those of all items at each of its midnights."""

    choices: Choices
    users: Mapping[str, Inputs]
    catalogues: tuple[Mapping[str, Inputs], ...]


@dataclass(frozen=True)
class Parts:
    """A history cut by time, as every spec of the same attributes and label, and every seed, reads it: `examples` are
    all impressions before `end_ms`, `train` those before `cut_ms`, `validation` the others."""

    examples: Examples
    train: Examples
    validation: Examples
    cut_ms: int
    end_ms: int

    @classmethod
    def of(cls, spec: Spec, history: History, options: TrainingOptions) -> Parts:
        """What comes after the validation part is not looked at. Raises UsageError where a part does not have both
        labels."""
        cut = history.moment(options.train_share)
        end = history.moment(min(1.0, options.train_share + options.validation_share))
        examples = Examples.of(spec, history.before(end))
        found = cls(examples, examples.between(0, cut), examples.between(cut, end), cut, end)
        for name, part in (("train", found.train), ("validation", found.validation)):
            label = LabelCounts.of(spec.label, part)
            if not label.both:
                raise UsageError(f"the {name} part: {label.problem}", where="[label]", do=label.remedy)
        return found

    def vocabulary(self) -> Vocabulary:
        """The items of the training part."""
        return Vocabulary.of(self.examples.logs["item"].hashes[np.unique(self.train.items)])


@dataclass(frozen=True)
class Material:
    """`train` with a random staleness of its users, for what `rank` reads; `fresh` the same impressions without, for
    what `retrieve` reads (what is chosen next is decided by the last minutes: a stale example teaches the wrong thing);
    `validation`, and what was `asked` for in it. `item_log_share` float32 [items] is the log of each item's share of
    the positives in `train`. `teacher` float32 [n] is the probability that a teacher gives each impression of `train`,
    where there is one."""

    spec: Spec
    vocabulary: Vocabulary
    train: Part
    fresh: Part
    validation: Part
    asked: Asked
    item_log_share: Floats
    cut_ms: int
    end_ms: int
    teacher: Floats | None = None

    @classmethod
    def of(
        cls,
        spec: Spec,
        history: History | Parts,
        options: TrainingOptions,
        vocabulary: Vocabulary | None = None,
        scratch: Scratch | None = None,
    ) -> Material:
        """Read the parts of `history`, each side of it replayed once. `vocabulary` is the items of the training part
        unless one is given. What is too large for memory lies in `scratch`. Raises UsageError."""
        parts = history if isinstance(history, Parts) else Parts.of(spec, history, options)
        scratch = scratch or Scratch()
        reading = _Reading(spec, parts, parts.vocabulary() if vocabulary is None else vocabulary, scratch)
        train, validation, log = parts.train, parts.validation, parts.examples.logs["item"]
        rank, retrieve = spec.fusions["rank"], spec.fusions["retrieve"]
        choices = Choices.of(parts.examples, parts.cut_ms, parts.end_ms, options.retrieve.questions, options.seed)
        everything = np.arange(choices.items)
        stale, fresh, known = reading.answers(
            "user",
            Question(train.users, _stale(train, options), rank.user),
            Question(train.users, train.times, retrieve.user),
            Question(validation.users, validation.times, spec.side("user")),
        )
        # Item statistics move slowly (a test period without them cost .0008 AUC): only the user side is made stale.
        items, known_items, *catalogues = reading.answers(
            "item",
            Question(train.items, train.times, tuple(dict.fromkeys((*rank.item, *retrieve.item)))),
            Question(validation.items, validation.times, spec.side("item")),
            *(
                Question(everything, np.full(choices.items, midnight), retrieve.item)
                for midnight in choices.midnights.tolist()
            ),
        )
        known |= known_items
        asked_in = choices.places - int(np.searchsorted(parts.examples.times, parts.cut_ms))
        asked = Asked(
            choices,
            {s.title: known[s.title].take(asked_in) for s in retrieve.user},
            tuple({title: kept.take(everything) for title, kept in found.items()} for found in catalogues),
        )
        counts = np.bincount(train.items[train.labels], minlength=len(log.entities)) + 1.0
        return cls(
            spec=spec,
            vocabulary=reading.vocabulary,
            train=_part(train, items | stale, rank.segments),
            fresh=_part(train, items | fresh, retrieve.segments),
            validation=_part(validation, known, spec.segments),
            asked=asked,
            item_log_share=np.log(counts / counts.sum()).astype(np.float32),
            cut_ms=parts.cut_ms,
            end_ms=parts.end_ms,
        )

    def with_staleness(self, parts: Parts, options: TrainingOptions) -> Material:
        """The same with the users of `train` as stale as `options` say; `parts` are those that it was read from."""
        reading = _Reading(self.spec, parts, self.vocabulary, Scratch())
        rank = self.spec.fusions["rank"]
        (users,) = reading.answers("user", Question(parts.train.users, _stale(parts.train, options), rank.user))
        return replace(self, train=replace(self.train, inputs={**self.train.inputs, **users}))

    def inputs(self, title: str) -> tuple[Kept, ...]:
        """What a segment reads of the training part, once for each use that reads it, `rank` first."""
        return tuple(part.inputs[title] for part in (self.train, self.fresh) if title in part.inputs)

    def digest(self) -> str:
        """Which data this is, for a checkpoint: the impressions of both parts."""
        found = hashlib.sha256()
        for part in (self.train, self.validation):
            for array in (part.users, part.items, part.times, part.labels):
                found.update(array.tobytes())
        return found.hexdigest()[:16]


class _Reading:
    """Reads what segments of `spec` know at moments."""

    def __init__(self, spec: Spec, parts: Parts, vocabulary: Vocabulary, scratch: Scratch) -> None:
        self.vocabulary = vocabulary
        self._logs, self._scratch = parts.examples.logs, scratch
        self._layouts: dict[Side, Layout] = {side: Layout.of(spec, side) for side in SIDES}
        self._readers = {s.title: SegmentReader(spec, s, self._layouts[s.side], vocabulary) for s in spec.segments}

    def answers(self, side: Side, *questions: Question) -> list[dict[str, Kept]]:
        """For each question, what its segments know by title."""
        return answers(self._layouts[side], self._logs[side], self._readers, questions, self._scratch)


def _part(examples: Examples, inputs: Mapping[str, Kept], segments: Iterable[SegmentSpec]) -> Part:
    own = {s.title: inputs[s.title] for s in segments}
    return Part(own, examples.labels, examples.users, examples.items, examples.times)


def _stale(part: Examples, options: TrainingOptions) -> Ints:
    """Half of the moments as they are, half earlier by a log-uniform lag of 1 s to 7 d: costs .0013 AUC when served
    fresh, and gains .017 for known users when the stream is late (MovieLens)."""
    random = np.random.default_rng(options.seed)
    lag_s = np.exp(random.uniform(0.0, np.log(options.stale_max_s), len(part)))
    lag_s[random.random(len(part)) >= options.stale_share] = 0.0
    return part.times - (lag_s * 1000).astype(np.int64)
