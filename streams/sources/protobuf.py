"""Protocol Buffers behind the mark of a Schema Registry, whose schemas are the texts of .proto files.

Google's own compiler reads the texts, in a process of its own: it has all rules of the language, and a bound in time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from forebay.errors import EventError, MissingExtra
from forebay.streams.sources.registry import Registry, Schema
from forebay.streams.sources.schemas import Schemas
from forebay.streams.sources.wire import framed, ids

COMPILE_S = 20.0
MAIN = "forebay_main.proto"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Protobuf:
    """One message, by the schema and the place in it that wrote it. Fields have the names of the schema; enums are
    their names, timestamps moments; what a message does not set has its default, unless it may be absent."""

    def __init__(self, registry: Registry) -> None:
        """Raises MissingExtra."""
        try:
            import google.protobuf  # noqa: F401 - said at start, and not by the first record
            import grpc_tools  # noqa: F401
        except ImportError:
            raise MissingExtra("grpcio-tools", "formats") from None
        self._schemas = Schemas(registry, compiled)

    def waits(self, batches: Sequence[list[bytes]]) -> list[str]:
        """See Codec."""
        return self._schemas.waits([ids(values) for values in batches])

    def decode(self, value: bytes) -> Any:
        """See Codec."""
        number, data = framed(value)
        file = self._schemas.of(number)
        place, data = _indexes(data)
        made, plan = file.message(place)
        return plan.plain(made(data))


class File:
    """A compiled .proto file, and what was found out about its messages."""

    def __init__(self, descriptor: Any) -> None:
        self.descriptor = descriptor
        self._messages: dict[tuple[int, ...], tuple[Callable[[bytes], Any], Plan]] = {}
        self._plans: dict[str, Plan] = {}

    def message(self, place: tuple[int, ...]) -> tuple[Callable[[bytes], Any], Plan]:
        """What reads the message at a path of places, and how it becomes plain. Raises EventError."""
        if (found := self._messages.get(place)) is not None:
            return found
        from google.protobuf import message_factory

        at: Any = self.descriptor
        for depth, index in enumerate(place):
            inner = list((at.nested_types_by_name if depth else at.message_types_by_name).values())
            if index >= len(inner):
                raise EventError("undecodable", f"its schema has no message at {list(place)}")
            at = inner[index]
        found = message_factory.GetMessageClass(at).FromString, Plan.of(at, self._plans)
        self._messages[place] = found  # as many as the file has messages
        return found


class Plan:
    """How messages of one kind become dicts: asked of a descriptor once, since asking takes longer than reading."""

    def __init__(self) -> None:
        self._special: Callable[[Any], Any] | None = None
        self._fields: list[tuple[str, bool, Callable[[Any], Any] | None]] = []

    @classmethod
    def of(cls, descriptor: Any, known: dict[str, Plan]) -> Plan:
        """That of a message; `known` has those that were made before, and gets this one."""
        if (found := known.get(descriptor.full_name)) is not None:
            return found
        plan = known[descriptor.full_name] = cls()
        if descriptor.full_name == "google.protobuf.Timestamp":
            plan._special = _moment
        elif descriptor.file.name == "google/protobuf/wrappers.proto":
            plan._special = _wrapped
        for field in descriptor.fields:
            plan._fields.append((field.name, field.has_presence, _way(field, known)))
        return plan

    def plain(self, message: Any) -> Any:
        """A message as a dict, or as what a well-known type stands for. What it does not set, and may be absent, is."""
        if self._special is not None:
            return self._special(message)
        found: dict[str, Any] = {}
        for name, may_be_absent, way in self._fields:
            if may_be_absent and not message.HasField(name):
                continue
            value = getattr(message, name)
            found[name] = value if way is None else way(value)
        return found


def _way(field: Any, known: dict[str, Plan]) -> Callable[[Any], Any] | None:
    """How a field's value becomes plain; None where it is."""
    kind = field.message_type
    if kind is not None and field.is_repeated and kind.GetOptions().map_entry:
        inner = _way(kind.fields_by_name["value"], known)
        return lambda values: {str(key): values[key] if inner is None else inner(values[key]) for key in values}
    one: Callable[[Any], Any] | None = None
    if kind is not None:
        one = Plan.of(kind, known).plain
    elif field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        one = lambda number: names.get(number, number)
    if not field.is_repeated:
        return one
    return list if one is None else lambda values: [one(value) for value in values]


def _moment(message: Any) -> datetime:
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def _wrapped(message: Any) -> Any:
    return message.value


def compiled(schema: Schema) -> File:
    """Raises EventError `no_schema`."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    if schema.kind != "PROTOBUF":
        raise EventError("no_schema", f"the registry's schema is {schema.kind[:20]}, not PROTOBUF")
    with tempfile.TemporaryDirectory(prefix="forebay-proto-") as folder:
        _written(Path(folder), {MAIN: schema.text} | dict(schema.references))
        found = _compiled(Path(folder))
    files, pool = descriptor_pb2.FileDescriptorSet.FromString(found), descriptor_pool.DescriptorPool()
    for file in files.file:  # each behind what it imports
        pool.Add(file)
    return File(pool.FindFileByName(MAIN))


def _written(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise EventError("no_schema", f"a schema refers to {name[:80]!r}, which is no file's name")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def _compiled(folder: Path) -> bytes:
    import grpc_tools

    known = Path(grpc_tools.__path__[0]) / "_proto"  # google/protobuf/*.proto
    words = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{known}", "--include_imports",
             f"--descriptor_set_out={folder / 'set'}", MAIN]  # fmt: skip
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMPILE_S, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        raise EventError("no_schema", f"protoc took more than {COMPILE_S:.0f} s for a schema") from None
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if ".proto" in line), done.stderr.strip()[:200])
        raise EventError("no_schema", f"protoc does not take the schema: {said}")
    return (folder / "set").read_bytes()


def _indexes(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """Which message of the file it is, as a path of places, and what stands behind that. One zero is [0]."""
    count, at = _zigzag(data, 0)
    if count == 0:
        return (0,), data[at:]
    if not 0 < count <= 100:  # as deep as a decoder goes
        raise EventError("undecodable", f"a message at a depth of {count}")
    found = []
    for _ in range(count):
        index, at = _zigzag(data, at)
        if index < 0:
            raise EventError("undecodable", "a message at a place below zero")
        found.append(index)
    return tuple(found), data[at:]


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise EventError("undecodable", "it does not say which message of its schema it is")
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return (number >> 1) ^ -(number & 1), at
