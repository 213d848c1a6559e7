"""What a training run reads, made once: the parts of a history with what was known before each of their impressions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forebay.errors import UsageError
from forebay.segments.evaluation.choices import Choices
from forebay.segments.examples import Examples
from forebay.segments.features import Inputs, SegmentReader, Vocabulary
from forebay.segments.history import History
from forebay.segments.labelcounts import LabelCounts
from forebay.segments.layout import Layout
from forebay.segments.spec import SIDES, SegmentSpec, Side, Spec
from forebay.segments.training.options import TrainingOptions

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """n impressions: `inputs` of every segment by its title, as of a staleness; `labels` bool [n]; `users` and `items` int64
    [n], row numbers in the logs; `times` int64 [n] (ms)."""

    inputs: Mapping[str, Inputs]
    labels: Bools
    users: Ints
    items: Ints
    times: Ints

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: npt.NDArray[np.intp]) -> Part:
        """The impressions at `index`."""
        inputs = {title: i.take(index) for title, i in self.inputs.items()}
        return Part(inputs, self.labels[index], self.users[index], self.items[index], self.times[index])

    def take(self, segments: Iterable[SegmentSpec], index: npt.NDArray[np.intp]) -> dict[str, Inputs]:
        """The segments' inputs of the impressions at `index`."""
        return {s.title: self.inputs[s.title].take(index) for s in segments}


@dataclass(frozen=True)
class Asked:
    """`choices` of the validation part as a network reads them: `users` are the inputs of their m users just before, `catalogues`
    those of all items at each of its midnights."""

    choices: Choices
    users: Mapping[str, Inputs]
    catalogues: tuple[Mapping[str, Inputs], ...]


@dataclass(frozen=True)
class Material:
    """`train` with a random staleness of its users, for what `rank` reads; `fresh` the same impressions without, for what `retrieve`
    reads (what is chosen next is decided by the last minutes: a stale example teaches the wrong thing); `validation`, and
    what was `asked` for in it. `item_log_share` float32 [items] is the log of each item's share of the positives in `train`. `teacher` float32 [n]
    is the probability that a teacher gives each impression of `train`, where there is one."""

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
        cls, spec: Spec, history: History, options: TrainingOptions, vocabulary: Vocabulary | None = None
    ) -> Material:
        """Read the parts of `history`; what comes after the validation part is not looked at. `vocabulary` is the items of the
        training part unless one is given. Raises UsageError where a part does not have both labels."""
        cut = history.moment(options.train_share)
        end = history.moment(min(1.0, options.train_share + options.validation_share))
        examples = Examples.of(spec, history.before(end))
        parts = {"train": examples.between(0, cut), "validation": examples.between(cut, end)}
        for name, part in parts.items():
            label = LabelCounts.of(spec.label, part)
            if not label.both:
                raise UsageError(f"the {name} part: {label.problem}", where="[label]", do=label.remedy)
        if vocabulary is None:
            vocabulary = Vocabulary.of(examples.logs["item"].hashes[np.unique(parts["train"].items)])
        layouts: dict[Side, Layout] = {side: Layout.of(spec, side) for side in SIDES}
        readers = {s.title: SegmentReader(spec, s, layouts[s.side], vocabulary) for s in spec.segments}

        def read(part: Examples, as_of: Ints, segments: Iterable[SegmentSpec]) -> Part:
            # Item statistics move slowly (a test period without them cost .0008 AUC): only the user side is made stale.
            states = {"user": part.states(layouts["user"], as_of), "item": part.states(layouts["item"], part.times)}
            inputs = {s.title: readers[s.title].read(states[s.side], part.hashes(s.side)) for s in segments}
            return Part(inputs, part.labels, part.users, part.items, part.times)

        train, validation = parts["train"], parts["validation"]
        known = read(validation, validation.times, spec.segments)
        choices = Choices.of(examples, cut, end, options.retrieve.questions, options.seed)
        log = examples.logs["item"]
        asked = Asked(
            choices,
            known.take(spec.fusions["retrieve"].user, choices.places - int(np.searchsorted(examples.times, cut))),
            tuple(
                {s.title: readers[s.title].read(rows, log.hashes) for s in spec.fusions["retrieve"].item}
                for rows in choices.catalogues(layouts["item"])
            ),
        )
        counts = np.bincount(train.items[train.labels], minlength=len(examples.logs["item"].entities)) + 1.0
        return cls(
            spec=spec,
            vocabulary=vocabulary,
            train=read(train, _stale(train, options), spec.fusions["rank"].segments),
            fresh=read(train, train.times, spec.fusions["retrieve"].segments),
            validation=known,
            asked=asked,
            item_log_share=np.log(counts / counts.sum()).astype(np.float32),
            cut_ms=cut,
            end_ms=end,
        )

    def inputs(self, title: str) -> tuple[Inputs, ...]:
        """What a segment reads of the training part, once for each use that reads it, `rank` first."""
        return tuple(part.inputs[title] for part in (self.train, self.fresh) if title in part.inputs)

    def digest(self) -> str:
        """Which data this is, for a checkpoint: the impressions of both parts."""
        found = hashlib.sha256()
        for part in (self.train, self.validation):
            for array in (part.users, part.items, part.times, part.labels):
                found.update(array.tobytes())
        return found.hexdigest()[:16]


def _stale(part: Examples, options: TrainingOptions) -> Ints:
    """Half of the moments as they are, half earlier by a log-uniform lag of 1 s to 7 d: costs .0013 AUC when served fresh, and
    gains .017 for known users when the stream is late (MovieLens)."""
    random = np.random.default_rng(options.seed)
    lag_s = np.exp(random.uniform(0.0, np.log(options.stale_max_s), len(part)))
    lag_s[random.random(len(part)) >= options.stale_share] = 0.0
    return part.times - (lag_s * 1000).astype(np.int64)
