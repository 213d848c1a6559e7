"""Protocol Buffers behind the mark of a Schema Registry, whose schemas are the texts of .proto files.

Google's own compiler reads the texts, in a process of its own: it has all rules of the language, and a bound in time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
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

    def waits(self, values: list[bytes]) -> str:
        """See Codec."""
        return self._schemas.waits(ids(values))

    def decode(self, value: bytes) -> Any:
        """See Codec."""
        number, data = framed(value)
        file = self._schemas.of(number)
        place, data = _indexes(data)
        at: Any = file
        for index in place:
            inner = list((at.message_types_by_name if at is file else at.nested_types_by_name).values())
            if index >= len(inner):
                raise EventError("undecodable", f"schema {number} has no message at {place}")
            at = inner[index]
        from google.protobuf import message_factory

        return plain(message_factory.GetMessageClass(at).FromString(data))


def compiled(schema: Schema) -> Any:
    """The file's descriptor. Raises EventError `no_schema`."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    if schema.kind != "PROTOBUF":
        raise EventError("no_schema", f"the registry's schema is {schema.kind[:20]}, not PROTOBUF")
    with tempfile.TemporaryDirectory(prefix="forebay-proto-") as folder:
        _written(Path(folder), {MAIN: schema.text} | dict(schema.references))
        found = _compiled(Path(folder))
    files, pool = descriptor_pb2.FileDescriptorSet.FromString(found), descriptor_pool.DescriptorPool()
    for file in files.file:  # each behind what it imports
        pool.Add(file)
    return pool.FindFileByName(MAIN)


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


def _indexes(data: bytes) -> tuple[list[int], bytes]:
    """Which message of the file it is, as a path of places, and what stands behind that. One zero is [0]."""
    count, at = _zigzag(data, 0)
    if count == 0:
        return [0], data[at:]
    if not 0 < count <= 100:  # as deep as a decoder goes
        raise EventError("undecodable", f"a message at a depth of {count}")
    found = []
    for _ in range(count):
        index, at = _zigzag(data, at)
        if index < 0:
            raise EventError("undecodable", "a message at a place below zero")
        found.append(index)
    return found, data[at:]


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise EventError("undecodable", "it does not say which message of its schema it is")
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return (number >> 1) ^ -(number & 1), at


def plain(message: Any) -> Any:
    """A message as a dict, or as what a well-known type stands for."""
    descriptor = message.DESCRIPTOR
    if descriptor.full_name == "google.protobuf.Timestamp":
        return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    if descriptor.file.name == "google/protobuf/wrappers.proto":
        return message.value
    found: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if not field.is_repeated:
            found[field.name] = _value(field, value)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            found[field.name] = {str(key): _value(inner, value[key]) for key in value}
        else:
            found[field.name] = [_value(field, one) for one in value]
    return found


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value
