"""Which Kafka, and how its clients show who they are."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from forebay.errors import ConfigError
from forebay.secret import NO_SECRET, Secret

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class Cluster:
    """`bootstrap` is host:port, several by comma; `protocol` and `mechanism` are Kafka's words.

    With SSL, `ca` (PEM) is whom the brokers' certificates are signed by, the system's own when it is not given, and
    `certificate` and `key` (PEM; the key may have a password) are this client's, where brokers ask for them. With SASL,
    `user` and `password`. Raises ConfigError for what does not go together, or a file that is not there.

    As a text it is its address: an error or a log line may say it.
    """

    bootstrap: str
    protocol: str = "PLAINTEXT"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    key_password: Secret = NO_SECRET
    mechanism: str = "SCRAM-SHA-512"
    user: str = ""
    password: Secret = NO_SECRET

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ConfigError("the protocol is not one of Kafka's", do=f"Known: {', '.join(PROTOCOLS)}")
        if self.mechanism not in MECHANISMS:
            raise ConfigError("the SASL mechanism is not known", do=f"Known: {', '.join(MECHANISMS)}")
        if self._sasl and not (self.user and self.password):
            raise ConfigError(f"{self.protocol} needs a user and a password", do="Give both")
        if not self._sasl and (self.user or self.password):
            # Said, and not passed over: somebody believes that this connection is protected.
            raise ConfigError(f"a user or a password is given, and {self.protocol} sends neither", do=_choose("SASL"))
        files = [f for f in (self.ca, self.certificate, self.key) if f is not None]
        if files and not self._tls:
            raise ConfigError(f"certificates are given, and {self.protocol} uses none", do=_choose("SSL"))
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a certificate and its key go together", do="Give both, or neither")
        for file in files:
            if not file.is_file():
                raise ConfigError("there is no such file", where=str(file), do="Name a PEM file")

    def __str__(self) -> str:
        return self.bootstrap

    @property
    def _tls(self) -> bool:
        return self.protocol.endswith("SSL")

    @property
    def _sasl(self) -> bool:
        return self.protocol.startswith("SASL")

    def for_librdkafka(self) -> dict[str, Any]:
        """The part of a librdkafka client's settings that says where and who. It has the secrets in it."""
        found: dict[str, Any] = {"bootstrap.servers": self.bootstrap}
        if self.protocol != "PLAINTEXT":
            found["security.protocol"] = self.protocol
        if self._tls:
            places = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
            files = dict(zip(places, (self.ca, self.certificate, self.key), strict=True))
            found |= {name: str(file) for name, file in files.items() if file is not None}
            if self.key_password:
                found["ssl.key.password"] = self.key_password.reveal()
        if self._sasl:
            found |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.user,
                "sasl.password": self.password.reveal(),
            }
        return found

    def for_kafka_python(self) -> dict[str, Any]:
        """The same for a kafka-python client, without the addresses. Raises ConfigError as `ssl_context` does."""
        found: dict[str, Any] = {}
        if self.protocol != "PLAINTEXT":
            found["security_protocol"] = self.protocol
        if self._tls:
            # Made here: the library would read the files at each try to connect, and try on with what cannot be read.
            found["ssl_context"] = self.ssl_context()
        if self._sasl:
            found |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.user,
                "sasl_plain_password": self.password.reveal(),
            }
        return found

    def ssl_context(self) -> ssl.SSLContext:
        """Whom to trust, and this client's certificate. Raises ConfigError for files that are not what they should
        be."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            if self.certificate is not None and self.key is not None:
                # Without a password OpenSSL would ask at the terminal for one.
                context.load_cert_chain(self.certificate, self.key, lambda: self.key_password.reveal())
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"a certificate or a key cannot be used: {error.strerror or error}",
                do="Compare kafka_ca, kafka_certificate, kafka_key and the key's password",
            ) from None
        return context


Address: TypeAlias = str | Cluster


def cluster_of(address: Address) -> Cluster:
    """A bare `host:port` is a cluster that asks for nothing."""
    return address if isinstance(address, Cluster) else Cluster(address)


def _choose(part: str) -> str:
    return f"Choose one of {', '.join(p for p in PROTOCOLS if part in p)}"
