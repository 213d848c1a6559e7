"""segments.toml, read into frozen dataclasses: the model's table of contents.

A spec names the attributes that events may carry, the label, and for each side its segments: their features, the
encoder over them and the dimension of its vector. It holds no weights; a Bundle is a Spec with its weights under one
hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.expression import Condition
from forebay.segments.spec.itemcondition import ItemCondition

Side: TypeAlias = Literal["user", "item"]
SIDES: tuple[Side, Side] = ("user", "item")
Use: TypeAlias = Literal["retrieve", "rank"]  # from the whole catalogue by an index; a list of candidates
USES: tuple[Use, Use] = ("retrieve", "rank")
FeatureKind: TypeAlias = Literal["last", "count", "mean", "latest", "id"]
Holder: TypeAlias = Literal["user", "item", "event"]  # what an attribute belongs to

CROSS = " × "  # joins the two keys of a cross; no attribute's name can hold it


@dataclass(frozen=True)
class FeatureSpec:
    """One fold. Which fields are used follows from `kind`:

    last    the `size` newest events, keeping the columns `of`
    count   events by `key` (`events`, `action`, an attribute of item or event, or a cross of two), over `over_ms` in
            buckets of `bucket_ms`
    mean    sum and count of `value`, by `key`, over the same kind of window
    latest  the newest attributes `of` the entity
    id      the entity's own id, as an embedding of `size` dimensions

    With `half_life_ms` a count or a mean decays, at the read-out alone. Features of equal `state` share a block.
    """

    kind: FeatureKind
    key: str = "events"
    of: tuple[str, ...] = ()
    size: int = 0
    where: Condition | None = None
    bucket_ms: int = 0
    over_ms: int = 0
    half_life_ms: int = 0

    def __repr__(self) -> str:
        # Vectors are tagged by a hash over this text: a field that is not used must not change the tags of older
        # models.
        used = (f for f in fields(self) if f.name != "half_life_ms" or self.half_life_ms)
        return f"FeatureSpec({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in used)})"

    @property
    def state(self) -> FeatureSpec:
        """The feature whose block this one reads: how it is read out is no part of state."""
        return replace(self, half_life_ms=0) if self.half_life_ms else self

    @property
    def keys(self) -> tuple[str, ...]:
        """`key`, or the two of a cross in the order of the layout."""
        return tuple(self.key.split(CROSS))

    @property
    def buckets(self) -> int:
        """Time buckets kept; 1 for a fold over all time."""
        return self.over_ms // self.bucket_ms if self.over_ms else 1


@dataclass(frozen=True)
class EncoderSpec:
    """`kind` names the encoder, `options` (sorted pairs) its shape."""

    kind: str
    options: tuple[tuple[str, Any], ...] = ()

    def option(self, name: str, default: Any) -> Any:
        return dict(self.options).get(name, default)


@dataclass(frozen=True)
class SegmentSpec:
    """A named part of one side's features with an encoder of its own and a vector of `dim` dimensions.

    `late_after_ms` and `expires_after_ms` bound the age of `as_of` in an answer: past the first the segment is called
    late, past the second its vector is not used. 0 means no bound.
    """

    side: Side
    name: str
    features: tuple[FeatureSpec, ...]
    encoder: EncoderSpec
    dim: int
    late_after_ms: int = 10_000
    expires_after_ms: int = 0

    @property
    def title(self) -> str:
        return f"{self.side}.{self.name}"

    @property
    def parts(self) -> int:
        """Vectors of `dim / parts` dimensions that a fusion takes apart: several interests, or one affinity for each
        feature."""
        if self.encoder.kind == "affinity" and self.side == "user":
            return sum(f.key != "events" for f in self.features)
        parts: int = self.encoder.option("vectors", 1)
        return parts


@dataclass(frozen=True)
class FusionSpec:
    """The late interaction for one `use`: which segments it reads (all of them unless the spec names some), in the
    order of the spec, its `kind` and its `options` (sorted pairs)."""

    use: Use
    kind: str
    user: tuple[SegmentSpec, ...]
    item: tuple[SegmentSpec, ...]
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        return (*self.user, *self.item)

    def option(self, name: str, default: Any) -> Any:
        return dict(self.options).get(name, default)


@dataclass(frozen=True)
class EventRules:
    """What a spec says of events. Which ones are accepted is the installation's to say (its settings)."""

    retire_users_after_ms: int = 0  # 0: never
    actions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Label:
    """What training predicts: which impressions are positive. Impressions are the events that meet `impression`;
    without one, all.

    Without `within_ms` an impression is positive when it meets `positive` itself: a rating of four and more.

    With it, outcomes are events of their own. An event that meets `positive` makes an impression of the same user and
    item positive: the latest one, at or before it and at most `within_ms` before it. Earlier ones stay negative, though
    they be within the time: they were seen and passed by, and one click is one positive. An outcome of the same
    millisecond counts (many logs are in whole seconds); of several impressions in that millisecond the one of the
    greatest hashed id is taken; an event that meets both conditions is its own outcome.

    With `join` too an outcome names its impression: only those count that have the same value of this event attribute,
    a text or a number, such as `request_id`. It need not be declared, for no state holds it. An event without it is
    joined to nothing.

    Labels wait: an impression is an example only when all of its `within_ms` lies in the log, or in the part of it that
    a split by time gives: no part knows an outcome from after its end. Features are of events strictly before the
    impression, and so never of its outcome.
    """

    positive: Condition
    impression: Condition | None = None
    within_ms: int | None = None
    join: str = ""


