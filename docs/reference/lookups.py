"""What a lookup says and is told: the structs of `/v1`."""

from __future__ import annotations

from dataclasses import fields

import msgspec

from forebay.retrieval import messages
from forebay.retrieval.admission import AdmissionOptions
from forebay.retrieval.course import ClientOptions
from forebay.retrieval.limits import ServerLimits
from reference.events import struct_section
from reference.markdown import code, plain, table
from reference.source import comments


def structs() -> str:
    """A section for each message."""
    return "\n\n".join(struct_section(s) for s in told())


def told() -> list[type[msgspec.Struct]]:
    """The messages, in the order of their file."""
    return [s for s in vars(messages).values() if isinstance(s, type) and issubclass(s, msgspec.Struct)]


def limits() -> str:
    """What a connection may take, and the defaults."""
    return _options("limits.py", ServerLimits)


def admission() -> str:
    """When a request is refused for those before it."""
    return _options("admission.py", AdmissionOptions)


def client_options() -> str:
    """What a client is bounded by besides its time."""
    return _options("course.py", ClientOptions)


def _options(file: str, options: type[ServerLimits | AdmissionOptions | ClientOptions]) -> str:
    said = comments(f"src/forebay/retrieval/{file}", options.__name__)
    rows = [(code(f.name), code(str(f.default)), plain(said.get(f.name, ""))) for f in fields(options)]
    return table(("option", "default", "meaning"), rows)
