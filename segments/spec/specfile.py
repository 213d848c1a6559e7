"""Reading a segments.toml: every mistake in it is named with its table and its remedy."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forebay.errors import SpecError
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.encoderfile import check_encoder, read_encoder
from forebay.segments.spec.expression import Condition
from forebay.segments.spec.featurefile import read_feature
from forebay.segments.spec.fusionfile import read_fusions
from forebay.segments.spec.servingfile import read_serving
from forebay.segments.spec.spec import (
    SIDES,
    EventRules,
    Holder,
    Label,
    SegmentSpec,
    Side,
    Spec,
)
from forebay.segments.spec.toml import duration_ms, known, strings, table, whole

MAX_BUCKETS = 4096  # 32 KiB of a row for each time bucket of a count
MAX_SET_VALUES = 62  # a set is one int64: bit 0 is the unknown bucket and the sign bit stays free
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_EVENT_WORDS = ("action", "age", "events", "item", "value")  # in features they mean the event's own fields
_OTHER_FIELDS = ("id", "time", "user")  # of an event: an attribute of that name would be taken for it


def load_spec(path: Path) -> Spec:
    """Read `path`. Raises SpecError that names the file and the table."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(
            "there is no such spec", where=str(path), do="Name a segments.toml: with --spec, or behind spec check"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"not a TOML file: {error}", where=str(path), do="Mend the place that it names") from None
    try:
        return parse_spec(data)
    except SpecError as error:
        raise SpecError(error.what, where=f"{path}, {error.where}" if error.where else str(path), do=error.do) from None


def parse_spec(data: Mapping[str, Any]) -> Spec:
    """The spec in `data`, the tables of a segments.toml. Raises SpecError that names the table."""
    return _Reader().spec(data)


