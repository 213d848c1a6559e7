"""A real Schema Registry: Apicurio, which speaks the API of Confluent's, on the Java runtime of a Python package.

It is fetched once into the user's Maven repository (142 MB), as Kafka is, and runs from a folder of this run.
"""

from __future__ import annotations

import json
import socket
import tarfile
import time
from pathlib import Path
from typing import Any, Self

import urllib3

from forebay.streams.dev.child import end, spawn
from forebay.streams.dev.kafkajars import java

from .maven import artifact

VERSION = "2.6.13.Final"
COORDINATE = f"io.apicurio:apicurio-registry-app:tar.gz:all:{VERSION}:compile"
START_S = 180.0


class Apicurio:
    """One, with its schemas in memory, until the block ends. `url` is of its Confluent API."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self._folder, self.port = folder, port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"
        self._http = urllib3.PoolManager(timeout=30)

    def __enter__(self) -> Self:
        home = _unpacked(self._folder)
        options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1",
                   f"-Dquarkus.http.port={self.port}"]  # fmt: skip
        with (self._folder / "apicurio.log").open("wb") as log:
            jar = home / f"apicurio-registry-app-{VERSION}-runner.jar"
            self._process = spawn([java(), *options, "-jar", str(jar)], log, self._folder)
        deadline = time.monotonic() + START_S
        while True:
            running = self._process.poll() is None and time.monotonic() < deadline
            assert running, (self._folder / "apicurio.log").read_text()
            try:
                if self._http.request("GET", f"{self.url}/subjects", retries=False).status == 200:
                    return self
            except urllib3.exceptions.HTTPError:
                pass
            time.sleep(0.2)

    def __exit__(self, *about: object) -> None:
        end(self._process)

    def register(self, subject: str, schema: Any, kind: str = "AVRO", references: Any = ()) -> int:
        """The id of a schema, which is made known."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        body = {"schema": text, "schemaType": kind, "references": list(references)}
        answer = self._http.request("POST", f"{self.url}/subjects/{subject}/versions", json=body)
        assert answer.status == 200, answer.data
        return int(answer.json()["id"])


def _unpacked(folder: Path) -> Path:
    with tarfile.open(artifact(COORDINATE)) as packed:
        packed.extractall(folder / "apicurio", filter="data")
    return folder / "apicurio"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
