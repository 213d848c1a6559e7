"""Where history comes from: a JSON-lines file, or `movielens`, and the spec that goes with it."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from forebay.errors import UsageError
from forebay.segments.history import History
from forebay.segments.spec import Spec


def history(name: str) -> History:
    """The events that `--from` names."""
    if name == "movielens":
        from forebay.segments.movielens import load

        return load()
    return History.read(Path(name))


def spec(path: Path | None, source: str) -> Spec:
    """The spec at `path`; MovieLens brings its own."""
    if path is not None:
        return Spec.load(path)
    if source != "movielens":
        raise UsageError("no spec is named", do="Give one with --spec segments.toml")
    with as_file(files("forebay.segments") / "movielens.toml") as built_in:
        return Spec.load(built_in)
