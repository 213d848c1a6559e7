"""When a source stands still, by the settings."""

from __future__ import annotations

import re

from forebay.config import Settings
from forebay.errors import ConfigError, SpecError
from forebay.segments.spec.toml import duration_ms
from forebay.streams.intake.breaker import BreakerOptions


def breaker_options(settings: Settings) -> BreakerOptions | None:
    """None where it is off. Raises ConfigError for what cannot be."""
    if settings.pause_above == "off":
        return None
    share = re.fullmatch(r"(\d{1,2}(?:\.\d+)?)\s*%", settings.pause_above)
    if share is None or not 0 < float(share[1]) < 100:
        raise ConfigError("this is no share", where="pause_above", do='Write it as "50%", or "off"')
    retry_s, most_s = _seconds(settings, "pause_retry"), _seconds(settings, "pause_retry_most")
    return BreakerOptions(
        above=float(share[1]) / 100,
        records=settings.pause_records,
        window_s=_seconds(settings, "pause_window"),
        least=min(BreakerOptions.least, settings.pause_records),
        retry_s=retry_s,
        most_retry_s=max(most_s, retry_s),
    )


def _seconds(settings: Settings, name: str) -> float:
    try:
        found = duration_ms(getattr(settings, name), name) / 1000
    except SpecError as error:
        raise ConfigError("this is not a duration", where=name, do=error.do) from None
    if not 0 < found <= 86_400:
        raise ConfigError("this is not more than nothing, or more than a day", where=name, do='Write it as "30s"')
    return found
