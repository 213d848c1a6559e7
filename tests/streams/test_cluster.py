"""A Cluster takes what goes together, and what it knows leaves it only towards a client library."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import trustme

from forebay.config import load
from forebay.errors import ConfigError
from forebay.secret import Secret
from forebay.streams.cluster import Cluster, cluster_of

HIDDEN = "hunter2"


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A certificate and its key, in one file."""
    path = tmp_path / "some.pem"
    trustme.CA().issue_cert("somebody").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def test_an_address_alone_asks_for_nothing() -> None:
    """And is what both libraries are given."""
    cluster = cluster_of("kafka-1:9092,kafka-2:9092")
    assert cluster.for_librdkafka() == {"bootstrap.servers": "kafka-1:9092,kafka-2:9092"}
    assert cluster.for_kafka_python() == {}
    assert str(cluster) == "kafka-1:9092,kafka-2:9092" and cluster_of(cluster) is cluster


def test_both_libraries_are_told_the_same(pem: Path) -> None:
    """In their own words."""
    given = Cluster(
        "k:1", "SASL_SSL", ca=pem, certificate=pem, key=pem, key_password=Secret("k"), user="u", password=Secret(HIDDEN)
    )
    one, other = given.for_librdkafka(), given.for_kafka_python()
    pairs = {
        "security.protocol": "security_protocol", "sasl.mechanism": "sasl_mechanism",
        "sasl.username": "sasl_plain_username", "sasl.password": "sasl_plain_password",
    }  # fmt: skip
    assert {name: one[name] for name in pairs} == {name: other[pairs[name]] for name in pairs}
    assert one["sasl.password"] == HIDDEN
    assert one["ssl.ca.location"] == one["ssl.key.location"] == one["ssl.certificate.location"] == str(pem)
    assert one["ssl.key.password"] == "k"


def test_a_file_that_is_no_certificate_is_refused_before_anybody_connects(tmp_path: Path) -> None:
    """A client library would try on with it."""
    path = tmp_path / "notes.txt"
    path.write_text("milk, bread\n")
    for given in ({"ca": path}, {"certificate": path, "key": path}):
        with pytest.raises(ConfigError, match="a certificate or a key cannot be used"):
            Cluster("k:1", "SSL", **given).for_kafka_python()


@pytest.mark.parametrize(
    "given",
    [
        {"protocol": "TLS"},
        {"protocol": "SASL_SSL", "user": "u", "password": Secret(HIDDEN), "mechanism": "GSSAPI"},
        {"protocol": "SASL_SSL", "user": "u"},
        {"protocol": "SASL_SSL", "password": Secret(HIDDEN)},
        {"user": "u", "password": Secret(HIDDEN)},
        {"protocol": "SSL", "password": Secret(HIDDEN)},
        {"ca": Path("pem")},
        {"protocol": "SSL", "certificate": Path("pem")},
        {"protocol": "SSL", "key": Path("pem")},
        {"protocol": "SSL", "ca": Path("elsewhere")},
    ],
    ids=lambda given: "-".join(given),
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], pem: Path, tmp_path: Path) -> None:
    """Nobody believes to be protected who is not."""
    files = {name: pem if value == Path("pem") else value for name, value in given.items()}
    with pytest.raises(ConfigError) as raised:
        Cluster("k:1", **files)
    assert HIDDEN not in str(raised.value)


def test_a_secret_is_not_shown() -> None:
    """Nor written, nor in what holds it."""
    secret = Secret(HIDDEN)
    cluster = Cluster("k:1", "SASL_PLAINTEXT", user="u", password=secret)
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>20}", repr(cluster), str(cluster), vars(cluster)):
        assert HIDDEN not in str(shown)
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
    assert secret.reveal() == HIDDEN and bool(secret) and not Secret()
    assert secret == Secret(HIDDEN) != Secret("other")


def test_a_secret_of_a_file_is_its_first_line(tmp_path: Path) -> None:
    """What an editor adds at the end is no part of it; what cannot be read is named."""
    path = tmp_path / "secret"
    path.write_bytes(b"  with spaces \r\nsecond\n")
    assert Secret.of_file(path).reveal() == "  with spaces "
    path.write_text("one\x0b\x85\u2028line\n")
    assert Secret.of_file(path).reveal() == "one\x0b\x85\u2028line"
    path.write_bytes(b"")
    assert not Secret.of_file(path)
    path.write_bytes(b"\xff\xfe")
    for bad in (path, tmp_path / "absent", tmp_path):
        with pytest.raises(ConfigError, match=str(bad)):
            Secret.of_file(bad)


def test_a_secret_comes_from_the_environment_or_a_file_of_its_own(tmp_path: Path) -> None:
    """Not from forebay.toml, which others read, nor from a flag, which `ps` shows; a refusal does not repeat it."""
    settings, origins = load({}, environment={"FOREBAY_KAFKA_PASSWORD": HIDDEN})
    assert settings.kafka_password.reveal() == HIDDEN and HIDDEN not in repr(settings)
    assert origins["kafka_password"] == "FOREBAY_KAFKA_PASSWORD"
    file = tmp_path / "forebay.toml"
    file.write_text(f'kafka_password = "{HIDDEN}"\n')
    for call in (lambda: load({}, file=file, environment={}), lambda: load({"kafka_password": HIDDEN}, environment={})):
        with pytest.raises(ConfigError, match="kafka_password_file") as raised:
            call()
        assert HIDDEN not in str(raised.value)
