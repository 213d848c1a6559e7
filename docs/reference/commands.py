"""The command line: every verb with its arguments, options and defaults, from the Typer app that runs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo, ParameterInfo

from forebay.cli.app import app
from reference.markdown import code, plain, table

WORDS = {int: "number", float: "number", str: "text", Path: "path", bool: "flag"}


@dataclass(frozen=True)
class Parameter:
    """One argument or option: its name in the function, as it is typed, what it takes, its default ("" for none) and
    its help."""

    name: str
    typed: str
    takes: str
    default: str
    help: str
    is_argument: bool
    is_required: bool


def commands() -> str:
    """A section for each verb, those of a group after the group."""
    root = [(code(", ".join(p.opts)), plain(p.help or "")) for p in typer.main.get_command(app).params]  # type: ignore[attr-defined]
    parts = [table(("before a verb", "meaning"), root)] if root else []
    for path, said, parameters in verbs():
        usage = " ".join([path, *(_usage(p) for p in parameters if p.is_argument), *_required(parameters)])
        rest = " [OPTIONS]" if any(not p.is_argument and not p.is_required for p in parameters) else ""
        parts += [f"## {path}", plain(said), f"    {usage}{rest}"]
        if parameters:
            parts.append(_table(parameters))
    return "\n\n".join(parts)


def verbs(typer_app: typer.Typer = app, prefix: str = "forebay") -> Iterator[tuple[str, str, list[Parameter]]]:
    """(words to type, help, parameters) of each verb below `typer_app`, groups after single verbs."""
    for command in typer_app.registered_commands:
        assert command.callback is not None
        yield f"{prefix} {_name(command)}", inspect.getdoc(command.callback) or "", _parameters(command.callback)
    for group in typer_app.registered_groups:
        assert group.typer_instance is not None
        yield from verbs(group.typer_instance, f"{prefix} {group.name}")


def _name(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or command.callback.__name__.replace("_", "-")


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *notes = get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
        info = next((n for n in notes if isinstance(n, ParameterInfo)), OptionInfo())
        if kind is not typer.Context:
            found.append(_parameter(name, kind, info, parameter.default))
    return found


def _parameter(name: str, kind: Any, info: ParameterInfo, default: Any) -> Parameter:
    base = kind
    while get_origin(base):  # list[str] | None is a text, as often as one likes
        base = next(a for a in get_args(base) if a is not type(None))
    required = default is inspect.Parameter.empty
    is_argument = isinstance(info, ArgumentInfo)
    dashed = name.replace("_", "-")
    switch = f"--{dashed} / --no-{dashed}" if base is bool else f"--{dashed}"
    # Inside Annotated, typer takes the first word for a declaration, too.
    words = [w for w in (info.default, *(info.param_decls or ())) if isinstance(w, str)]
    return Parameter(
        name=name,
        typed=(info.metavar or name.upper()) if is_argument else ", ".join(words or [switch]),
        takes=WORDS.get(base, getattr(base, "__name__", str(base))),
        default="" if required or default is None or base is bool else _shown(default),
        help=info.help or "",
        is_argument=is_argument,
        is_required=required,
    )


def _shown(default: Any) -> str:
    return str(default.value if isinstance(default, Enum) else default)


def _usage(parameter: Parameter) -> str:
    return parameter.typed if parameter.is_required else f"[{parameter.typed}]"


def _required(parameters: list[Parameter]) -> list[str]:
    return [f"{p.typed} {p.takes.upper()}" for p in parameters if p.is_required and not p.is_argument]


def _table(parameters: list[Parameter]) -> str:
    rows = [(code(p.typed), p.takes, "needed" if p.is_required else code(p.default), plain(p.help)) for p in parameters]
    return table(("", "takes", "default", "meaning"), rows)
