"""What a lookup says and is told: the structs of `/v1`."""

from __future__ import annotations

import msgspec

from forebay.retrieval import messages
from reference.events import struct_section


def structs() -> str:
    """A section for each message."""
    return "\n\n".join(struct_section(s) for s in told())


def told() -> list[type[msgspec.Struct]]:
    """The messages, in the order of their file."""
    return [s for s in vars(messages).values() if isinstance(s, type) and issubclass(s, msgspec.Struct)]
