"""What lies in deploy/ does what its words say."""

from __future__ import annotations

from pathlib import Path

import yaml

from forebay.config import Settings

COMPOSE = Path(__file__).resolve().parents[1] / "deploy" / "compose.yaml"


def test_the_composed_broker_is_where_every_verb_looks() -> None:
    """Its first lines name no address: the published port, the advertised listener and the default setting are one."""
    words = [line for line in COMPOSE.read_text().splitlines() if "docker compose" in line]
    assert words and all("forebay topics create" in line and "bootstrap" not in line.lower() for line in words)
    service = yaml.safe_load(COMPOSE.read_text())["services"]["kafka"]
    advertised = dict(part.split("://") for part in service["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(part.split("://:") for part in service["environment"]["KAFKA_LISTENERS"].split(","))
    assert service["ports"] == [f"{Settings().bootstrap}:{listening['BROKER']}"]
    assert advertised["BROKER"] == Settings().bootstrap
    assert advertised["INSIDE"] == f"kafka:{listening['INSIDE']}"
    assert len(set(listening.values())) == 3
    assert service["healthcheck"]["test"][-1] == f"localhost:{listening['BROKER']}"
