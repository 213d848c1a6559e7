"""What a training run reads, made once: the parts of a history with what was known before each of their impressions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forebay.errors import UsageError
from forebay.segments.examples import Examples
from forebay.segments.features import Inputs, SegmentReader, Vocabulary
from forebay.segments.history import History
from forebay.segments.layout import Layout
from forebay.segments.replay import snapshots
from forebay.segments.spec import DAY_MS, SIDES, SegmentSpec, Side, Spec
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

    def take(self, segments: Iterable[SegmentSpec], index: npt.NDArray[np.intp]) -> dict[str, Inputs]:
        """The segments' inputs of the impressions at `index`."""
        return {s.title: self.inputs[s.title].take(index) for s in segments}


@dataclass(frozen=True)
class Choices:
    """Moments at which a user chose an item out of the catalogue: `users` are the inputs of m users just before, `targets` int64
    [m] the items that they liked next, `seen` bool [m, items] those that are no candidates, `day` int64 [m] which of the
    `catalogues` (inputs of all items at a midnight UTC) was the newest."""

    users: Mapping[str, Inputs]
    targets: Ints
    seen: Bools
    day: Ints
    catalogues: tuple[Mapping[str, Inputs], ...]


@dataclass(frozen=True)
class Material:
    """`train` with a random staleness of its users, for what `rank` reads; `fresh` the same impressions without, for what `retrieve`
    reads (what is chosen next is decided by the last minutes: a stale example teaches the wrong thing); `validation`, and
    `choices` out of it. `item_log_share` float32 [items] is the log of each item's share of the positives in `train`."""

    spec: Spec
    vocabulary: Vocabulary
    train: Part
    fresh: Part
    validation: Part
    choices: Choices
    item_log_share: Floats
    cut_ms: int
    end_ms: int

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
            if len(set(part.labels.tolist())) < 2:
                raise UsageError(
                    f"the {name} part has {len(part)} impressions and not both labels", do="Give a longer history"
                )
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
        counts = np.bincount(train.items[train.labels], minlength=len(examples.logs["item"].entities)) + 1.0
        return cls(
            spec=spec,
            vocabulary=vocabulary,
            train=read(train, _stale(train, options), spec.fusions["rank"].segments),
            fresh=read(train, train.times, spec.fusions["retrieve"].segments),
            validation=known,
            choices=_choices(spec, examples, validation, known, layouts["item"], readers, options),
            item_log_share=np.log(counts / counts.sum()).astype(np.float32),
            cut_ms=cut,
            end_ms=end,
        )

    def inputs(self, title: str) -> Inputs:
        """What a segment reads of the training part."""
        return self.train.inputs[title] if title in self.train.inputs else self.fresh.inputs[title]

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


def _choices(
    spec: Spec,
    examples: Examples,
    validation: Examples,
    known: Part,
    layout: Layout,
    readers: Mapping[str, SegmentReader],
    options: TrainingOptions,
) -> Choices:
    """Of the validation part, for the stage that learns to retrieve."""
    liked = np.flatnonzero(validation.labels)
    wanted = min(len(liked), options.retrieve.questions)
    picked = np.sort(np.random.default_rng(options.seed).choice(liked, wanted, replace=False))
    users, times, targets = validation.users[picked], validation.times[picked], validation.items[picked]
    log = examples.logs["item"]
    everything = np.arange(len(log.entities))
    seen = np.zeros((wanted, len(everything)), dtype=np.bool_)
    by_user = np.argsort(examples.users, kind="stable")
    bounds = np.searchsorted(examples.users[by_user], np.arange(int(examples.users.max()) + 2))
    for row, (user, time, target) in enumerate(zip(users.tolist(), times.tolist(), targets.tolist(), strict=True)):
        own = by_user[bounds[user] : bounds[user + 1]]
        seen[row, examples.items[own[examples.times[own] < time]]] = True
        seen[row, target] = False
    midnights, day = np.unique(times // DAY_MS, return_inverse=True)
    catalogues = []
    for midnight in midnights.tolist():
        rows = snapshots(layout, log, everything, np.full(len(everything), midnight * DAY_MS))
        catalogues.append({s.title: readers[s.title].read(rows, log.hashes) for s in spec.fusions["retrieve"].item})
    return Choices(known.take(spec.fusions["retrieve"].user, picked), targets, seen, day, tuple(catalogues))
