"""The server's answers as an OpenAPI document, made of the structs that it reads and writes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from forebay import __version__
from forebay.retrieval.messages import (
    JSON,
    MSGPACK,
    BatchRequest,
    BatchResponse,
    EntityResponse,
    ErrorBody,
    ExplainRequest,
    RankRequest,
    RankResponse,
    Readiness,
    RetrieveRequest,
    WrongShardBody,
)

_REF = "#/components/schemas/{name}"
_SAID = {
    400: "The request cannot be answered as it is",
    401: "A token is wanted",
    404: "There is no such thing here",
    413: "The body is too large",
    421: "The user is on another server",
    429: "More is asked than can be answered in time",
    503: "The server is not ready",
    504: "The time was over",
}


_BODIES: dict[int, type[msgspec.Struct]] = {421: WrongShardBody}


@dataclass(frozen=True)
class Operation:
    """One request. `body` is None where there is none; `query` has name and meaning; `lookup`: it may be refused."""

    path: str
    method: str
    said: str
    answer: type[msgspec.Struct] | None
    body: type[msgspec.Struct] | None = None
    query: Sequence[tuple[str, str]] = ()
    lookup: bool = True
    answers_too: Sequence[int] = ()  # with the same struct


OPERATIONS = (
    Operation("/v1/rank", "POST", "Order candidates for a user", RankResponse, RankRequest),
    Operation("/v1/retrieve", "POST", "The best of all items for a user", RankResponse, RetrieveRequest),
    Operation("/v1/explain", "POST", "Each segment's share in the scores of items", RankResponse, ExplainRequest),
    Operation("/v1/batch", "POST", "Several of rank in one body", BatchResponse, BatchRequest),
    Operation(
        "/v1/entities/{side}/{id}",
        "GET",
        "What is stored of a user or an item",
        EntityResponse,
        query=(("vectors", "true: with the stored vectors"), ("generation", "the one that must be served")),
    ),
    Operation("/health", "GET", "Whether the process answers", None, lookup=False),
    Operation("/ready", "GET", "Whether lookups should come here", Readiness, lookup=False, answers_too=(503,)),
    Operation("/metrics", "GET", "For Prometheus", None, lookup=False),
    Operation("/openapi.json", "GET", "This document", None, lookup=False),
)


def document(operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """OpenAPI 3.1, with a schema for each struct that an operation names."""
    structs = {s for o in operations for s in (o.answer, o.body) if s is not None} | {ErrorBody, WrongShardBody}
    ordered = sorted(structs, key=lambda s: s.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    del schemas  # references to the components, all of them
    for struct in ordered:
        components[struct.__name__]["description"] = inspect.getdoc(struct) or ""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Forebay lookups", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status in (200, *operation.answers_too):
        answers[str(status)] = {"description": "The answer"}
        if operation.answer is not None:
            answers[str(status)]["content"] = _content(operation.answer)
    if operation.lookup:
        for status, said in _SAID.items():
            answers[str(status)] = {"description": said, "content": _content(_BODIES.get(status, ErrorBody))}
    found: dict[str, Any] = {"summary": operation.said, "responses": answers}
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in operation.path.split("/")
        if part.startswith("{")
    ]
    parameters += [
        {"name": name, "in": "query", "description": said, "schema": {"type": "string"}}
        for name, said in operation.query
    ]
    if operation.lookup:
        said = "Milliseconds that the caller has left"
        parameters.append(
            {"name": "forebay-deadline-ms", "in": "header", "description": said, "schema": {"type": "number"}}
        )
        found["security"] = [{}, {"token": []}]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _content(operation.body)}
    return found


def _content(struct: type[msgspec.Struct]) -> dict[str, Any]:
    schema = {"schema": {"$ref": _REF.format(name=struct.__name__)}}
    return {JSON: schema, MSGPACK: schema}
