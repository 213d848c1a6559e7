"""How somebody's records become events: which field is what, what stands in none, and in which unit.

The rows of imported files and the records of foreign topics are mapped alike, by the same words: `--map FIELD=COLUMN`
at the command line is `map = { FIELD = "COLUMN" }` in a `[[source]]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from forebay.errors import EventError, UsageError
from forebay.events import Attribute

TEXT_FIELDS = ("type", "user", "item", "action", "id")
FIELDS = (*TEXT_FIELDS, "value", "time")
_TEXTS = frozenset(TEXT_FIELDS)
OWNERS = ("item_attributes", "attributes")
UNITS = {"s": 1_000.0, "ms": 1.0, "us": 0.001, "ns": 0.000_001}  # of a time: how many milliseconds
_MOST_TIME = 1 << 62
KNOWN = f"{', '.join(FIELDS)}, item_attributes.NAME, attributes.NAME"

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """What becomes of a row. `columns`: field -> the column that it is in, where its name is another one; `constants`:
    field -> its value in every event; `splits`: attribute -> the sign between the values of its list; `texts`: the
    attributes that are texts, however they look. `unit` is that of times which are numbers. Without `own` a column that
    is called like a field is not taken for it: what is to be taken is named."""

    columns: Mapping[str, str]
    constants: Mapping[str, Any]
    splits: Mapping[str, str]
    texts: frozenset[str]
    unit: str = "ms"
    own: bool = True

    @classmethod
    def of(
        cls, maps: Sequence[str], sets: Sequence[str], splits: Sequence[str], texts: Sequence[str], unit: str
    ) -> Shape:
        """From the words of a command line: FIELD=COLUMN, FIELD=VALUE, FIELD=SIGN, FIELD. Raises UsageError."""
        columns, parted, said = _pairs(maps, "--map"), _pairs(splits, "--split"), _pairs(sets, "--set")
        numbers = frozenset(field for field, text in said.items() if looks_like_number(text))
        return cls.made(columns, said, parted, texts, unit, numbers=numbers, named="--{}")

    @classmethod
    def made(
        cls,
        columns: Mapping[str, str],
        constants: Mapping[str, Any],
        splits: Mapping[str, str],
        texts: Sequence[str],
        unit: str,
        *,
        own: bool = True,
        numbers: frozenset[str] = frozenset(),
        named: str = "{}",
    ) -> Shape:
        """From fields and what stands for them. Constants of `numbers` are numbers, though they are texts; `named` is
        how an error calls the word "map". Raises UsageError for what no event has."""
        if unit not in UNITS:
            raise UsageError(f"{unit!r} is no unit of time", do=f"Use one of {', '.join(UNITS)}")
        for word, fields in (("map", columns), ("set", constants)):
            for field in fields:
                if field not in FIELDS and field not in OWNERS and not _is_attribute(field):
                    raise UsageError(
                        f"{named.format(word)} {field!r}: an event has no {field!r}", do=f"It has: {KNOWN}"
                    )
        for field in (*texts, *splits):
            if not _is_attribute(field):
                raise UsageError(f"{field!r} is no attribute", do="Write item_attributes.NAME or attributes.NAME")
        shape = cls(columns, {}, splits, frozenset(texts), unit, own)
        try:
            values = {f: shape.value(f, value, is_number=f in numbers) for f, value in constants.items()}
        except EventError as error:
            do = "Give it a value that an event can have"
            raise UsageError(f"{named.format('set')}: {error.what}", do=do) from None
        return replace(shape, constants=values)

    @property
    def is_plain(self) -> bool:
        """Whether rows are events as they are."""
        return self == Shape({}, {}, {}, frozenset())

    def fields(self, columns: Sequence[str]) -> list[tuple[str, str]]:
        """(field, column) of each field that rows with these columns have."""
        own = [c for c in columns if c in FIELDS or c in OWNERS or _is_attribute(c)] if self.own else []
        named = {field: field for field in own} | dict(self.columns)
        return [(field, column) for field, column in named.items() if field not in self.constants]

    def check(self, columns: Sequence[str]) -> None:
        """Raise UsageError for a column that is named and that a table with these columns does not have."""
        there = set(columns)
        for field, column in self.columns.items():
            if column not in there and column.partition(".")[0] not in there:
                raise UsageError(f"there is no column {column!r} for {field}", do=f"It has: {', '.join(columns)}")

    def event(self, row: Row, fields: Sequence[tuple[str, str]], numbers: frozenset[str]) -> bytes:
        """The row as the JSON that a publisher sends; of attributes that are text in the table those of `numbers` are
        numbers. A row without a `type` is a behaviour. Raises EventError."""
        return encoded(self.made_of(row, fields, numbers))

    def made_of(
        self, row: Row, fields: Sequence[tuple[str, str]], numbers: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """As `event`, before it is written."""
        found: dict[str, Any] = {"type": "behaviour"}
        for field, column in fields:
            value = row[column] if column in row else _at(row, column)
            if type(value) is str and value and field in _TEXTS:  # most fields of most tables, without a look at more
                found[field] = value
            elif field == "time" and type(value) is int:
                found[field] = _time(value, UNITS[self.unit])
            else:
                self._put(found, field, value, numbers)
        for field, value in self.constants.items():
            _placed(found, field, value)
        return found

    def _put(self, found: dict[str, Any], field: str, value: Any, numbers: frozenset[str]) -> None:
        if field in OWNERS:
            for name, own in _owned(field, value).items():
                self._put(found, f"{field}.{name}", own, numbers)
        elif value is not None and value != "" and not (isinstance(value, float) and math.isnan(value)):
            _placed(found, field, self.value(field, value, is_number=field in numbers))

    def value(self, field: str, value: Any, *, is_number: bool = False) -> Attribute | int:
        """What `field` has, of what stands in a table. Raises EventError."""
        if field == "time":
            return _time(value, UNITS[self.unit])
        if field == "value":
            if (number := _number(value)) is None:
                raise EventError("bad_value", f"value is {_shown(value)}, not a number")
            return number
        if field in TEXT_FIELDS:
            if (text := _text(value)) is None:
                raise EventError("bad_id", f"{field} is {_shown(value)}, not a text")
            return text
        return self._attribute(field, value, is_number)

    def _attribute(self, field: str, value: Any, is_number: bool) -> Attribute:
        if isinstance(value, str) and (sign := self.splits.get(field)) is not None:
            return [part.strip() for part in value.split(sign) if part.strip()]
        if isinstance(value, list | tuple):
            found: Any = [_text(member) for member in value if member is not None]
            found = None if None in found else found
        elif field in self.texts or (isinstance(value, str) and not is_number):
            found = _text(value)
        else:
            found = _number(value)
        if found is None:
            do = f"Add --text {field}, if it is a text" if isinstance(value, str) else ""
            raise EventError("bad_attribute", f"{field} is {_shown(value)}, no number, text or list of texts", do=do)
        return found


def encoded(found: Mapping[str, Any]) -> bytes:
    """An event's fields as the JSON that a publisher sends. Raises EventError."""
    try:
        return msgspec.json.encode(found)
    except (UnicodeEncodeError, msgspec.MsgspecError):  # bytes of another encoding, kept as lone surrogates
        raise EventError("undecodable", "a text that is not UTF-8") from None


