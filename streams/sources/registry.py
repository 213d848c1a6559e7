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

CONNECT_S, READ_S, WHOLE_S = 2.0, 5.0, 10.0
MAX_BYTES = 5 << 20  # of one answer
MAX_REFERENCES = 200  # of one schema, all of them together
_NONE = 404


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
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                "registry has a user or a password in it", do="Use registry_user and registry_password_file"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
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
        """The schema with this id, within 10 s or so for each of its parts. Raises EventError `no_schema` where the
        registry has none, and RegistryAway."""
        found = self._asked(f"/schemas/ids/{number}", f"no schema {number}")
        references: dict[str, str] = {}
        self._refer(found, references)
        return Schema(str(found.get("schemaType") or "AVRO"), _text(found), references)

    def _refer(self, found: Mapping[str, Any], into: dict[str, str]) -> None:
        for reference in found.get("references") or ():
            name, subject, version = (str(reference.get(key, "")) for key in ("name", "subject", "version"))
            if name in into:
                continue
            if len(into) >= MAX_REFERENCES:
                raise EventError("no_schema", f"a schema with more than {MAX_REFERENCES} references")
            inner = self._asked(
                f"/subjects/{quote(subject, safe='')}/versions/{quote(version, safe='')}",
                f"no version {version} of {subject!r}, which a schema refers to",
            )
            into[name] = ""  # a circle ends here
            self._refer(inner, into)
            into[name] = into.pop(name) or _text(inner)  # behind what it needs

    def _asked(self, path: str, none: str) -> Mapping[str, Any]:
        deadline, parts, size = time.monotonic() + WHOLE_S, list[bytes](), 0
        try:
            with self._http.request("GET", self.address.url + path, preload_content=False) as answer:
                for part in answer.stream(64 << 10):
                    parts.append(part)
                    size += len(part)
                    if size > MAX_BYTES or time.monotonic() > deadline:
                        raise self._away(f"answers with more than {MAX_BYTES} bytes, or for more than {WHOLE_S:.0f} s")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._away(f"gives no answer ({type(error).__name__})") from None
        if answer.status == _NONE:
            raise EventError("no_schema", f"the registry has {none}")
        try:
            found = json.loads(b"".join(parts)) if answer.status == 200 else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._away(f"answers {answer.status} and no schema")
        return found

    def _away(self, what: str) -> RegistryAway:
        return RegistryAway(f"the registry {what}", where=self.address.url, do="Is it up, and does it know this user?")


def _text(found: Mapping[str, Any]) -> str:
    text = found.get("schema")
    if not isinstance(text, str):
        raise EventError("no_schema", "an answer without a schema")
    return text
