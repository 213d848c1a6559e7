"""The error tree: what each class means, its exit code, and the messages that the code gives it, each with its
remedy."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

from forebay.errors import ForebayError
from reference.markdown import code, plain, table
from reference.source import GAP, arguments, calls, fields_of, text, trees

ACTION = "Operator action"


def errors() -> str:
    """An overview, then a section for each class with what it says and what to do."""
    tree = list(classes())
    overview = [
        (f"{'· ' * depth}[`{c.__name__}`](#{c.__name__.lower()})", _meaning(c), code(c.exit_code)) for c, depth in tree
    ]
    parts = [table(("class", "meaning", "exit code"), overview)]
    for cls, _ in tree:
        parts += [f"## {cls.__name__}", _said(cls)]
        if said := messages(cls):
            rows = [(plain(what), plain(do)) for what, do in said]
            count = f"{len(rows)} message{'s' if len(rows) > 1 else ''}"
            lines = table(("it says", "what to do"), rows).splitlines()
            parts.append("\n".join([f'??? note "{count}"', "", *(f"    {line}" for line in lines)]))
    return "\n\n".join(parts)


def remarks() -> str:
    """What `forebay spec check` finds odd."""
    names = fields_of("Remark")
    rows = []
    for call in calls("Remark"):
        given = arguments(call, names)
        rows.append((text(given.get("level")), plain(text(given["what"])), plain(text(given.get("do")))))
    return table(("level", "it says", "what to do"), sorted(dict.fromkeys(rows), key=lambda r: r[0] != "error"))


def classes(cls: type[ForebayError] = ForebayError, depth: int = 0) -> Iterator[tuple[type[ForebayError], int]]:
    """The tree in order, each class with its depth."""
    yield cls, depth
    for child in cls.__subclasses__():
        if child.__module__ == ForebayError.__module__:
            yield from classes(child, depth + 1)


def messages(cls: type[ForebayError]) -> list[tuple[str, str]]:
    """(what it says, what to do) at each place that makes one, once each, with "…" for what is known only then."""
    names = list(inspect.signature(cls).parameters)
    found: dict[tuple[str, str], None] = {}
    if "what" in names:
        given = (arguments(call, names) for call in calls(cls.__name__))
        found.update(dict.fromkeys((text(g.get("what")), text(g.get("do"))) for g in given))
    else:  # it words its message itself
        found.update(dict.fromkeys(_own_words(cls)))
    return [pair for pair in found if pair[0].strip(f"{GAP} ")]


def _own_words(cls: type[ForebayError]) -> Iterator[tuple[str, str]]:
    for path, tree in trees():
        for node in tree.body if path.name == "errors.py" else ():
            if not isinstance(node, ast.ClassDef) or node.name != cls.__name__:
                continue
            for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
                if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__":
                    given = arguments(call, ["what"])
                    yield text(given.get("what")), text(given.get("do"))


def _meaning(cls: type[ForebayError]) -> str:
    """What it means, on one line: its docstring up to what an operator does."""
    return plain(" ".join((inspect.getdoc(cls) or "").partition(ACTION)[0].split()))


def _said(cls: type[ForebayError]) -> str:
    """The docstring with its paragraphs and lists, what an operator does in a paragraph of its own."""
    text = plain(inspect.getdoc(cls) or "").replace(ACTION, f"\n\n**{ACTION}**")
    return re.sub(r"\n(?=- )", "\n\n", text, count=1)
