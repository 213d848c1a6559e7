"""The plain reader: one record by msgspec. It decides what the compiled reader declines, and defines what both read."""

from __future__ import annotations

from forebay.errors import EventError
from forebay.events import Behaviour, ItemUpdate, UserProfile, check, decode


def read_one(value: bytes | None) -> Behaviour | UserProfile | ItemUpdate:
    """The event in a record. Raises EventError with the reason of its dead letter."""
    if value is None:
        raise EventError("empty", "a record without a value")
    event = decode(value)
    if not isinstance(event, Behaviour | UserProfile | ItemUpdate):
        raise EventError("wrong_topic", f"a {event.__struct_config__.tag} is not a producer's to send")
    check(event)
    return event