class _Reader:
    """One pass over the tables; it exists so that each error can name the table it was in."""

    def spec(self, data: Mapping[str, Any]) -> Spec:
        known(data, {"events", "label", "attributes", "user", "item", "fusion", "training", "serving"}, "the file")
        table(data.get("events", {}), "[events]")
        self.actions = strings(data.get("events", {}).get("actions", []), "[events] actions")
        attributes = data.get("attributes", {})
        known(attributes, {"user", "item", "event"}, "[attributes]")
        self.attributes: dict[Holder, tuple[AttributeSpec, ...]] = {
            side: self._attributes(side, attributes.get(side, {})) for side in SIDES
        }
        if own := self._attributes("event", attributes.get("event", {})):
            self.attributes["event"] = own
        segments = tuple(
            self._segment(side, n, t) for side in SIDES for n, t in table(data.get(side, {}), f"[{side}]").items()
        )
        for side in SIDES:
            if not any(s.side == side for s in segments):
                raise SpecError(f"no segment for side {side}", where=f"[{side}]", do=f"Add a table [{side}.NAME]")
            if sum(s.side == side for s in segments) > 62:
                raise SpecError("more than 62 segments", where=f"[{side}]", do="Join some of them")
        return Spec(
            events=self._events(data.get("events", {})),
            label=self._label(data.get("label", {})),
            attributes=self.attributes,
            segments=segments,
            fusions=read_fusions(data.get("fusion", {}), segments),
            training=table(data.get("training", {}), "[training]"),
            canonical=json.dumps(data, separators=(",", ":"), ensure_ascii=False),
            serving=read_serving(data.get("serving", {}), self.attributes["item"], segments),
        )

    def _events(self, given: Mapping[str, Any]) -> EventRules:
        for name in ("late_after", "future_after"):
            if name in given:
                raise SpecError(
                    f"{name} is the installation's: one Intake accepts events for every generation",
                    where="[events]",
                    do=f'Take it out, and write {name} = "{given[name]}" into forebay.toml (a bundle that has it is of '
                    "an older version: train it again)",
                )
        known(given, {"retire_users_after", "actions"}, "[events]")
        times = {f"{n}_ms": duration_ms(v, f"[events] {n}") for n, v in given.items() if n != "actions"}
        return EventRules(**times, actions=self.actions)

    def _label(self, given: Mapping[str, Any]) -> Label:
        known(given, {"positive", "impression", "within", "join"}, "[label]")
        if "positive" not in given:
            raise SpecError("no positive condition", where="[label]", do='Write positive = "value >= 4" or the like')
        impression = given.get("impression")
        if "within" in given and not impression:
            raise SpecError(
                "within, and no impression that it counts from",
                where="[label]",
                do="""Write impression = "action == 'view'" or the like, or take `within` out""",
            )
        join = given.get("join", "")
        if "join" in given and "within" not in given:
            raise SpecError("join without within", where="[label]", do='Write within = "30m", or take `join` out')
        if "join" in given and not (isinstance(join, str) and join):
            raise SpecError(f"{join!r}", where="[label] join", do='Name one event attribute: join = "request_id"')
        return Label(
            positive=self._condition(given["positive"], "[label] positive"),
            impression=self._condition(impression, "[label] impression") if impression else None,
            within_ms=duration_ms(given["within"], "[label] within") if "within" in given else None,
            join=join,
        )

    def _condition(self, text: Any, where: str) -> Condition:
        return Condition(text, self.actions, where, self.attributes.get("event", ()))

    def _attributes(self, holder: Holder, given: Any) -> tuple[AttributeSpec, ...]:
        return tuple(self._attribute(holder, n, t) for n, t in table(given, f"[attributes.{holder}]").items())

    def _attribute(self, holder: Holder, name: str, given: Mapping[str, Any]) -> AttributeSpec:
        where = f"[attributes.{holder}] {name}"
        self._name(name, where)
        taken = () if holder == "user" else _EVENT_WORDS if holder == "item" else (*_EVENT_WORDS, *_OTHER_FIELDS)
        if name in taken:
            raise SpecError(
                f"an {holder} attribute called {name!r}",
                where=where,
                do=f"Choose another name: in features, {', '.join(taken)} are the event's own",
            )
        if holder == "event" and name in {a.name for a in self.attributes["item"]}:
            raise SpecError(
                f"an event attribute called {name!r}, as one of the item",
                where=where,
                do="Choose another name: a feature names either without saying whose it is",
            )
        known(given, {"category", "set", "number"}, where)
        if given == {"number": True}:
            return AttributeSpec(name, "number")
        if len(given) != 1 or "number" in given:
            raise SpecError(
                "an attribute has one kind",
                where=where,
                do='Use { set = ["a", "b"] }, { category = […] }, { category = { buckets = 64 } } or { number = true }',
            )
        ((kind, listed),) = given.items()
        if kind == "category" and isinstance(listed, Mapping):
            known(listed, {"buckets"}, where)
            return AttributeSpec(name, "category", buckets=whole(listed.get("buckets"), 1, MAX_BUCKETS, where))
        values = strings(listed, where)
        if kind == "set" and len(values) > MAX_SET_VALUES:
            raise SpecError(f"{len(values)} values", where=where, do=f"A set has at most {MAX_SET_VALUES}")
        return AttributeSpec(name, "set" if kind == "set" else "category", values)

    def _segment(self, side: Side, name: str, given: Mapping[str, Any]) -> SegmentSpec:
        where = f"[{side}.{name}]"
        self._name(name, where)
        known(given, {"features", "encoder", "dim", "late_after", "expires_after"}, where)
        for needed in ("features", "encoder", "dim"):
            if not given.get(needed):
                raise SpecError(f"no {needed}", where=where, do=f"Write {needed} = …")
        whole(given["dim"], 1, 1024, f"{where} dim")
        encoder = read_encoder(given["encoder"], f"{where} encoder")
        if not isinstance(given["features"], list | tuple):
            raise SpecError(
                f"{given['features']!r} where a list of tables must stand", where=where, do="Write features = [{ … }]"
            )
        features = tuple(
            read_feature(side, f, self.attributes, self.actions, f"{where} features") for f in given["features"]
        )
        if sum(f.kind == "id" for f in features) > 1:
            raise SpecError("more than one id", where=f"{where} features", do="Keep one: the entity has one embedding")
        check_encoder(encoder, side, features, given["dim"], self.attributes["item"], where)
        return SegmentSpec(
            side=side,
            name=name,
            features=features,
            encoder=encoder,
            dim=given["dim"],
            **{f"{n}_ms": duration_ms(given[n], f"{where} {n}") for n in ("late_after", "expires_after") if n in given},
        )

    def _name(self, name: str, where: str) -> None:
        if not _NAME.fullmatch(name):
            raise SpecError(f"the name {name!r}", where=where, do="Use a–z, 0–9 and _, a letter first")
