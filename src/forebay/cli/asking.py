"""The lookup server that the settings name."""

from __future__ import annotations

from forebay.config import Settings
from forebay.retrieval.client import Client
from forebay.secret import given


def client(settings: Settings, timeout_s: float) -> Client:
    """A client for it. Raises ConfigError for an address that is none, and for files that are not there."""
    token = given("server_token", settings.server_token, settings.server_token_file)
    return Client(settings.server, timeout_s=timeout_s, token=token, ca=settings.server_ca)
