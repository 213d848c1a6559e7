"""What travels on the topics: events as tagged structs, JSON on the wire.

Evolution: unknown fields are ignored and missing ones take their default, so that producers and the Intake upgrade in
any order. A field is never renamed and never changes its meaning; `type` names the struct.

Times are event times in milliseconds since 1970 (UTC). Ids are strings of 1 to 256 UTF-8 bytes without control
characters. `value` is a finite number below a million: state keeps it in thousandths, as an integer. An event has at
most 64 `attributes` of its own: finite numbers, texts of up to 256 bytes, and lists of up to 64 such texts; names and
texts together are 4 KiB at most.
"""

from __future__ import annotations

import math
import uuid
from typing import TypeAlias, TypeVar, cast

import msgspec

from forebay.clock import now_ms
from forebay.errors import EventError

MAX_ID_BYTES = 256  # UTF-8 bytes of a user, an item or an id; at least 1, no control characters
MAX_RECORD_BYTES = 64 * 1024  # a behaviour event is about 200 bytes: past this it is not one
MAX_VALUE = 1e6  # thousandths of it, summed over 2**31 events, still fit an int64

MAX_ATTRIBUTES = 64  # of one event, and members of one list
MAX_ATTRIBUTE_BYTES = 4 * 1024  # names and texts of an event's own attributes

Attribute: TypeAlias = str | float | list[str]
Attributes: TypeAlias = dict[str, Attribute]


class Behaviour(msgspec.Struct, tag_field="type", tag="behaviour", omit_defaults=True, frozen=True, gc=False):
    """A user did something with an item. Topic `behaviour`, keyed by user.

    `item_attributes` are the item's attributes as they were then, for user-side features. Where there are none, the
    Intake writes those of the item's newest accepted update into the clean log: a join at processing time would make
    the result depend on timing. Absent ones fall into the unknown bucket. `attributes` are the event's own:
    where on the page it was, on which device, in which request.
    """

    user: str  # who; best the key of the record, too: one sent again then takes the same way
    item: str  # with what
    action: str  # what was done, in the producer's own words; those that [events] actions does not list are one
    value: float = 0.0  # how much: a rating, seconds, a price
    time: int | None = None  # ms since 1970; absent: the publisher's now, or the time at which the log took it
    id: str | None = None  # one of the same user, time and id counts once; absent: the publisher makes one up
    item_attributes: Attributes = {}  # of the item, as they were then; absent: those of its newest accepted update
    attributes: Attributes = {}  # of the event itself: where on the page, which device, which request


class UserProfile(msgspec.Struct, tag_field="type", tag="user_profile", omit_defaults=True, frozen=True, gc=False):
    """What is known of a user besides behaviour; the newest one wins. Topic `behaviour`, keyed by user."""

    user: str  # whose; best the key of the record, too
    attributes: Attributes  # all of them: an attribute that is not here is unknown from then on
    time: int | None = None  # ms since 1970; as in Behaviour
    id: str | None = None  # of two updates of one time it decides which wins


class ItemUpdate(msgspec.Struct, tag_field="type", tag="item_update", omit_defaults=True, frozen=True, gc=False):
    """What is known of an item; the newest one wins. Topic `item-updates`, keyed by item."""

    item: str  # whose; best the key of the record, too
    attributes: Attributes  # all of them: an attribute that is not here is unknown from then on
    time: int | None = None  # ms since 1970; as in Behaviour
    id: str | None = None  # of two updates of one time it decides which wins


class Tick(msgspec.Struct, tag_field="type", tag="tick", frozen=True, gc=False):
    """A clock record in the clean log: windows end, and idle entities retire, no earlier than `time`. The Intake's."""

    time: int  # ms since 1970, a full hour


