"""Where history comes from: an archive, a JSON-lines file, `movielens`, or `synthetic`, and the spec that goes with
it."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from forebay.errors import UsageError
from forebay.segments.spec import Spec, load_spec

if TYPE_CHECKING:
    from forebay.segments.history import History  # pyarrow: a spec is checked without it

DEFAULT_EVENTS = 100_000


def history(name: str) -> History:
    """The events that `--from` names."""
    if name == "movielens":
        from forebay.segments.datasets.movielens import load

        return load()
    if (events := _synthetic(name)) is not None:
        from forebay.segments.datasets.planted import Planted
        from forebay.segments.datasets.worldoptions import WorldOptions

        return Planted(WorldOptions.sized(events)).history
    from forebay.segments.history import History

    if "://" in name or Path(name).is_dir():
        from forebay.segments.history.archive import Archive

        return History(Archive.open(name))
    return History.read(Path(name))


def spec(path: Path | None, source: str) -> Spec:
    """The spec at `path`; MovieLens and the synthetic world bring their own."""
    if path is not None:
        return load_spec(path)
    own = "synthetic" if _synthetic(source) is not None else source
    if own not in ("movielens", "synthetic"):
        raise UsageError("no spec is named", do="Give one with --spec segments.toml")
    with as_file(files("forebay.segments") / f"{own}.toml") as built_in:
        return load_spec(built_in)


def _synthetic(name: str) -> int | None:
    """Impressions of the world that `synthetic` or `synthetic:EVENTS` names; None for another name."""
    word, _, size = name.partition(":")
    if word != "synthetic":
        return None
    if size and not (size.isdigit() and int(size) > 0):
        raise UsageError(f"{name!r}", do="Write synthetic, or synthetic:100000 for as many impressions")
    return int(size) if size else DEFAULT_EVENTS
