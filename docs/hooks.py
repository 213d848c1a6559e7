"""What mkdocs calls while it builds the site: the code fills the pages' slots, and no page may ask another host for
anything."""

from __future__ import annotations

import logging
import re
from typing import Any

from reference.slots import filled

log = logging.getLogger("mkdocs.hooks.forebay")  # below mkdocs: a warning of it ends a strict build
_OUTSIDE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"(?:https?:)?//[^\"]*\"")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its slots filled."""
    return filled(markdown)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Say which page would load something from elsewhere: an installation without a way out would wait for it."""
    for tag in _OUTSIDE.findall(output):
        log.warning("%s loads from another host: %s", page.file.src_uri, tag)
    return output
