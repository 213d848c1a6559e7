"""Where a faust app's Kafka is, and how it shows who it is, in the words of our other clients."""

from __future__ import annotations

from typing import Any

from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers.aiokafka import Transport, server_list

from forebay.config import Settings
from forebay.errors import ConfigError
from forebay.secret import Secret
from forebay.streams.cluster import Cluster


def cluster_of_app(app: Any, settings: Settings) -> Cluster:
    """The app's address and credentials. Files of TLS are those of the settings: an ssl.SSLContext does not say which
    ones it was made of.

    Raises ConfigError for another driver than kafka:// (aiokafka), and for credentials that are not a user's and a
    password's.
    """
    transport, given = app.transport, app.conf.broker_credentials
    if not isinstance(transport, Transport):
        raise ConfigError("the app's broker is not one of kafka://", do="Use broker='kafka://host:port'")
    where: dict[str, Any] = {"bootstrap": ",".join(server_list(transport.url, transport.default_port))}
    if given is None:
        where["protocol"] = "PLAINTEXT" if app.conf.ssl_context is None else "SSL"
    elif isinstance(given, SASLCredentials):
        where |= {
            "protocol": given.protocol.value,
            "mechanism": given.mechanism.value,
            "user": given.username or "",
            "password": Secret(given.password or ""),
        }
    elif isinstance(given, SSLCredentials):
        where["protocol"] = given.protocol.value
    else:
        raise ConfigError(
            f"{type(given).__name__} are not known here", do="Use faust.SASLCredentials, or faust.SSLCredentials"
        )
    if where["protocol"].endswith("SSL"):
        password, file = settings.kafka_key_password, settings.kafka_key_password_file
        where |= {
            "ca": settings.kafka_ca,
            "certificate": settings.kafka_certificate,
            "key": settings.kafka_key,
            "key_password": password if file is None else Secret.of_file(file),
        }
    return Cluster(**where)


def conf_of(cluster: Cluster) -> dict[str, Any]:
    """The other way round: what an app is to be told to reach a Cluster. It has the secrets in it."""
    addresses = ";".join(f"kafka://{one.strip()}" for one in cluster.bootstrap.split(","))
    found: dict[str, Any] = {"broker": addresses}
    context = cluster.ssl_context() if cluster.protocol.endswith("SSL") else None
    if cluster.protocol.startswith("SASL"):
        found["broker_credentials"] = SASLCredentials(
            username=cluster.user, password=cluster.password.reveal(), mechanism=cluster.mechanism, ssl_context=context
        )
    elif context is not None:
        found["broker_credentials"] = SSLCredentials(context)
    return found
