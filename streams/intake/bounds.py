"""How old an event may be when it is appended, and how far ahead, as the settings say it."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.config import Settings
from forebay.errors import ConfigError, SpecError
from forebay.segments.spec.toml import duration_ms


@dataclass(frozen=True)
class Bounds:
    """How old a behaviour, and how far ahead any event, may be when it is appended, in ms."""

    late_after_ms: int
    future_after_ms: int

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        """Those of the settings. Raises ConfigError for what is no duration."""
        return cls(_ms("late_after", settings.late_after), _ms("future_after", settings.future_after))


def _ms(name: str, text: str) -> int:
    try:
        return duration_ms(text, name)
    except SpecError as error:
        raise ConfigError("this is not a duration", where=name, do=error.do) from None
