"""What is odd about a spec that can be a model: things declared and not used, kept and not read, or never to happen.

`lint` looks at the spec alone, without weights and without torch. An error is something that cannot do what it says; a
warning is something that may be meant so.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

import numpy as np

from forebay.clock import DAY_MS
from forebay.segments.spec import SIDES, FeatureSpec, SegmentSpec, Spec
from forebay.segments.spec.expression import Condition
from forebay.segments.spec.truth import by_action, possible
from forebay.segments.spec.words import duration, in_words
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import SegmentReader, Vocabulary

Level: TypeAlias = Literal["error", "warning"]

ROW_BYTES = 16_384  # rows of this size make a million entities 16 GB, and each batch writes its rows whole
ALWAYS = 32  # dimensions that are never too many: all segments of a weighted sum have those of the widest
WIDE = 4  # dimensions for each input: a linear layer cannot fill more than its inputs, a deep one hardly this many
# The age that `as_of` of an idle, healthy segment shows: asked for each second, claimed each second, 1 s off for the
# clocks, and the way through the log. tests/streams/transports/test_worker_on_kafka.py holds it against the worker's
# own defaults.
SHOWN_AGE_MS = 7_000
LONG_WITHIN_MS = 30 * DAY_MS  # a month of the newest examples given up for outcomes that hardly belong to them any more
ITEM_EMBEDDING = 16  # what encoders of lists take for an item where the spec names no other width


@dataclass(frozen=True)
class Remark:
    """What was found, where in the file, and the remedy. An error makes the spec not worth training."""

    level: Level
    where: str
    what: str
    do: str


def lint(spec: Spec) -> list[Remark]:
    """Every remark on `spec`, errors first, otherwise in the order of the checks below."""
    checks = (_orphans, _unread, _twice, _actions, _conditions, _label, _windows, _bounds, _rows, _dimensions)
    found = [remark for check in checks for remark in check(spec)]
    return sorted(found, key=lambda r: r.level != "error")


def _orphans(spec: Spec) -> Iterator[Remark]:
    for side in SIDES:
        read: set[str] = set()
        for segment in spec.segments:
            for f in segment.features:
                if f.kind == "latest":
                    read.update(f.of if segment.side == side else ())
                elif side == "item":  # a user's events carry the attributes of their items
                    read.update(f.keys, f.of)
        if side == "item":
            read.update(spec.serving.filter)
        for a in spec.attributes[side]:
            if a.name not in read:
                yield Remark(
                    "warning",
                    f"[attributes.{side}] {a.name}",
                    "no feature reads it",
                    "Read it in a feature, or take it out: every event's value is coded for nothing",
                )
    features = [f for s in spec.segments for f in s.features]
    read = {n for f in features for n in (*f.keys, *f.of)} | {
        a.name for c in _all_conditions(spec) for a in c.attributes
    }
    for a in spec.event_attributes:
        if a.name not in read:
            yield Remark(
                "warning",
                f"[attributes.event] {a.name}",
                "no feature and no condition reads it",
                "Read it in one, or take it out: every event's value is coded, for nothing",
            )


def _unread(spec: Spec) -> Iterator[Remark]:
    fusions = spec.fusions.values()
    read = {s.title for f in fusions for s in (*f.user, *f.item)}
    for segment in spec.segments:
        if segment.title not in read:
            yield Remark(
                "warning",
                f"[{segment.title}]",
                "no fusion reads it",
                f"Name it in the `{segment.side}` list of a [fusion], or take it out: it is encoded at every event",
            )


def _twice(spec: Spec) -> Iterator[Remark]:
    """Within one fusion: two uses may well ask the same of the same events. A raw affinity repeats a learned segment on
    purpose."""
    told: set[tuple[str, ...]] = set()
    for fusion, side in product(spec.fusions.values(), SIDES):
        owners: dict[FeatureSpec, list[str]] = {}
        for segment in fusion.user if side == "user" else fusion.item:
            if segment.encoder.kind != "affinity":
                for f in dict.fromkeys(
                    f for f in segment.features if f.kind != "id"
                ):  # an id is each one's own to learn
                    owners.setdefault(f, []).append(segment.name)
        together: dict[tuple[str, ...], list[FeatureSpec]] = {}
        for f, names in owners.items():
            if len(names) > 1:
                together.setdefault((side, *names), []).append(f)
        for (_, *several), shared in together.items():
            if (side, *several) in told:
                continue
            told.add((side, *several))
            how = "both" if len(several) == 2 else "all"
            yield Remark(
                "warning",
                f"[{side}.{several[0]}] features",
                f"{' and '.join(several)} {how} read: {'; '.join(map(in_words, shared))}",
                "Keep it in one of them: its state is shared, but each event that changes it makes all of them be "
                "encoded",
            )


def _actions(spec: Spec) -> Iterator[Remark]:
    features = [f for s in spec.segments for f in s.features]
    if any("action" in (*f.keys, *f.of) for f in features):
        return
    conditions = _all_conditions(spec)
    named = {
        n.value for c in conditions for n in ast.walk(ast.parse(c.text, mode="eval")) if isinstance(n, ast.Constant)
    }
    for action in spec.events.actions:
        if action not in named:
            yield Remark(
                "warning",
                "[events] actions",
                f"no condition and no feature tells {action!r} from any other action",
                "Take it out of the list, or use it in a condition: its events are folded either way",
            )


def _all_conditions(spec: Spec) -> list[Condition]:
    given = [f.where for s in spec.segments for f in s.features]
    return [c for c in (*given, spec.label.positive, spec.label.impression) if c is not None]


def _conditions(spec: Spec) -> Iterator[Remark]:
    if not possible(spec.label.positive)[0]:
        yield Remark(
            "error",
            "[label] positive",
            f"{spec.label.positive.text!r} is never true",
            "There is nothing to learn: mend it",
        )
    if spec.label.impression and not possible(spec.label.impression)[0]:
        text = spec.label.impression.text
        yield Remark("error", "[label] impression", f"{text!r} is never true", "No event is left to train on: mend it")
    seen: set[tuple[str, str]] = set()
    for segment in spec.segments:
        for f in segment.features:
            if f.where is None or (segment.title, f.where.text) in seen:
                continue
            seen.add((segment.title, f.where.text))
            listed, unlisted, always = by_action(f.where)
            where, text = f"[{segment.title}] features", f"where = {f.where.text!r}"
            if not listed and not unlisted:
                yield Remark("error", where, f"{text} is never true", "Mend it: the feature is always zero")
            elif not listed and spec.events.actions:
                yield Remark(
                    "warning",
                    where,
                    f"{text} is true of no action in [events] actions, only of others",
                    "List the actions that it means, or mend it",
                )
            elif always:
                yield Remark(
                    "warning", where, f"{text} is always true", "Take it out: an equal feature can share its state"
                )


def _label(spec: Spec) -> Iterator[Remark]:
    """Whether an impression can be positive, and how long that takes."""
    label, within = spec.label, spec.label.within_ms
    if label.impression is None or not possible(label.positive)[0] or not possible(label.impression)[0]:
        return  # there is nothing to compare, or a remark on it already
    positive, shown = label.positive.text, label.impression.text
    if within is None:
        if not possible(_both(spec, f"({positive}) and ({shown})"))[0]:
            yield Remark(
                "error",
                "[label]",
                f"no event can be an impression, {shown!r}, and positive, {positive!r}, at once: every label is "
                f"negative",
                'Write within = "30m", if an outcome is an event of its own that follows its impression',
            )
        return
    if not possible(_both(spec, f"({positive}) and not ({shown})"))[0]:
        yield Remark(
            "warning",
            "[label] within",
            f"an event that is positive, {positive!r}, is always an impression itself, {shown!r}, and its own outcome",
            "Take `within` out: it only holds examples back",
        )
    if not within:
        yield Remark(
            "error",
            "[label] within",
            "an outcome counts in its impression's own millisecond alone",
            'Make it as long as an outcome takes to follow: within = "30m"',
        )
    if within > LONG_WITHIN_MS:
        yield Remark(
            "warning",
            "[label] within",
            f"training leaves out what was shown in the last {duration(within)} of its part of the log",
            f"Take the time in which nearly all outcomes follow, {duration(LONG_WITHIN_MS)} at most",
        )


def _both(spec: Spec, text: str) -> Condition:
    return Condition(text, spec.events.actions, "[label]", spec.event_attributes)


def _windows(spec: Spec) -> Iterator[Remark]:
    late = DAY_MS  # what an installation accepts unless it says otherwise
    for segment in spec.segments:
        where = f"[{segment.title}] features"
        for f in segment.features:
            if not f.over_ms:
                continue
            if f.over_ms < late:
                yield Remark(
                    "warning",
                    where,
                    f"{in_words(f)}: events up to {duration(late)} late are accepted, and those that come after "
                    f"{duration(f.over_ms)} are not counted here",
                    "Make `over` at least the installation's late_after if late events must count",
                )
            if f.half_life_ms and f.over_ms < f.half_life_ms:
                yield Remark(
                    "warning",
                    where,
                    f"{in_words(f)}: the window ends before half of an event has decayed",
                    f"Make `over` several half-lives, or leave `bucket` and `over` out: {duration(5 * f.half_life_ms)}",
                )
            if f.half_life_ms and f.bucket_ms > f.half_life_ms:
                yield Remark(
                    "warning",
                    where,
                    f"{in_words(f)}: one bucket of {duration(f.bucket_ms)} is longer than the half-life, and its "
                    "events decay as one",
                    "Use buckets of a quarter of the half-life",
                )


def _bounds(spec: Spec) -> Iterator[Remark]:
    for s in spec.segments:
        if 0 < s.late_after_ms < SHOWN_AGE_MS:
            yield Remark(
                "warning",
                f"[{s.title}] late_after",
                f"{duration(s.late_after_ms)} is less than the {duration(SHOWN_AGE_MS)} that a heartbeat of an idle "
                f"worker can show",
                f"Use {duration(SHOWN_AGE_MS)} or more: lookups call it late though nothing is",
            )
        if not 0 < s.expires_after_ms <= s.late_after_ms:
            continue
        listed = any(f.kind == "last" for f in s.features)
        yield Remark(
            "warning",
            f"[{s.title}] expires_after",
            f"its vector is dropped after {duration(s.expires_after_ms)}, before it is called late "
            f"({duration(s.late_after_ms)})" + (", and what the list holds with it" if listed else ""),
            "Make expires_after longer than late_after, or leave it out: an old vector beats none in most cases",
        )


def _rows(spec: Spec) -> Iterator[Remark]:
    for side in SIDES:
        layout = Layout.of(spec, side, serving=True)
        if layout.width * 8 <= ROW_BYTES:
            continue
        costs = {s.name: state_bytes(s, layout) for s in spec.side(side)}
        name = max(costs, key=lambda n: costs[n])
        yield Remark(
            "warning",
            f"[{side}.{name}]",
            f"a row of side {side} takes up to {layout.width * 8:,} bytes, {costs[name]:,} of them for this segment",
            f"Stay below {ROW_BYTES:,}: fewer buckets, a shorter list, or fewer keys",
        )


def _dimensions(spec: Spec) -> Iterator[Remark]:
    for s in spec.segments:
        reader = SegmentReader(spec, s, Layout.of(spec, s.side), Vocabulary(np.zeros(0, np.int64)))
        own = sum(f.size for f in s.features if f.kind == "id")
        # The places of a list share an encoder's weights, but what they say adds up.
        entry = reader.sequence_width + _embedding(s)
        inputs = reader.dense_width + own + reader.list_size * entry
        if s.dim > max(ALWAYS, WIDE * inputs):
            yield Remark(
                "warning",
                f"[{s.title}] dim",
                f"{s.dim} dimensions of {inputs} inputs",
                f"Try {max(ALWAYS, WIDE * inputs)} or fewer: every dimension is stored, and multiplied at every lookup",
            )


def _embedding(segment: SegmentSpec) -> int:
    if not any("item" in f.of for f in segment.features if f.kind == "last"):
        return 0
    width: int = segment.encoder.option("embedding", ITEM_EMBEDDING)
    return width


def state_bytes(segment: SegmentSpec, layout: Layout) -> int:
    """Bytes of one row that `segment` reads, those that it shares with others included."""
    return sum(b.size * 8 for b in {layout.block(f) for f in segment.features if f.kind != "id"})
