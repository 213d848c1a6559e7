"""The plain reader: one record by msgspec. It decides what the compiled reader declines, and defines what both read."""

from __future__ import annotations

from forebay.errors import EventError
from forebay.events import MAX_ATTRIBUTES, Behaviour, ItemUpdate, UserProfile, check, decode


def read_one(value: bytes | None) -> Behaviour | UserProfile | ItemUpdate:
    """The event in a record. Raises EventError with the reason of its dead letter."""
    if value is None:
        raise EventError("empty", "a record without a value")
    event = decode(value)
    if not isinstance(event, Behaviour | UserProfile | ItemUpdate):
        raise EventError("wrong_topic", f"a {event.__struct_config__.tag} is not a producer's to send")
    check(event)
    for own in (event.attributes, event.item_attributes) if isinstance(event, Behaviour) else (event.attributes,):
        if len(own) > MAX_ATTRIBUTES:  # each name becomes a column
            raise EventError("bad_attribute", f"{len(own)} attributes", do=f"Send at most {MAX_ATTRIBUTES}")
    return event
