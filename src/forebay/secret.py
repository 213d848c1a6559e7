"""A text that nobody prints by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from forebay.errors import ConfigError

MOST_BYTES = 64 << 10  # a password, or a key in PEM; not the wrong file


class Secret:
    """Holds a text and shows it to `reveal` alone: in a log, an error, a dataclass or JSON it is `***`."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """The first line of a file. Raises ConfigError, which names the file alone."""
        try:
            with path.open("rb") as file:
                text = file.read(MOST_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is not a text"
            raise ConfigError(f"a secret cannot be read: {said}", where=str(path), do="Name a readable file") from None
        return cls(text.partition("\n")[0].removesuffix("\r"))  # str.splitlines would cut at a dozen other characters

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "***" if self._text else "(none)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written out")


NO_SECRET = Secret()


def given(name: str, text: Secret, file: Path | None) -> Secret:
    """The setting `name`: its variable's `text`, or the first line of `file`. Raises ConfigError."""
    if text and file is not None:
        raise ConfigError(f"{name} is given twice", where=str(file), do=f"Keep {name}_file or the variable, not both")
    return text if file is None else Secret.of_file(file)