Event: TypeAlias = Behaviour | UserProfile | ItemUpdate | Tick
Published: TypeAlias = Behaviour | UserProfile | ItemUpdate
P = TypeVar("P", Behaviour, UserProfile, ItemUpdate)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event as UTF-8 JSON."""
    return _encoder.encode(event)


def decode(data: bytes) -> Event:
    """The event in `data`. Raises EventError with reason `undecodable` or `too_large`."""
    if len(data) > MAX_RECORD_BYTES:
        raise EventError("too_large", f"a record of {len(data)} bytes", do=f"Send at most {MAX_RECORD_BYTES} bytes")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("undecodable", str(error)) from None


def entity_of(event: Event) -> str:
    """The id that keys the event's record: its user on `behaviour`, its item on `item-updates`."""
    kind = type(event)  # for every event of the stream: patterns and isinstance of a union cost four times as much
    if kind is Behaviour or kind is UserProfile:
        return cast("Behaviour | UserProfile", event).user
    return "" if kind is Tick else cast("ItemUpdate", event).item


def check_id(value: str, field: str) -> None:
    """Raise EventError `bad_id` unless `value` can be an entity's or an event's id."""
    if value.isascii() and 0 < len(value) <= MAX_ID_BYTES and value.isprintable():
        return
    size = len(value.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_ID_BYTES:
        raise EventError("bad_id", f"{field} has {size} bytes", do=f"Use 1 to {MAX_ID_BYTES} bytes")
    if not value.isprintable():
        raise EventError("bad_id", f"{field} {value[:40]!a} has a control character or a lone surrogate")


def check(event: Event) -> None:
    """Raise EventError unless every id, the time and the value of `event` can be folded."""
    if isinstance(event, Tick):
        _check_time(event.time)
        return
    check_id(entity_of(event), "the key")
    if event.id is not None:
        check_id(event.id, "id")
    if event.time is not None:
        _check_time(event.time)
    if isinstance(event, Behaviour):
        check_id(event.item, "item")
        if not abs(event.value) < MAX_VALUE:  # also refuses NaN
            raise EventError("bad_value", f"value {event.value} is not a finite number below {MAX_VALUE:.0f}")
        _check_count(event.item_attributes)
        if event.attributes:
            _check_attributes(event.attributes)
    else:
        _check_count(event.attributes)


def _check_count(attributes: Attributes) -> None:
    if len(attributes) > MAX_ATTRIBUTES:  # each name becomes a column of the clean log
        raise EventError("bad_attribute", f"{len(attributes)} attributes", do=f"Send at most {MAX_ATTRIBUTES}")


def _check_attributes(attributes: Attributes) -> None:
    """Raise EventError `bad_attribute` unless the event's own `attributes` are few and can be kept and sent on."""
    _check_count(attributes)
    total = 0
    for name, value in attributes.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str | list):  # of an untyped publisher
            raise EventError("bad_attribute", f"attribute {name[:40]!a} is no number, text or list of texts")
        if isinstance(value, int | float):
            if not abs(value) < math.inf:  # also refuses NaN
                raise EventError("bad_attribute", f"attribute {name[:40]!a} is {value}, not a finite number")
            value = []
        members = [value] if isinstance(value, str) else value
        if len(members) > MAX_ATTRIBUTES:
            raise EventError(
                "bad_attribute",
                f"attribute {name[:40]!a} has {len(members)} members",
                do=f"Send at most {MAX_ATTRIBUTES}",
            )
        for text in (name, *members):
            try:
                size = len(text.encode())
            except UnicodeEncodeError:
                raise EventError("bad_attribute", f"attribute {name[:40]!a} has a lone surrogate in it") from None
            total += size
            if size > MAX_ID_BYTES:
                raise EventError(
                    "bad_attribute",
                    f"attribute {name[:40]!a} has a text of {size} bytes",
                    do=f"Send at most {MAX_ID_BYTES}",
                )
    if total > MAX_ATTRIBUTE_BYTES:
        raise EventError(
            "bad_attribute", f"attributes of {total} bytes together", do=f"Send at most {MAX_ATTRIBUTE_BYTES}"
        )


def _check_time(value: int) -> None:
    if not 0 < value < 1 << 53:
        raise EventError("bad_time", f"time {value} is not in milliseconds since 1970")


def stamped(event: P) -> P:
    """`event` with an id and a time: absent ones are a random 128-bit id and now."""
    if event.id is not None and event.time is not None:
        return event
    return msgspec.structs.replace(
        event,
        id=event.id if event.id is not None else uuid.uuid4().hex,
        time=event.time if event.time is not None else now_ms(),
    )
