"""The Kafka that the settings name."""

from __future__ import annotations

from pathlib import Path

from forebay.config import Settings
from forebay.errors import ConfigError
from forebay.secret import Secret
from forebay.streams.cluster import Cluster


def cluster(settings: Settings) -> Cluster:
    """With its secrets read. Raises ConfigError for settings that do not go together, and files that are not there."""
    return Cluster(
        settings.bootstrap,
        settings.kafka_protocol,
        settings.kafka_ca,
        settings.kafka_certificate,
        settings.kafka_key,
        _secret("kafka_key_password", settings.kafka_key_password, settings.kafka_key_password_file),
        settings.kafka_mechanism,
        settings.kafka_user,
        _secret("kafka_password", settings.kafka_password, settings.kafka_password_file),
    )


def _secret(name: str, given: Secret, file: Path | None) -> Secret:
    if given and file is not None:
        raise ConfigError(f"{name} is given twice", where=str(file), do=f"Keep {name}_file or the variable, not both")
    return given if file is None else Secret.of_file(file)
