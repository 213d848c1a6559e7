"""The training of a bundle, as stages.

    joint         every segment that `rank` reads, with its fusion, on the label; then what only `retrieve` reads, with
                  its own
    independent   first each segment by itself, beside throw-away ones of the other side; then the fusion over them,
                  frozen; then all of it together with a tenth of the rate
    one segment   of a bundle that is there, through its frozen fusion: only this segment's vectors change
    one more      beside those of a bundle that is there, with the fusions that read it: all other vectors stay

Two uses are two questions: what is liked among what was shown, and what is chosen next among everything. One set of
weights for both lost .004 to .04 AUC or a third of the recall on MovieLens, whatever the weights of the losses. So
`rank` comes first, and `retrieve` never touches a segment that `rank` reads: it takes those as they are, and trains its
own.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from forebay.errors import UsageError
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import USES, FusionSpec, SegmentSpec, Spec, Use
from forebay.segments.state.readout import Vocabulary
from forebay.segments.training import early
from forebay.segments.training.checkpoint import Checkpoint
from forebay.segments.training.material import Material
from forebay.segments.training.network import Network
from forebay.segments.training.objectives import Objective, Ranking, Retrieval, sampling_shift
from forebay.segments.training.options import TrainingOptions
from forebay.segments.training.stage import Progress, Stage

RANK_ONLY: tuple[Use, ...] = ("rank",)
TEACHER_SEEDS = 1000  # between teachers of one run, so that runs of neighbouring seeds share none
FINE_TUNE_RATE = 0.1  # of the joint learning rate: at the full one the independent start is gone after an epoch


def train(
    spec: Spec,
    history: History | Material,
    options: TrainingOptions,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    uses: Collection[Use] = USES,
) -> Bundle:
    """Train on the first `train_share` of `history` by time, stopping each stage by the part after it; what comes later
    is not read. The same history, spec, options and numeric platform give the same bundle hash. `checkpoint` names a
    folder that the run goes on from when it is interrupted; a fusion whose use is not in `uses` stays untrained. Raises
    UsageError."""
    torch.use_deterministic_algorithms(True)
    material = history if isinstance(history, Material) else Material.of(spec, history, options)
    if "rank" in uses:
        material = with_teacher(material, options, progress)
    torch.manual_seed(options.seed)
    network = Network(spec, material.vocabulary)
    for segment in spec.segments:
        if segment in (*spec.fusions["rank"].segments, *spec.fusions["retrieve"].segments):
            network.encoder(segment).fit(*material.inputs(segment.title))
    saved = None
    if checkpoint is not None:
        saved = Checkpoint(
            checkpoint, {"spec": spec.canonical, "options": options.as_record(), "data": material.digest()}
        )
    figures: dict[str, float] = {}
    for stage in _stages(network, material, options, progress, saved, uses):
        found = stage.run(network, options.seed, progress, saved)
        figures |= {k: v for k, v in found.items() if k != "epoch"} | {f"{stage.name}_epochs": found["epoch"]}
    return network.bundle(_record(material, options, figures))


def train_segment(
    bundle: Bundle, history: History, title: str, options: TrainingOptions, progress: Progress | None = None
) -> Bundle:
    """`bundle` with one segment trained anew through its frozen fusion, for every use that reads it: the rows of all
    other segments, and the fusion, stay valid. Raises UsageError for a segment that the bundle does not have."""
    torch.use_deterministic_algorithms(True)
    segment = next((s for s in bundle.spec.segments if s.title == title), None)
    if segment is None:
        names = ", ".join(s.title for s in bundle.spec.segments)
        raise UsageError(f"no segment {title}", where=f"bundle {bundle.name}", do=f"Name one of {names}")
    material = with_teacher(Material.of(bundle.spec, history, options, bundle.vocabulary), options, progress)
    network = Network.of(bundle)
    torch.manual_seed(options.seed)
    fresh = Network(bundle.spec, bundle.vocabulary).encoder(segment)
    fresh.fit(*material.inputs(title))
    network.renew(segment, fresh)
    use: Use = "rank" if segment in bundle.spec.fusions["rank"].segments else "retrieve"
    stage = _stage(f"segment-{title}", network, material, options, use, [segment], fusion=False)
    found = stage.run(network, options.seed, progress)
    figures = {k: v for k, v in found.items() if k != "epoch"} | {f"{stage.name}_epochs": found["epoch"]}
    return network.bundle({**_record(material, options, figures), "segment": title, "from": bundle.name})


def add_segment(
    bundle: Bundle, spec: Spec, history: History, title: str, options: TrainingOptions, progress: Progress | None = None
) -> Bundle:
    """A bundle of `spec`, which has the segments of `bundle` and the one called `title`: that one is trained, and each
    fusion that reads other segments than before. The encoders of all others are those of `bundle`, to the bit, and so
    is its vocabulary: what they were stored as stays valid. Raises UsageError where `spec` is not so."""
    torch.use_deterministic_algorithms(True)
    segment = _added(bundle, spec, title)
    material = Material.of(spec, history, options, bundle.vocabulary)
    torch.manual_seed(options.seed)
    network = Network(spec, bundle.vocabulary)
    if not (inputs := material.inputs(title)):
        raise UsageError(f"no fusion reads {title}", where="[fusion]", do="Name it there, for rank or for retrieve")
    network.encoder(segment).fit(*inputs)
    before = {use: bundle.spec.fusions[use] for use in USES}
    anew: list[Use] = [use for use in USES if before[use] != spec.fusions[use]]
    _keep(network, bundle, {segment.title, *(f"fusion.{use}" for use in anew)})
    if "rank" in anew:
        material = with_teacher(material, options, progress)
    figures: dict[str, float] = {}
    left = [segment]
    for use in sorted(anew, key=USES.index, reverse=True):  # `rank` first: see above
        shift = sampling_shift(material.train.labels, options.sampling) if use == "rank" else 0.0
        if shift:
            network.fusion(use).move(0.0)  # one that cannot be moved is refused before it is trained
        own = [s for s in left if s in spec.fusions[use].segments]
        left = [s for s in left if s not in own]
        stage = _stage(use, network, material, options, use, own, fusion=True)
        if stage.trained:
            found = stage.run(network, options.seed, progress)
            figures |= {k: v for k, v in found.items() if k != "epoch"} | {f"{stage.name}_epochs": found["epoch"]}
        if shift:
            network.fusion(use).move(-shift)
    return network.bundle({**_record(material, options, figures), "added": title, "from": bundle.name})


def _added(bundle: Bundle, spec: Spec, title: str) -> SegmentSpec:
    """The segment that `spec` has more than `bundle`. Raises UsageError."""
    before, after = ({s.title: s for s in one.segments} for one in (bundle.spec, spec))
    where = f"bundle {bundle.name}"
    if title in before:
        raise UsageError(
            f"{title} is not new", where=where,
            do="Leave --spec out to train it anew through its frozen fusion, or name the segment that the spec adds",
        )  # fmt: skip
    if title not in after:
        raise UsageError(f"no segment {title} in the spec", where=where, do=f"Name one of {', '.join(after)}")
    more = [name for name in after if name not in before and name != title]
    had, has = ({name: (s.features, s.encoder, s.dim) for name, s in one.items()} for one in (before, after))
    other = [name for name, shape in had.items() if has.get(name) != shape]
    if more or other:
        raise UsageError(
            f"the spec differs in {', '.join([*more, *other])}, too", where=where,
            do="Add one segment at a time, and leave all others as they are; or train everything: forebay train --spec",
        )  # fmt: skip
    return after[title]


def _keep(network: Network, bundle: Bundle, but: Collection[str]) -> None:
    """Give the network the weights of `bundle`, but for the segments and fusions in `but`."""
    for one in bundle.spec.segments:
        if not any(n.startswith("bounds.") for n in bundle.segment_tensors(one)):
            network.encoder(next(s for s in network.spec.segments if s.title == one.title)).forget_bounds()
    with torch.no_grad():
        for name, weight in network.named_tensors().items():
            if (owner := ".".join(name.split(".")[:2])) in but:
                continue
            if (kept := np.array(bundle.tensors[name])).shape != tuple(weight.shape):
                raise UsageError(
                    f"{owner} reads other attributes or actions than in bundle {bundle.name}", where="the spec",
                    do="Leave what other segments read as it is: new attributes may be added, and new values may not",
                )  # fmt: skip
            weight.copy_(torch.from_numpy(kept))


def with_teacher(
    material: Material, options: TrainingOptions, progress: Progress | None = None, first: early.Early | None = None
) -> Material:
    """The material with the mean probability of `options.teachers` early-interaction rankers, where distillation is
    asked for and no teacher is there yet. They are thrown away: only what they say of the training part is learned
    from. `first` is one that was fitted before, with the default options and this seed."""
    if not options.distill or material.teacher is not None:
        return material
    logits = []
    for place in range(options.teachers):
        ranker = first if place == 0 else None
        if ranker is None:
            told = _named(progress, f"teacher-{place + 1}")
            seed = options.seed + TEACHER_SEEDS * place
            ranker, _ = early.fit(material, early.EarlyOptions(), seed, told)
        logits.append(early.scores(ranker, material.train.inputs))
    probability = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
    return replace(material, teacher=probability.astype(np.float32))


def _named(progress: Progress | None, name: str) -> early.Progress | None:
    if progress is None:
        return None
    return lambda done, total, figures: progress(name, done, total, figures)


def untrained(spec: Spec, items: object, seed: int = 0) -> Bundle:
    """A bundle with random weights over the items of hashed ids int64 [m]: for benchmarks of all but quality."""
    torch.manual_seed(seed)
    return Network(spec, Vocabulary.of(items)).bundle({"trained": False})  # type: ignore[arg-type]


def _stages(
    network: Network,
    material: Material,
    options: TrainingOptions,
    progress: Progress | None,
    saved: Checkpoint | None,
    uses: Collection[Use],
) -> Iterable[Stage]:
    """In order; a later one is made when the earlier ones have run."""
    spec = network.spec
    rank, retrieve = spec.fusions["rank"].segments, spec.fusions["retrieve"].segments
    shift = sampling_shift(material.train.labels, options.sampling) if "rank" in uses else 0.0
    if shift:
        network.fusion("rank").move(0.0)  # one that cannot be moved is refused before it is trained
    if "rank" in uses and options.regime == "independent":
        for segment in rank:
            _alone(network, material, options, segment, progress, saved)
        yield _stage("fusion", network, material, options, "rank", [], fusion=True)
        yield _stage("fine-tune", network, material, options, "rank", rank, fusion=True, rate=FINE_TUNE_RATE)
    elif "rank" in uses:
        yield _stage("rank", network, material, options, "rank", rank, fusion=True)
    if shift:
        network.fusion("rank").move(-shift)
    if "retrieve" in uses:
        own = [s for s in retrieve if s not in rank]
        yield _stage("retrieve", network, material, options, "retrieve", own, fusion=True)


def _alone(
    network: Network,
    material: Material,
    options: TrainingOptions,
    segment: SegmentSpec,
    progress: Progress | None,
    saved: Checkpoint | None,
) -> None:
    """Train `segment` as the only one of its side, beside fresh ones of the other side that are thrown away."""
    if not list(network.encoder(segment).parameters()):
        return  # a raw segment has nothing to learn
    spec = network.spec
    rank = spec.fusions["rank"]
    width = segment.dim // segment.parts
    others = [s for s in rank.segments if s.side != segment.side and s.dim // s.parts == width]
    sides = {"user": [segment], "item": others} if segment.side == "user" else {"user": others, "item": [segment]}
    fusion = FusionSpec("rank", "weighted_sum", tuple(sides["user"]), tuple(sides["item"]))
    alone = replace(spec, fusions={**spec.fusions, "rank": fusion})
    torch.manual_seed(options.seed)
    apart = Network(alone, material.vocabulary)
    for one in [segment, *others]:
        apart.encoder(one).fit(*material.inputs(one.title))
    stage = _stage(f"alone-{segment.title}", apart, material, options, "rank", [segment, *others], fusion=True)
    stage.run(apart, options.seed, progress, saved)
    network.encoder(segment).load_state_dict(apart.encoder(segment).state_dict())


def _stage(
    name: str,
    network: Network,
    material: Material,
    options: TrainingOptions,
    use: Use,
    segments: Iterable[SegmentSpec],
    *,
    fusion: bool,
    rate: float = 1.0,
) -> Stage:
    """The weights of `segments`, and those of the use's fusion when `fusion`; buffers (scales of features) stay."""
    fusion_spec = network.spec.fusions[use]
    objective: Objective = (
        Ranking(material, options, fusion_spec, frozen=not fusion)
        if use == "rank"
        else Retrieval(material, options, fusion_spec)
    )
    names = [f"{s.title}.{n}" for s in segments for n, _ in network.encoder(s).named_parameters()]
    names += [f"fusion.{use}.{n}" for n, _ in network.fusion(use).named_parameters()] if fusion else []
    own = options if use == "rank" else options.retrieve
    return Stage(
        name, objective, tuple(names), own.epochs, own.patience_epochs, own.learning_rate * rate, own.weight_decay
    )


def _record(material: Material, options: TrainingOptions, figures: Mapping[str, float]) -> dict[str, object]:
    return {
        "options": options.as_record(),
        "examples": {"train": len(material.train), "validation": len(material.validation)},
        "positives": {
            "train": int(material.train.labels.sum()),
            "validation": int(material.validation.labels.sum()),
        },
        "items": material.asked.choices.items,
        "train_until_ms": material.cut_ms,
        "validation_until_ms": material.end_ms,
        "torch": importlib.metadata.version("torch"),
        **figures,
    }
