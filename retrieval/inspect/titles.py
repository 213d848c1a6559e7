"""What people call items, from a file: the page writes it beside an id. No lookup knows of it."""

from __future__ import annotations

from pathlib import Path

from forebay.errors import ConfigError

MOST_BYTES = 64 << 20
_MOST_LETTERS = 200  # of a title


def read_titles(path: Path) -> dict[str, str]:
    """Titles by id, of lines in UTF-8 that are an id, a tab and a title. Read once. Raises ConfigError, which names the
    file and the line."""

    def wrong(what: str) -> ConfigError:
        return ConfigError(f"titles cannot be read: {what}", where=str(path), do="Write lines of an id, a tab, a title")

    try:
        if path.stat().st_size > MOST_BYTES:
            raise wrong(f"more than {MOST_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise wrong(error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise wrong("it is not UTF-8") from None
    found = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        item, tab, title = line.rstrip("\r").partition("\t")
        if not tab:
            raise wrong(f"line {number} has no tab")
        found[item] = title.strip()[:_MOST_LETTERS]
    return found