def looks_like_number(text: str) -> bool:
    """Whether a text is a number for certain: 007 is a name, and so is nan."""
    try:
        plain = text.strip().lstrip("+-")
        return math.isfinite(float(text)) and not (len(plain) > 1 and plain[0] == "0" and plain[1].isdigit())
    except ValueError:
        return False


def _pairs(words: Sequence[str], option: str) -> dict[str, str]:
    found = {}
    for word in words:
        field, sign, rest = word.partition("=")
        if not (sign and rest):
            raise UsageError(f"{option} {word!r}", do="Write FIELD=…, as in user=customer_id")
        found[field] = rest
    return found


def _is_attribute(field: str) -> bool:
    owner, dot, name = field.partition(".")
    return owner in OWNERS and bool(dot and name)


def _at(row: Row, column: str) -> Any:
    """What a row has in a column, or in a field of a structure in it; None for nothing."""
    if column in row:
        return row[column]
    head, _, rest = column.partition(".")
    inner = row.get(head)
    if rest and (type(inner) is dict or isinstance(inner, Mapping)):  # the second takes ten times as long
        return _at(inner, rest)
    return None


def _placed(found: dict[str, Any], field: str, value: Any) -> None:
    owner, dot, name = field.partition(".")
    if dot:
        found.setdefault(owner, {})[name] = value
    else:
        found[field] = value


def _owned(field: str, value: Any) -> dict[str, Any]:
    """Attributes that stand together: a structure, or a map, which comes as pairs."""
    try:
        return dict(value or {})
    except (TypeError, ValueError):
        raise EventError("bad_attribute", f"{field} is {_shown(value)}, no attributes by their names") from None


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))  # a column of whole numbers in which one is absent comes as floats
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value) if isinstance(value, UUID) else None


def _number(value: Any) -> float | None:
    """A finite one; true and false are 1 and 0."""
    if not isinstance(value, (str, int, float, Decimal)):  # a union is asked three times as slowly
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    return f"{str(value)[:40]!a}"


def _time(value: Any, unit_ms: float) -> int:
    """Milliseconds. A moment without a zone is UTC."""
    if type(value) is int and -_MOST_TIME < value < _MOST_TIME:  # most times, without a look at more
        return value if unit_ms == 1.0 else round(value * unit_ms)
    try:
        if isinstance(value, str):
            value = float(value) if looks_like_number(value) else datetime.fromisoformat(value.strip())
        if isinstance(value, datetime):
            moment = value if value.tzinfo else value.replace(tzinfo=UTC)
            return round(moment.timestamp() * 1000)
        if isinstance(value, date):
            return round(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp() * 1000)
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return round(float(value) * unit_ms)
    except (ValueError, OverflowError):
        pass
    raise EventError("bad_time", f"time is {_shown(value)}, neither a number nor a moment as 2026-01-31T12:00:00Z")
