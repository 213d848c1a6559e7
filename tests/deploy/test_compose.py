"""What lies in deploy/ does what its words say."""

from __future__ import annotations

from pathlib import Path

import yaml

from forebay.config import Settings
from forebay.streams.dev.kafkajars import VERSION

COMPOSE = Path(__file__).resolve().parents[2] / "deploy" / "compose.yaml"


def test_the_composed_broker_is_where_every_verb_looks() -> None:
    """Its first lines name no address: the published port, the advertised listener and the default setting are one."""
    words = [line for line in COMPOSE.read_text().splitlines() if "docker compose" in line and "--profile" not in line]
    assert words and all("forebay topics create" in line and "bootstrap" not in line.lower() for line in words)
    service = yaml.safe_load(COMPOSE.read_text())["services"]["kafka"]
    advertised = dict(part.split("://") for part in service["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(part.split("://:") for part in service["environment"]["KAFKA_LISTENERS"].split(","))
    assert service["ports"] == [f"{Settings().bootstrap}:{listening['BROKER']}"]
    assert advertised["BROKER"] == Settings().bootstrap
    assert advertised["INSIDE"] == f"kafka:{listening['INSIDE']}"
    assert len(set(listening.values())) == 3
    assert service["image"] == f"apache/kafka:{VERSION}"
    assert service["healthcheck"]["test"][-1] == f"localhost:{listening['BROKER']}"


def test_monitoring_is_a_profile_of_its_own_and_mounts_what_lies_here() -> None:
    """`up` without the profile starts Kafka alone; each file that Prometheus and Grafana are given is here, and each of
    them is where the other looks for it."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    watching = {name for name, service in services.items() if service.get("profiles") == ["monitoring"]}
    assert watching == {"prometheus", "grafana"} and "profiles" not in services["kafka"]
    for name in watching:
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
        for volume in services[name]["volumes"]:
            host = volume.split(":")[0]
            assert not host.startswith(".") or (COMPOSE.parent / host).exists(), volume
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    provisioning = COMPOSE.parent / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "forebay.yaml").read_text())["providers"]
    assert mounts["./grafana/forebay.json"].startswith(provider["options"]["path"] + "/")
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{services['prometheus']['ports'][0].split(':')[-1]}"
    config = yaml.safe_load((COMPOSE.parent / "prometheus" / "prometheus.yaml").read_text())
    assert [(COMPOSE.parent / "prometheus" / file).exists() for file in config["rule_files"]] == [True]
    hosts = {t.split(":")[0] for s in config["scrape_configs"] for c in s["static_configs"] for t in c["targets"]}
    assert hosts == {services["prometheus"]["extra_hosts"][0].split(":")[0]}
    assert all(scrape["job_name"].startswith("forebay-") for scrape in config["scrape_configs"])  # the alerts go by it
