"""The Kafka that the settings name."""

from __future__ import annotations

from forebay.config import Settings
from forebay.secret import given
from forebay.streams.cluster import Cluster


def cluster(settings: Settings) -> Cluster:
    """With its secrets read. Raises ConfigError for settings that do not go together, and files that are not there."""
    return Cluster(
        settings.bootstrap,
        settings.kafka_protocol,
        settings.kafka_ca,
        settings.kafka_certificate,
        settings.kafka_key,
        given("kafka_key_password", settings.kafka_key_password, settings.kafka_key_password_file),
        settings.kafka_mechanism,
        settings.kafka_user,
        given("kafka_password", settings.kafka_password, settings.kafka_password_file),
    )
