"""Reading a segments.toml: every mistake in it is named with its table and its remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from forebay.errors import SpecError
from forebay.segments.expression import Condition
from forebay.segments.spec import (
    DAY_MS,
    SIDES,
    AttributeSpec,
    EncoderSpec,
    EventRules,
    FeatureSpec,
    Label,
    SegmentSpec,
    Side,
    Spec,
)

MAX_SET_VALUES = 62  # a set is one int64: bit 0 is the unknown bucket and the sign bit stays free
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_EVENT_WORDS = ("action", "age", "events", "item", "value")  # in features they mean the event's own fields
_ENCODER_OPTIONS = {
    "mlp": ("dropout", "embedding", "hidden"),
    "attention_pool": ("dropout", "embedding", "hidden", "queries"),
}


def duration_ms(text: object, where: str) -> int:
    """`"24h"` -> 86400000. Units: ms, s, m, h, d."""
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text) if isinstance(text, str) else None
    if match is None:
        raise SpecError(f"{text!r} is not a duration", where=where, do='Write it as "30s", "10m", "24h" or "7d"')
    return int(match[1]) * _UNITS[match[2]]


class Reader:
    """One pass over the tables; it exists so that each error can name the table it was in."""

    def spec(self, data: Mapping[str, Any]) -> Spec:
        self._known(data, {"events", "label", "attributes", "user", "item", "fusion"}, "the file")
        self._table(data.get("events", {}), "[events]")
        self.actions = self._strings(data.get("events", {}).get("actions", []), "[events] actions")
        attributes = data.get("attributes", {})
        self._known(attributes, {"user", "item"}, "[attributes]")
        self.attributes: dict[Side, tuple[AttributeSpec, ...]] = {
            side: tuple(
                self._attribute(side, n, t)
                for n, t in self._table(attributes.get(side, {}), f"[attributes.{side}]").items()
            )
            for side in SIDES
        }
        segments = tuple(
            self._segment(side, n, t) for side in SIDES for n, t in self._table(data.get(side, {}), f"[{side}]").items()
        )
        for side in SIDES:
            if not any(s.side == side for s in segments):
                raise SpecError(f"no segment for side {side}", where=f"[{side}]", do=f"Add a table [{side}.NAME]")
            if sum(s.side == side for s in segments) > 62:
                raise SpecError("more than 62 segments", where=f"[{side}]", do="Join some of them")
        fusion = data.get("fusion", {})
        self._known(fusion, {"retrieve", "rank"}, "[fusion]")
        for name, kind in fusion.items():
            if kind != "weighted_sum":
                raise SpecError(f"unknown fusion {kind!r}", where=f"[fusion] {name}", do='Use "weighted_sum"')
        if len({s.dim for s in segments}) != 1:
            dims = ", ".join(f"{s.title} {s.dim}" for s in segments)
            raise SpecError(
                f"a weighted sum needs one dimension for all segments, here {dims}",
                where="[fusion]",
                do="Give every segment the same dim",
            )
        return Spec(
            events=self._events(data.get("events", {})),
            label=self._label(data.get("label", {})),
            attributes=self.attributes,
            segments=segments,
            canonical=json.dumps(data, separators=(",", ":"), ensure_ascii=False),
        )

    def _table(self, value: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise SpecError(f"{value!r} where a table must stand", where=where, do='Write it as { name = "value" }')
        return value

    def _strings(self, value: Any, where: str) -> tuple[str, ...]:
        if (
            not isinstance(value, list | tuple)
            or not all(isinstance(v, str) for v in value)
            or len(set(value)) < len(value)
        ):
            raise SpecError(
                f"{value!r} where a list of different strings must stand", where=where, do='Write it as ["a", "b"]'
            )
        return tuple(value)

    def _known(self, table: Any, names: set[str], where: str) -> None:
        for name in self._table(table, where):
            if name not in names:
                raise SpecError(f"unknown key {name!r}", where=where, do=f"Known: {', '.join(sorted(names))}")

    def _events(self, table: Mapping[str, Any]) -> EventRules:
        self._known(table, {"late_after", "future_after", "retire_users_after", "actions"}, "[events]")
        times = {f"{n}_ms": duration_ms(v, f"[events] {n}") for n, v in table.items() if n != "actions"}
        return EventRules(**times, actions=self.actions)

    def _label(self, table: Mapping[str, Any]) -> Label:
        self._known(table, {"positive", "impression"}, "[label]")
        if "positive" not in table:
            raise SpecError("no positive condition", where="[label]", do='Write positive = "value >= 4" or the like')
        impression = table.get("impression")
        return Label(
            positive=Condition(table["positive"], self.actions, "[label] positive"),
            impression=Condition(impression, self.actions, "[label] impression") if impression else None,
        )

    def _attribute(self, side: Side, name: str, table: Mapping[str, Any]) -> AttributeSpec:
        where = f"[attributes.{side}] {name}"
        self._name(name, where)
        if side == "item" and name in _EVENT_WORDS:
            raise SpecError(
                f"an item attribute called {name!r}",
                where=where,
                do=f"Choose another name: in features, {', '.join(_EVENT_WORDS)} are the event's own",
            )
        self._known(table, {"category", "set", "number"}, where)
        if table == {"number": True}:
            return AttributeSpec(name, "number")
        if len(table) != 1 or "number" in table:
            raise SpecError(
                "an attribute has one kind",
                where=where,
                do='Use { set = ["a", "b"] }, { category = […] } or { number = true }',
            )
        ((kind, listed),) = table.items()
        values = self._strings(listed, where)
        if kind == "set" and len(values) > MAX_SET_VALUES:
            raise SpecError(f"{len(values)} values", where=where, do=f"A set has at most {MAX_SET_VALUES}")
        return AttributeSpec(name, "set" if kind == "set" else "category", values)

    def _segment(self, side: Side, name: str, table: Mapping[str, Any]) -> SegmentSpec:
        where = f"[{side}.{name}]"
        self._name(name, where)
        self._known(table, {"features", "encoder", "dim", "late_after", "expires_after"}, where)
        for needed in ("features", "encoder", "dim"):
            if not table.get(needed):
                raise SpecError(f"no {needed}", where=where, do=f"Write {needed} = …")
        self._whole(table["dim"], 1, 1024, f"{where} dim")
        encoder = self._encoder(table["encoder"], f"{where} encoder")
        kind = encoder.kind
        if not isinstance(table["features"], list | tuple):
            raise SpecError(
                f"{table['features']!r} where a list of tables must stand", where=where, do="Write features = [{ … }]"
            )
        features = tuple(self._feature(side, f, f"{where} features") for f in table["features"])
        if sum(f.kind == "id" for f in features) > 1:
            raise SpecError("more than one id", where=f"{where} features", do="Keep one: the entity has one embedding")
        lists = sum(f.kind == "last" for f in features)
        if (kind == "attention_pool") != (lists == 1):
            raise SpecError(
                f"{lists} `last` features under a {kind}", where=where, do="attention_pool reads exactly one, mlp none"
            )
        return SegmentSpec(
            side=side,
            name=name,
            features=features,
            encoder=encoder,
            dim=table["dim"],
            **{f"{n}_ms": duration_ms(table[n], f"{where} {n}") for n in ("late_after", "expires_after") if n in table},
        )

    def _encoder(self, table: Any, where: str) -> EncoderSpec:
        kind = self._table(table, where).get("kind")
        if kind not in _ENCODER_OPTIONS:
            raise SpecError(f"unknown encoder {kind!r}", where=where, do='Use "mlp" or "attention_pool"')
        self._known(table, {"kind", *_ENCODER_OPTIONS[kind]}, where)
        options = {n: v for n, v in table.items() if n != "kind"}
        for name, value in options.items():
            if name == "dropout":
                if not isinstance(value, int | float) or not 0 <= value < 1:
                    raise SpecError(f"dropout = {value!r}", where=where, do="Use a number from 0 to below 1")
            elif kind == "mlp" and name == "hidden":
                if not isinstance(value, list | tuple):
                    raise SpecError(f"hidden = {value!r}", where=where, do="List the layers' widths: hidden = [64]")
                for width in value:
                    self._whole(width, 1, 65_536, f"{where} hidden")
                options[name] = tuple(value)
            else:
                self._whole(value, 1, 65_536, f"{where} {name}")
                if kind == "attention_pool" and name == "hidden" and value % 8:
                    raise SpecError(
                        f"hidden = {value}", where=where, do="Use a multiple of 8: rows of other widths differ"
                    )
        return EncoderSpec(kind, tuple(sorted(options.items())))

    def _whole(self, value: Any, low: int, high: int, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise SpecError(f"{value!r}", where=where, do=f"Use a whole number from {low} to {high}")
        return value

    def _feature(self, side: Side, table: Mapping[str, Any], where: str) -> FeatureSpec:
        self._table(table, where)
        kinds = [k for k in ("last", "count", "mean", "latest", "id") if k in table]
        if len(kinds) != 1:
            raise SpecError(
                f"{dict(table)} names {len(kinds)} folds", where=where, do="Name one: last, count, mean, latest, id"
            )
        kind = kinds[0]
        keys = {
            "last": {"of", "where"},
            "count": {"where", "bucket", "over"},
            "mean": {"by", "where", "bucket", "over"},
        }
        self._known(table, {kind, *keys.get(kind, set())}, where)
        condition = Condition(table["where"], self.actions, where) if "where" in table else None
        match kind:
            case "last":
                of = self._strings(table.get("of", ()), where)
                allowed = {"item", "value", "age", "action", *(a.name for a in self.attributes["item"])}
                if side != "user" or not of or not set(of) <= allowed:
                    raise SpecError(
                        f"{dict(table)}", where=where, do=f"On side user: last = 1…1000, of = some of {sorted(allowed)}"
                    )
                return FeatureSpec("last", of=of, size=self._whole(table["last"], 1, 1000, where), where=condition)
            case "latest":
                of = self._strings(table["latest"], where)
                if not of:
                    raise SpecError("latest of nothing", where=where, do="Name the attributes that it keeps")
                self._attributes_known(side, of, where)
                return FeatureSpec("latest", of=of)
            case "id":
                if side != "item":  # most users of tomorrow are unknown to the vocabulary of today
                    raise SpecError("an id on side user", where=where, do="Make user vectors of events: use `last`")
                return FeatureSpec("id", size=self._whole(table["id"], 1, 1024, where))
        (key,) = self._strings([table["count"] if kind == "count" else table.get("by", "events")], where)
        if kind == "mean" and table["mean"] != "value":
            raise SpecError(f"mean of {table['mean']!r}", where=where, do='Only "value" has a mean')
        if key not in ("events", "action"):
            if side != "user":
                raise SpecError(
                    f"{key!r} on side item", where=where, do='An interaction record has "events" and "action"'
                )
            self._attributes_known("item", (key,), where)
            if self._attribute_named("item", key).kind == "number":
                raise SpecError(
                    f"{key!r} is a number and has no buckets", where=where, do="Count by a category or a set"
                )
        if ("bucket" in table) != ("over" in table):
            raise SpecError("bucket and over belong together", where=where, do="Write both or none")
        bucket = duration_ms(table["bucket"], where) if "bucket" in table else 0
        over = duration_ms(table["over"], where) if "over" in table else 0
        if "over" in table and (bucket <= 0 or over <= 0 or over % bucket or over // bucket > 1000):
            raise SpecError(
                f"over {table['over']} in buckets of {table['bucket']}",
                where=where,
                do="Make `over` 1 to 1000 whole buckets",
            )
        return FeatureSpec(
            "count" if kind == "count" else "mean", key=key, where=condition, bucket_ms=bucket, over_ms=over
        )

    def _attributes_known(self, side: Side, names: tuple[str, ...], where: str) -> None:
        known = {a.name for a in self.attributes[side]}
        for name in names:
            if name not in known:
                raise SpecError(
                    f"attribute {name!r} is not declared", where=where, do=f"Add it under [attributes.{side}]"
                )

    def _attribute_named(self, side: Side, name: str) -> AttributeSpec:
        return next(a for a in self.attributes[side] if a.name == name)

    def _name(self, name: str, where: str) -> None:
        if not _NAME.fullmatch(name):
            raise SpecError(f"the name {name!r}", where=where, do="Use a–z, 0–9 and _, a letter first")
