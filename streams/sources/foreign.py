"""A topic that somebody else fills: one `[[source]]` of the settings, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.config import SourceTable
from forebay.errors import ConfigError, UsageError
from forebay.secret import NO_SECRET, Secret
from forebay.streams.sources.mapping import Shape
from forebay.streams.sources.registry import Address

ENCODINGS = ("json", "msgpack", "avro", "protobuf", "jsonschema")
ENVELOPES = ("cloudevents", "debezium")
FORMATS = (*ENCODINGS, *ENVELOPES)
NEED_REGISTRY = ("avro", "protobuf")
REQUIRED = {"behaviour": ("user", "item", "action"), "user_profile": ("user",), "item_update": ("item",)}

# What an envelope says by itself, unless it is mapped otherwise.
_KNOWN: Mapping[str, Mapping[str, str]] = {
    "cloudevents": {"id": "id", "time": "time", "action": "type"},
    "debezium": {"time": "@time"},
}
_TEXTS = ("topic", "format", "encoding", "registry", "registry_user", "registry_password_file", "registry_ca",
          "time_unit", "no_time", "deletes")  # fmt: skip
_TABLES = ("map", "set", "split")
KEYS = (*_TEXTS, *_TABLES, "text")


@dataclass(frozen=True)
class Foreign:
    """What the records of `topic` are, and what becomes of them.

    `format` is what a record is; `encoding` what stands inside an envelope. A record without a time is refused, or with
    `no_time` "append" gets that at which the log took it. `deletes` says what a Debezium record of a row that is gone
    becomes: "clear" an event without attributes, "refuse" a dead letter, "skip" nothing.
    """

    topic: str
    format: str
    shape: Shape
    encoding: str = "json"
    registry: Address | None = None
    no_time: str = "refuse"
    deletes: str = "clear"

    @classmethod
    def of(cls, table: SourceTable) -> Foreign:
        """Raises ConfigError for what is missing, unknown or does not go together."""
        try:
            return _foreign(table.values, table.topic)
        except ConfigError as error:
            where = f"{table.where} ({table.topic})"
            raise ConfigError(error.what, where=error.where or where, do=error.do) from None
        except UsageError as error:
            raise ConfigError(error.what, where=f"{table.where} ({table.topic})", do=error.do) from None


def _foreign(values: Mapping[str, Any], topic: str) -> Foreign:
    for name, value in values.items():
        if name not in KEYS:
            raise ConfigError(f"a [[source]] has no {name!r}", do=f"It has: {', '.join(KEYS)}")
        if name in _TEXTS and not isinstance(value, str):
            raise ConfigError(f"{name} is not a text", do=f'Write it as {name} = "…"')
        if name in _TABLES and not isinstance(value, dict):
            raise ConfigError(f"{name} is no table", do=f"Write it as {name} = {{ user = … }}")
    form = _one_of("format", values.get("format", ""), FORMATS)
    encoding = _one_of("encoding", values.get("encoding", "json"), ENCODINGS) if form in ENVELOPES else form
    if form not in ENVELOPES and "encoding" in values:
        raise ConfigError(f"encoding is of {' and '.join(ENVELOPES)}", do="Say it as format")
    shape, kind = _shape(values, form)
    no_time = _one_of("no_time", values.get("no_time", "refuse"), ("refuse", "append"))
    if not shape.own and no_time == "refuse" and "time" not in {*shape.columns, *shape.constants}:
        raise ConfigError(
            "nothing says what an event's time is",
            do='Map it, as in map = { time = "ts" }; or no_time = "append": when the log took the record',
        )
    return Foreign(topic, form, shape, encoding, _registry(values, encoding), no_time, _deletes(values, form, kind))


def _shape(values: Mapping[str, Any], form: str) -> tuple[Shape, str | None]:
    """How records are mapped, and the type of their events where all are of one."""
    columns = dict(_flat(values.get("map", {})))
    constants = dict(_flat(values.get("set", {})))
    splits = dict(_flat(values.get("split", {})))
    texts = values.get("text", [])
    for word, table in (("map", columns), ("split", splits)):
        for field, value in table.items():
            if not isinstance(value, str) or not value:
                raise ConfigError(f"{word}: {field} is no text", do=f'Write {word} = {{ {field} = "…" }}')
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError("text is no list of attributes", do='Write text = ["attributes.NAME"]')
    own = "map" not in values and form not in ENVELOPES
    if form == "debezium" and "type" not in columns:
        constants = {"type": "item_update"} | constants
    columns = {**_KNOWN.get(form, {}), **columns}
    shape = Shape.made(columns, constants, splits, texts, values.get("time_unit", "ms"), own=own)
    if own or "type" in columns:
        return shape, None
    kind = _one_of("set: type", str(constants.get("type", "behaviour")), tuple(REQUIRED))
    for field in REQUIRED[kind]:
        if field not in columns and field not in constants:
            raise ConfigError(
                f"nothing says what {field} is", do=f'Map it, as in map = {{ {field} = "…" }}, or give it with set'
            )
    return shape, kind


def _deletes(values: Mapping[str, Any], form: str, kind: str | None) -> str:
    if form != "debezium":
        if "deletes" in values:
            raise ConfigError("deletes is of debezium alone", do="Leave it out")
        return "clear"
    deletes = _one_of("deletes", values.get("deletes", "skip" if kind == "behaviour" else "clear"),
                      ("clear", "refuse", "skip"))  # fmt: skip
    if kind is None and deletes == "clear":
        raise ConfigError(
            "type is mapped, and of a deleted row it is not known: it cannot be cleared",
            do='Write deletes = "skip" or "refuse"',
        )
    if kind == "behaviour" and deletes == "clear":
        raise ConfigError("a behaviour cannot be cleared", do='Use deletes = "skip" or "refuse"')
    return deletes


def _registry(values: Mapping[str, Any], encoding: str) -> Address | None:
    url = values.get("registry", "")
    if encoding not in NEED_REGISTRY:
        if url:
            raise ConfigError(f"{encoding} asks no registry", do="Leave registry out")
        return None
    if not url:
        raise ConfigError(f"{encoding} needs a registry", do='Write registry = "http://registry:8081"')
    password = values.get("registry_password_file")
    return Address.of(
        url,
        user=values.get("registry_user", ""),
        password=Secret.of_file(Path(password)) if password else NO_SECRET,
        ca=Path(values["registry_ca"]) if "registry_ca" in values else None,
    )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"{name} = {value!r}", do=f"Use one of {', '.join(known)}")
    return value


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """`{ attributes.page = … }` is a table in a table."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
