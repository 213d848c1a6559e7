"""A Schema Registry, asked by its documented API for schemas by their ids.

An id means one schema for ever, so that what was found once is kept. Nobody waits for an answer for more than a moment:
it is fetched on threads of its own, and whoever needs it asks again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3

from forebay.errors import ConfigError, EventError, ForebayError
from forebay.secret import NO_SECRET, Secret

CONNECT_S, READ_S, WHOLE_S = 2.0, 5.0, 10.0  # of one answer, the last one
SCHEMA_S = 30.0  # for a schema and all that it refers to
MAX_BYTES = 5 << 20  # of one answer
MAX_REFERENCES = 200  # of one schema, all of them together
_NONE = 404
# Its own words for a subject, a version or a schema that is not there. A 404 without one is a proxy's, and with 404 for
# its code that of a path which the registry does not have.
_SAYS_NONE = (40401, 40402, 40403)


@dataclass(frozen=True)
class Address:
    """Where a registry is, and who asks. `ca` is a PEM of who signs its certificate; None: the system's own."""

    url: str
    user: str = ""
    password: Secret = NO_SECRET
    ca: Path | None = None

    @classmethod
    def of(cls, url: str, *, user: str = "", password: Secret = NO_SECRET, ca: Path | None = None) -> Address:
        """Raises ConfigError. What it says repeats no password."""
        if "@" in url:  # before anything is said of it, however odd it is
            raise ConfigError(
                "registry has a user or a password in it", do="Use registry_user and registry_password_file"
            )
        if not _is_address(url):
            raise ConfigError(f"registry = {url!r}", do="Write it as http://registry:8081")
        if bool(user) != bool(password):
            raise ConfigError("registry_user and registry_password_file go together", do="Give both, or neither")
        if ca is not None and not ca.is_file():
            raise ConfigError("there is no such file", where=str(ca), do="Name a PEM file as registry_ca")
        return cls(url.rstrip("/"), user, password, ca)


@dataclass(frozen=True)
class Schema:
    """A schema as the registry has it. `kind` is AVRO, PROTOBUF or JSON; `references` are the schemas that its text
    names, by the names that it has for them, each behind what it needs itself."""

    kind: str
    text: str
    references: Mapping[str, str]


class RegistryAway(ForebayError):
    """The registry gives no answer that could be used. Nobody's record is at fault: ask again."""


class Registry:
    """One registry. Threads may share it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        headers = {"accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if address.user:
            headers |= urllib3.make_headers(basic_auth=f"{address.user}:{address.password.reveal()}")
        self._http = urllib3.PoolManager(
            maxsize=4, headers=headers, retries=False, timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            ca_certs=None if address.ca is None else str(address.ca),
        )  # fmt: skip

    def schema(self, number: int) -> Schema:
        """The schema with this id and those that it refers to, within 40 s or so. Raises EventError `no_schema` where
        the registry has none, and RegistryAway."""
        until, references = time.monotonic() + SCHEMA_S, dict[str, str]()
        found = self._asked(f"/schemas/ids/{number}", f"no schema {number}", until)
        self._refer(found, references, until)
        return Schema(str(found.get("schemaType") or "AVRO"), _text(found), references)

    def _refer(self, found: Mapping[str, Any], into: dict[str, str], until: float) -> None:
        for reference in found.get("references") or ():
            name, subject, version = (str(reference.get(key, "")) for key in ("name", "subject", "version"))
            if name in into:
                continue
            if len(into) >= MAX_REFERENCES:
                raise EventError("no_schema", f"a schema with more than {MAX_REFERENCES} references")
            inner = self._asked(
                f"/subjects/{quote(subject, safe='')}/versions/{quote(version, safe='')}",
                f"no version {version} of {subject!r}, which a schema refers to",
                until,
            )
            into[name] = ""  # a circle ends here
            self._refer(inner, into, until)
            into[name] = into.pop(name) or _text(inner)  # behind what it needs

    def _asked(self, path: str, none: str, until: float) -> Mapping[str, Any]:
        if (now := time.monotonic()) >= until:
            raise self._away(f"takes longer than {SCHEMA_S:.0f} s for a schema and what it refers to")
        try:
            # Not every urllib3 that we take has `retries=False` stand for no redirect.
            with self._http.request("GET", self.address.url + path, preload_content=False, redirect=False) as answer:
                body = self._body(answer, now + WHOLE_S)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._away(f"gives no answer ({type(error).__name__})") from None
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if answer.status == 200 and isinstance(found, dict):
            return found
        if answer.status == _NONE and isinstance(found, dict) and found.get("error_code") in _SAYS_NONE:
            raise EventError("no_schema", f"the registry has {none}")
        raise self._away(f"answers {answer.status} and no schema")

    def _body(self, answer: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        """By what is there, however little: whoever waited for a whole part would not see the deadline pass."""
        body = bytearray()
        while part := answer.read1(64 << 10, decode_content=False):  # nobody asked for a compressed one
            body += part
            if len(body) > MAX_BYTES or time.monotonic() > deadline:
                raise self._away(f"answers with more than {MAX_BYTES} bytes, or for more than {WHOLE_S:.0f} s")
        return bytes(body)

    def _away(self, what: str) -> RegistryAway:
        return RegistryAway(
            f"the registry {what}",
            where=self.address.url,
            do="Is it up, is this its address, and does it know this user?",
        )


def _text(found: Mapping[str, Any]) -> str:
    text = found.get("schema")
    if not isinstance(text, str):
        raise EventError("no_schema", "an answer without a schema")
    return text


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
