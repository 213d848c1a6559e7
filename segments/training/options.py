"""What a training run may be told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from forebay.errors import SpecError, UsageError
from forebay.segments.spec import Spec
from forebay.segments.spec.toml import known

Regime: TypeAlias = Literal["joint", "independent"]
Sampling: TypeAlias = Literal["none", "over", "under"]


@dataclass(frozen=True)
class RetrieveOptions:
    """The stage that learns what is chosen next out of the whole catalogue: positives against their batch.

    Overfits later than the label does, so it stops by its own figure, and with less decay: 1.0 halved recall on
    MovieLens.
    """

    epochs: int = 30  # at most
    patience_epochs: int = 4  # without a gain in recall on the validation part
    batch_size: int = 512  # its other positives are the negatives: recall rises with it, memory by its square
    learning_rate: float = 1e-3  # of AdamW
    weight_decay: float = 0.1  # of AdamW
    logq: bool = (
        True  # without it the popular are pushed down: .234 recall@50 against .453 (shared measurement, MovieLens)
    )
    questions: int = 2000  # of the validation part, to stop by


@dataclass(frozen=True)
class TrainingOptions:
    """`weight_decay` 1.0 is for a hundred thousand events (without it they are overfitted in two epochs); .02 for
    millions.

    `positive_weight` weighs positives in the loss and moves the scores away from probabilities. `sampling` repeats the
    rarer label or leaves out of the other until both are as many; the logit is corrected for it. `forebay evaluate` has
    a line for each.
    """

    train_share: float = 0.7  # of the log, by time
    validation_share: float = 0.1  # the part after it: stops training
    regime: Regime = "joint"  # or "independent": segments one by one, then the fusion over them, then all together
    epochs: int = 20  # at most, of each stage
    patience_epochs: int = 3  # without a gain on the validation part: the stage ends, and its best epoch is kept
    batch_size: int = 512  # impressions
    learning_rate: float = 1e-3  # of AdamW
    weight_decay: float = 1.0  # of AdamW: 1.0 for a hundred thousand events, 0.02 for millions
    stale_share: float = (
        0.5  # of the impressions whose user is seen as of some time before, as late vectors are when serving
    )
    stale_max_s: float = 604_800.0  # the longest such time, in seconds (a week); shorter ones are likelier
    segment_dropout: float = 0.0  # share of segments that an example does without, their default vectors in their place
    distill: float = (
        0.0  # share of the target that an early-interaction ranker gives: it sees pairs that late fusion cannot
    )
    teachers: int = 2  # rankers whose probabilities are averaged
    positive_weight: float = 1.0  # of a positive in the loss, beside a negative's 1
    sampling: Sampling = (
        "none"  # "over" repeats the rarer label, "under" leaves out of the other, until both are as many
    )
    retrieve: RetrieveOptions = field(default_factory=RetrieveOptions)
    seed: int = 0  # the same seed gives the same bundle

    def __post_init__(self) -> None:
        """Raises UsageError for a value that cannot be trained with."""
        shares = ("train_share", "validation_share", "stale_share", "segment_dropout", "distill")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}", do="Use a number from 0 to 1")
        if min(self.train_share, self.validation_share) <= 0 or self.train_share + self.validation_share > 1:
            raise UsageError("the parts of training and validation", do="Make both more than 0, together at most 1")
        if self.segment_dropout == 1:
            raise UsageError("segment_dropout is 1", do="Leave something to learn from: less than 1")
        for whole in (self, self.retrieve):
            for name in ("epochs", "patience_epochs", "batch_size"):
                if getattr(whole, name) < 1:
                    raise UsageError(f"{name} is {getattr(whole, name)}", do="Use 1 or more")
            for name in ("learning_rate", "weight_decay"):
                if not 0 <= getattr(whole, name) < float("inf"):
                    raise UsageError(f"{name} is {getattr(whole, name)}", do="Use 0 or more")
        if self.regime not in get_args(Regime) or self.sampling not in get_args(Sampling):
            raise UsageError(
                f"regime {self.regime!r} with sampling {self.sampling!r}",
                do=f"Use {', '.join(get_args(Regime))}; and {', '.join(get_args(Sampling))}",
            )
        if self.teachers < 1:
            raise UsageError(f"teachers is {self.teachers}", do="Use 1 or more")
        if self.positive_weight <= 0 or self.stale_max_s < 1:
            raise UsageError("positive_weight or stale_max_s", do="Make the first more than 0, the second at least 1")

    @classmethod
    def of(cls, spec: Spec, **given: Any) -> TrainingOptions:
        """The options of the spec's [training] table, `given` ones before it. Raises SpecError and UsageError."""
        tables: dict[str, Any] = dict(spec.training)
        retrieve = tables.pop("retrieve", {})
        known(tables, {f.name for f in fields(cls)}, "[training]")
        known(retrieve, {f.name for f in fields(RetrieveOptions)}, "[training.retrieve]")
        for name, value in [*tables.items(), *retrieve.items()]:
            if not isinstance(value, bool | int | float | str):
                raise SpecError(f"{name} = {value!r}", where="[training]", do="Use a number, or a word")
        return cls(**{"retrieve": RetrieveOptions(**retrieve), **tables, **given})

    def as_record(self) -> dict[str, Any]:
        """Plain data, for a bundle's record and a checkpoint's identity."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> TrainingOptions:
        """What `as_record` gave; keys that this version does not know are left out."""
        known = {f.name for f in fields(cls)} - {"retrieve"}
        inner = {f.name for f in fields(RetrieveOptions)}
        retrieve = RetrieveOptions(**{k: v for k, v in record.get("retrieve", {}).items() if k in inner})
        return cls(**{k: v for k, v in record.items() if k in known}, retrieve=retrieve)
