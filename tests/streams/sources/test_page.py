"""docs/sources.md says what a source may have, and each of its examples runs as it stands, against real servers."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from forebay.config import SourceTable
from forebay.events import Behaviour, ItemUpdate
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.dev.kafkajars import VERSION, java
from forebay.streams.sources.foreign import FORMATS, KEYS, Foreign

from .apicurio import Apicurio
from .conftest import Taken
from .maven import class_path

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")
REGISTRY = "http://registry:8081"
_SHOP = {"shop": "/shop/1"}
EXPECTED: dict[str, list[Behaviour | ItemUpdate]] = {
    "JSON": [Behaviour("7", "s1", "click", 1.0, None, "e1", {}, {"page": "/cart"})],
    "MessagePack": [Behaviour("u1", "f1", "play", 0.0, None, "app.events-0-0")],
    "Avro": [Behaviour("u1", "s1", "view", 0.0, None, "shop.views-0-0")],
    "Protobuf": [Behaviour("u1", "s1", "buy", 2.5, None, "o1")],
    "JSON Schema": [Behaviour("u1", "s1", "like", 0.0, None, "shop.likes-0-0")],
    "CloudEvents": [Behaviour("u1", "s1", "shop.click", 0.0, None, n, {}, _SHOP) for n in ("binary", "structured")],
    "Debezium": [
        ItemUpdate("s1", attributes, None, f"shop.public.products-0-{place}")
        for place, attributes in enumerate(({"title": "Laura", "year": 1944.0}, {"title": "Laura", "year": 1945.0}, {}))
    ],
}  # fmt: skip


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def _source(heading: str, registry: str = REGISTRY) -> Foreign:
    text = PAGE if heading == "JSON" else _section(heading)
    (table,) = tomllib.loads(_blocks(text, "toml")[0].replace(REGISTRY, registry))["source"]
    return Foreign.of(SourceTable(table, "the page"))


def test_every_key_and_format_is_on_the_page() -> None:
    """And each format has an example."""
    rows = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
    assert set(KEYS) == rows
    assert {_source(heading).format for heading in EXPECTED} == set(FORMATS)


@pytest.fixture
def told(
    taken: Callable[..., Taken], their_topic: Callable[..., str]
) -> Callable[..., list[Any]]:  # fmt: skip
    """What becomes of a topic's records, once they are sent: events without their times."""

    def run(source: Foreign, send: Callable[[], object]) -> list[Any]:
        # The topic's name is the page's: it is there once in this run, and so is the example.
        their_topic(source.topic, 1, prefix="")
        send()
        found = taken(source)
        assert [letter.message for letter in found.letters] == []
        return [msgspec.structs.replace(event, time=None) for event in found.items]

    return run


@pytest.mark.broker
@pytest.mark.registry
@pytest.mark.parametrize("heading", [heading for heading in EXPECTED if heading != "JSON"])
def test_an_example_becomes_what_it_says(
    heading: str, kafka: DevKafka, registry: Apicurio, told: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """Its Python as it stands, its [[source]] but for the registry's address."""
    source = _source(heading, registry.url)
    file = tmp_path / "example.py"
    file.write_text(_blocks(_section(heading), "python")[0])
    send = runpy.run_path(str(file))["send"]
    words = (kafka.bootstrap,) if source.registry is None else (kafka.bootstrap, registry.url)
    assert told(source, lambda: send(*words)) == EXPECTED[heading]


@pytest.mark.broker
def test_kafkas_own_console_producer_will_do(kafka: DevKafka, told: Callable[..., list[Any]], tmp_path: Path) -> None:
    """The command of the page, run by a shell; `kafka-console-producer.sh` starts Kafka's class as the real one
    does."""
    script = tmp_path / "kafka-console-producer.sh"
    classes = ":".join(map(str, class_path(f"org.apache.kafka:kafka-tools:jar:{VERSION}:compile")))
    script.write_text(f'#!/bin/sh\nexec "{java()}" -cp "{classes}" org.apache.kafka.tools.ConsoleProducer "$@"\n')
    script.chmod(0o755)
    (command,) = re.findall(r"^    (echo .*\n        kafka-console.*)$", _section("JSON"), re.MULTILINE)
    command = command.replace("localhost:9092", kafka.bootstrap)

    def send() -> None:
        path = f"{tmp_path}:{os.environ['PATH']}"
        subprocess.run(["bash", "-c", command], check=True, timeout=120, env=os.environ | {"PATH": path})

    assert told(_source("JSON"), send) == EXPECTED["JSON"]
    (line,) = _blocks(_section("JSON"), "json")
    written = msgspec.json.decode(line, type=Behaviour)
    assert msgspec.structs.replace(written, time=None) == EXPECTED["JSON"][0]
