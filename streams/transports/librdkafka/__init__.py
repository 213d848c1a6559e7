"""Kafka, by librdkafka: the default transport."""
