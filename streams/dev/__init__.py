"""Kafka out of Python packages, for development and tests: no Docker, no Java of the system."""