@dataclass(frozen=True)
class Serving:
    """What a request may ask of rows beside their scores. `filter` names item attributes that each item's row has, for
    `filter` and `boost`. An item that meets `hide` is in no answer. `remember`: the items of that many events, the
    newest ones, lie in a user's row, for `exclude_seen`."""

    filter: tuple[str, ...] = ()
    hide: ItemCondition | None = None
    remember: int = 0


@dataclass(frozen=True)
class Spec:
    """A whole segments.toml. `training` is how it is best trained, as its author found (training/options.py reads it).
    `canonical` is it as JSON, tables in the order of the file: that order is the segments' place in the fusion's
    weights and in every stored row, and so a part of the model."""

    events: EventRules
    label: Label
    attributes: Mapping[
        Holder, tuple[AttributeSpec, ...]
    ]  # no `event` where none is declared: tags are hashes over this
    segments: tuple[SegmentSpec, ...]
    fusions: Mapping[Use, FusionSpec]
    training: Mapping[str, Any]
    canonical: str = field(repr=False)
    serving: Serving = field(default_factory=Serving)

    def side(self, side: Side) -> tuple[SegmentSpec, ...]:
        """The side's segments, in the order of the file. Their place is their bit in every pending mask."""
        return self._by_side[side]

    @cached_property
    def _by_side(self) -> dict[Side, tuple[SegmentSpec, ...]]:
        return {side: tuple(s for s in self.segments if s.side == side) for side in SIDES}

    def served(self, side: Side) -> FeatureSpec | None:
        """The fold that the serving columns of the side's rows are read from; None where `[serving]` names none."""
        if side == "item":
            return FeatureSpec("latest", of=self.serving.filter) if self.serving.filter else None
        return FeatureSpec("last", of=("item",), size=self.serving.remember) if self.serving.remember else None

    def attribute(self, side: Side, name: str) -> AttributeSpec:
        return next(a for a in self.attributes[side] if a.name == name)

    @property
    def event_attributes(self) -> tuple[AttributeSpec, ...]:
        """Those of the events themselves."""
        return self.attributes.get("event", ())

    def column(self, name: str) -> AttributeSpec:
        """The attribute that a behaviour carries under `name`: its own, or one of its item."""
        return next(a for a in (*self.attributes["item"], *self.event_attributes) if a.name == name)
