"""The inspect page of `forebay serve`, as the settings want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forebay.config import Settings
from forebay.errors import ConfigError

if TYPE_CHECKING:
    from forebay.retrieval.engine import Engine
    from forebay.retrieval.inspect.page import Page

INSPECT = ("on", "off")


def page_of(settings: Settings, engine: Engine) -> Page | None:
    """The page, or None where it is switched off. Raises ConfigError for a word that says neither."""
    from forebay.retrieval.inspect.page import Page

    if settings.inspect not in INSPECT:
        raise ConfigError(f"inspect is {settings.inspect!r}", where="the settings", do=f"Use {' or '.join(INSPECT)}")
    return None if settings.inspect == "off" else Page(engine)
