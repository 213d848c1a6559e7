"""What is to be known of an Avro schema before it meets a stranger's bytes."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

_LEAST = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}
_HOLDER = 4  # an object that holds others takes as much memory as so many values in it


@dataclass(frozen=True)
class AvroShape:
    """`is_recursive` is a schema that refers to itself, and `is_endless` one that does so in each of its values.
    With `has_empty_items` an array has items that take no bytes.

    A record of n bytes becomes no more than `values` + n · `values_per_byte` values, of about 40 bytes of memory each,
    besides its texts: where the schema is not recursive.
    """

    is_recursive: bool
    is_endless: bool
    has_empty_items: bool
    values: int
    values_per_byte: float


def shape_of(parsed: Any, named: dict[str, Any]) -> AvroShape:
    """`parsed` by fastavro, as `named` are, to which it may refer."""
    looking = _Looking(named)
    size = looking.look(parsed)
    return AvroShape(
        looking.is_recursive, looking.is_endless(), looking.has_empty_items, size.values, looking.values_per_byte
    )


class _Size(NamedTuple):
    """The least bytes that a value takes, and the values that are made of it besides what its bytes count: the items of
    arrays and maps, and the branches of unions."""

    least: int
    values: int


class _Looking:
    def __init__(self, named: dict[str, Any]) -> None:
        self._named, self._inside, self._done = named, list[str](), dict[str, _Size]()
        self._always: dict[str, set[str]] = {}  # record -> those that each of its values has
        self.is_recursive = self.has_empty_items = False
        self.values_per_byte = 0.0

    def is_endless(self) -> bool:
        """Of what was looked at."""
        try:
            TopologicalSorter(self._always).prepare()
        except CycleError:
            return True
        return False

    def look(self, schema: Any, *, always: bool = True) -> _Size:
        """`always` says that each value of the record around it has one."""
        if isinstance(schema, list):
            sizes = [self.look(branch, always=False) for branch in schema]
            for size in sizes:
                self._counted(size.values - 1, size.least)
            # Which branch it is takes a byte, and one that takes no other is counted by that.
            return _Size(1, max((size.values for size in sizes if not size.least), default=1))
        if isinstance(schema, str):
            return _Size(_LEAST[schema], 1) if schema in _LEAST else self._of_name(schema, None, always)
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._of_name(schema["name"], schema, always)
        if kind == "array":
            item = self.look(schema["items"], always=False)
            self.has_empty_items |= not item.least
            self._counted(item.values, item.least)
            return _Size(1, _HOLDER)
        if kind == "map":
            item = self.look(schema["values"], always=False)
            self._counted(item.values, item.least + 1)  # its name takes one at least
            return _Size(1, _HOLDER)
        if kind == "fixed":
            return _Size(schema["size"], 1)
        return self.look(kind, always=always) if kind != "enum" else _Size(1, 1)

    def _counted(self, values: int, least: int) -> None:
        """So many `values` are made of each `least` bytes, as often as a record has them."""
        if least:
            self.values_per_byte = max(self.values_per_byte, values / least)

    def _of_name(self, name: str, schema: Any, always: bool) -> _Size:
        found = schema if schema is not None else self._named[name]
        if found["type"] not in ("record", "error"):
            return self.look(found, always=always)
        if always and self._inside:
            self._always.setdefault(self._inside[-1], set()).add(name)
        if name in self._inside:
            self.is_recursive = True
            return _Size(1, 1)
        if name not in self._done:
            self._inside.append(name)
            sizes = [self.look(field["type"]) for field in found["fields"]]
            self._done[name] = _Size(sum(size.least for size in sizes), _HOLDER + sum(size.values for size in sizes))
            self._inside.pop()
        return self._done[name]
