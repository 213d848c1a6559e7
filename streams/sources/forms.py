"""Which form the records of a foreign topic have, by its settings."""

from __future__ import annotations

from forebay.streams.sources.avro import Avro
from forebay.streams.sources.cloudevents import CloudEvents
from forebay.streams.sources.codecs import Json, MessagePack, Plain
from forebay.streams.sources.debezium import Debezium
from forebay.streams.sources.foreign import Foreign
from forebay.streams.sources.protobuf import Protobuf
from forebay.streams.sources.raw import Codec, Form
from forebay.streams.sources.registry import Registry


def form_of(foreign: Foreign) -> Form:
    """How its records are read. Raises MissingExtra."""
    codec = codec_of(foreign)
    if foreign.format == "cloudevents":
        return CloudEvents(codec, needs_schemas=foreign.registry is not None)
    if foreign.format == "debezium":
        return Debezium(codec, foreign.shape.columns.values())
    return Plain(codec)


def codec_of(foreign: Foreign) -> Codec:
    """How the bytes of its values are read. Raises MissingExtra."""
    if foreign.registry is not None:  # where the encoding needs one
        registry = Registry(foreign.registry)
        return Avro(registry) if foreign.encoding == "avro" else Protobuf(registry)
    if foreign.encoding == "msgpack":
        return MessagePack()
    return Json(is_framed=foreign.encoding == "jsonschema")
