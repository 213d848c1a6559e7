"""MovieLens-100K as events, read in place from the package that carries it.

The rows stay under GroupLens' terms (research use, no redistribution): they are located in an installed `recbole`,
never copied into this project, a fixture or an image. Cite Harper & Konstan, The MovieLens Datasets, ACM TiiS 5(4),
2015.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from forebay.clock import DAY_MS
from forebay.errors import UsageError
from forebay.events import Attributes, Behaviour, ItemUpdate, UserProfile
from forebay.segments.history import History

INSTALL = "Run: pip install --no-deps recbole==1.2.1"


def folder() -> Path:
    """Where the three files are, found without importing the package. Raises UsageError when it is not installed."""
    found = find_spec("recbole")
    places = list(found.submodule_search_locations or []) if found else []
    for place in places:
        path = Path(place) / "dataset_example" / "ml-100k"
        if (path / "ml-100k.inter").exists():
            return path
    raise UsageError("MovieLens-100K is not installed", do=INSTALL)


def load(now_ms: int | None = None, share: float = 1.0) -> History:
    """The first `share` of the ratings by time, with every user and item. With `now_ms` all times are shifted by the
    whole days that bring the last of those ratings as near to now as can be without passing it."""
    path = folder()
    items = {row["item_id"]: _item(row) for row in _rows(path / "ml-100k.item")}
    ratings = sorted(
        (int(float(r["timestamp"])) * 1000, r["user_id"], r["item_id"], float(r["rating"]))
        for r in _rows(path / "ml-100k.inter")
    )
    ratings = ratings[: int(len(ratings) * share)]
    shift = (now_ms - ratings[-1][0]) // DAY_MS * DAY_MS if now_ms is not None else 0
    known_since = ratings[0][0] + shift - DAY_MS  # the files give no time: everything was known before the first rating
    return History.of(
        [
            *(ItemUpdate(i, attributes, known_since, "item") for i, attributes in items.items()),
            *(
                UserProfile(
                    r["user_id"],
                    {"age": float(r["age"]), "gender": r["gender"], "occupation": r["occupation"]},
                    known_since,
                    "profile",
                )
                for r in _rows(path / "ml-100k.user")
            ),
            *(
                Behaviour(u, i, "rate", value, time + shift, f"{u}-{i}", items.get(i, {}))
                for time, u, i, value in ratings
            ),
        ]
    )


def titles() -> dict[str, str]:
    """Film titles by item id, with their year."""
    return {
        r["item_id"]: f"{r['movie_title']} ({r['release_year']})" if r["release_year"] else r["movie_title"]
        for r in _rows(folder() / "ml-100k.item")
    }


def _item(row: dict[str, str]) -> Attributes:
    attributes: Attributes = {"genres": row["class"].split()}
    if row["release_year"].isdigit():
        attributes["year"] = float(row["release_year"])
    return attributes


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of one of the package's tab-separated files, whose header names are `name:type`."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = [column.partition(":")[0] for column in next(reader)]
        for row in reader:
            yield dict(zip(names, row, strict=True))
