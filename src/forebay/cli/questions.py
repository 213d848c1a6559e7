"""What a server and the process beside it, which supposes (supposing.py), say to one another: a JSON line each."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from typing import Any

import msgspec

from forebay.config import TABLES, Settings
from forebay.secret import Secret


class Question(msgspec.Struct, frozen=True):
    """One event that did not happen."""

    user: str
    item: str
    action: str
    value: float


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Vectors as float32 bytes, and what they stand on (see streams.suppose.Moved); or an error with its remedy."""

    before: bytes = b""
    after: bytes = b""
    checkpoint_ms: int = 0
    events: int = 0
    read_ms: int = 0
    remarks: tuple[str, ...] = ()
    error: str = ""
    do: str = ""


def command(settings: Settings) -> list[str]:
    """What starts it. Secrets and tables are not in it: it reads them where its server did."""
    given: dict[str, Any] = {}
    for one in fields(Settings):
        value = getattr(settings, one.name)
        if one.name not in TABLES and value is not None and not isinstance(value, Secret):
            given[one.name] = value if isinstance(value, int) else str(value)
    return [sys.executable, "-m", "forebay.cli.supposing", json.dumps(given)]
