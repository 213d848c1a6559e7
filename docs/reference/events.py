"""Events: the fields of each struct, the limits on them, and the reasons for which one becomes a dead letter."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

import forebay.events
from forebay.errors import EventError
from forebay.events import Event
from reference.markdown import code, plain, table
from reference.source import GAP, arguments, calls, comments, text

JSON = {
    str: "string",
    float: "number",
    int: "whole number",
    bool: "true or false",
    bytes: "bytes (base64)",
    type(None): "null",
}


def events() -> str:
    """A section for each struct that travels on the topics."""
    return "\n\n".join(struct_section(s) for s in get_args(Event))


def struct_section(struct: type[msgspec.Struct]) -> str:
    """A heading, the docstring, and a table of the fields with what the comments beside them say."""
    said, tag = comments(_file(struct), struct.__name__), struct.__struct_config__.tag
    columns = ("field", "type", "default", "meaning") if said else ("field", "type", "default")
    rows = [(code("type"), "string", "needed", code(tag))] if tag else []
    for f in msgspec.structs.fields(struct):
        rows.append((code(f.name), in_json(f.type), _default(f), plain(said.get(f.name, ""))))
    cells = [row[: len(columns)] for row in rows]
    return "\n\n".join([f"## {struct.__name__}", plain(inspect.getdoc(struct) or ""), table(columns, cells)])


def limits() -> str:
    """The constants that bound an event."""
    said = comments("src/forebay/events.py")
    rows = [
        (code(name), code(f"{getattr(forebay.events, name):,.0f}"), plain(said[name]))
        for name in said
        if name.startswith("MAX_")
    ]
    return table(("limit", "value", "meaning"), rows)


def reasons() -> str:
    """Each reason code with the words that come with it."""
    names = list(inspect.signature(EventError).parameters)
    found: dict[str, list[str]] = {}
    for call in calls("EventError"):
        given = arguments(call, names)
        words = found.setdefault(text(given["reason"]), [])
        said = ". ".join(t for t in (text(given.get("what")), text(given.get("do"))) if t.strip(f"{GAP} "))
        if said and said not in words:
            words.append(said)
    rows = [(code(reason), plain("; ".join(words)) or "the decoder's own words") for reason, words in found.items()]
    return table(("reason", "it says"), sorted(rows))


def in_json(kind: Any) -> str:
    """A Python type in JSON's words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(in_json(a) for a in args)
    if origin is Literal:
        return " or ".join(code(f'"{a}"') for a in args)
    if origin is list:
        return f"list of {in_json(args[0])}s"
    if origin is dict:
        return f"object: {in_json(args[1])}"
    return JSON.get(kind, getattr(kind, "__name__", str(kind)))


def _file(struct: type) -> str:
    path = struct.__module__.split(".")[1:]
    return f"src/forebay/{'/'.join(path)}.py"  # the rooms are linked there


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[operator]
    return code(msgspec.json.encode(value).decode())
