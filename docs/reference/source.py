"""What the code says to its readers and Python does not keep: comments beside fields, and the texts that calls
carry."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("src/forebay", "segments", "store", "streams", "retrieval")
GAP = "…"  # stands where the code puts in what it knows only when it runs


def comments(path: str, name: str = "") -> dict[str, str]:
    """The comment beside each field of the class `name` in the file at `path`, or beside each constant of the file
    itself. What has none is left out."""
    text = (ROOT / path).read_text(encoding="utf-8")
    said = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, str] = {}
    for node in _class(ast.parse(text), name).body if name else ast.parse(text).body:
        target = _target(node)
        if target is not None:
            lines = [said[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in said]
            if lines:
                found[target] = " ".join(lines)
    return found


def defaults(path: str, name: str) -> dict[str, object]:
    """The plain values that the class `name` gives its fields; fields whose default is made by a call are left out."""
    found: dict[str, object] = {}
    for node in _class(ast.parse((ROOT / path).read_text(encoding="utf-8")), name).body:
        if (
            isinstance(node, ast.AnnAssign)
            and (target := _target(node))
            and not isinstance(node.value, ast.Call | None)
        ):
            found[target] = ast.literal_eval(node.value)
    return found


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def _target(node: ast.stmt) -> str | None:
    """The one name that a statement gives a value or a type to."""
    match node:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return None


def calls(*names: str) -> Iterator[ast.Call]:
    """Every call in the package of a function or class called one of `names`, in the order of files and lines."""
    return (call for name, call in _calls() if name in names)


def arguments(call: ast.Call, names: Sequence[str]) -> dict[str, ast.expr]:
    """The expressions that a call gives, by the `names` of the parameters in their order."""
    given = dict(zip(names, call.args, strict=False))
    return given | {k.arg: k.value for k in call.keywords if k.arg is not None}


def text(node: ast.expr | None) -> str:
    """A text as its reader will see it, with "…" for what is put in at run time."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=parts):
            return "".join(text(p) for p in parts)
        case ast.FormattedValue(value=ast.Constant(value=value)):
            return str(value)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text(left) + text(right)
        case ast.IfExp(body=body, orelse=orelse):
            return " or ".join(t for t in (text(body), text(orelse)) if t)
        case None:
            return ""
    return GAP


def fields_of(name: str) -> list[str]:
    """The fields of the dataclass `name`, in order, without importing its module."""
    for _, tree in trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return [t for n in node.body if (t := _target(n)) is not None]
    raise KeyError(f"no class {name}")


@cache
def _calls() -> tuple[tuple[str, ast.Call], ...]:
    """Every call of a plain name, with that name. The page of errors asks once for each class: one walk serves all."""
    nodes = (node for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Call))
    return tuple((node.func.id, node) for node in nodes if isinstance(node.func, ast.Name))


@cache
def trees() -> tuple[tuple[Path, ast.Module], ...]:
    """Each file of the package, parsed. src/forebay has links to the rooms: each file is read once, where it lies."""
    files = [f for room in ROOMS for f in sorted((ROOT / room).rglob("*.py"))]
    return tuple((f, _parsed(f)) for f in dict.fromkeys(f.resolve() for f in files))


def _parsed(file: Path) -> ast.Module:
    """The file's tree with its own constants in place of their names, so that texts made of them can be read."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    named: dict[str, ast.expr] = {
        name: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and (name := _target(node)) and isinstance(node.value, ast.Constant)
    }
    return ast.fix_missing_locations(_Named(named).visit(tree))


class _Named(ast.NodeTransformer):
    def __init__(self, named: dict[str, ast.expr]) -> None:
        self._named = named

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._named.get(node.id, node) if isinstance(node.ctx, ast.Load) else node
