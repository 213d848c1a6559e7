"""A real broker that asks who is there: TLS with SASL, and TLS with certificates on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from forebay.secret import Secret
from forebay.streams.cluster import Cluster
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka, _free_port

USER, PASSWORD = "feeder", "correct-horse-battery"


class SecuredKafka(DevKafka):
    """Beside its open listener, for the tests' own setting up, it has one for SASL_SSL and one for SSL with client
    certificates."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "kafka", say=lambda line: None)
        self._ports = (_free_port(), _free_port())
        self.authority = trustme.CA()
        self.stranger = trustme.CA()
        self.ca = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.stranger_ca = directory / "stranger.pem"
        self.stranger.cert_pem.write_to_path(str(self.stranger_ca))
        mine = self.authority.issue_cert("127.0.0.1")
        self._store = directory / "broker.pem"  # as Kafka takes it: one file, the key in PKCS 8
        self._store.write_bytes(_pkcs8(mine) + b"".join(b.bytes() for b in mine.cert_chain_pems))
        client = self.authority.issue_cert("client@example.org")
        self.certificate, self.key = directory / "client.pem", directory / "client.key"
        self.certificate.write_bytes(b"".join(b.bytes() for b in client.cert_chain_pems))
        client.private_key_pem.write_to_path(str(self.key))

    def sasl(self, **changed: Any) -> Cluster:
        """The cluster as this broker wants it, but for what is changed."""
        given: dict[str, Any] = {
            "protocol": "SASL_SSL", "ca": self.ca, "user": USER, "password": Secret(PASSWORD)
        }  # fmt: skip
        return Cluster(f"127.0.0.1:{self._ports[0]}", **(given | changed))

    def mutual(self, **changed: Any) -> Cluster:
        """The same by certificates."""
        given = {"protocol": "SSL", "ca": self.ca, "certificate": self.certificate, "key": self.key}
        return Cluster(f"127.0.0.1:{self._ports[1]}", **(given | changed))

    def let_in(self) -> None:
        """Make the SCRAM user."""
        with connected("KafkaAdminClient", self.bootstrap) as admin:
            from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, mechanism, PASSWORD)])

    def refuse(self, topic: str) -> None:
        """The user may not know of this topic."""
        with connected("KafkaAdminClient", self.bootstrap) as admin:
            from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

            place = ResourcePattern(ResourceType.TOPIC, topic)
            admin.create_acls([ACL(f"User:{USER}", "*", ACLOperation.DESCRIBE, ACLPermissionType.DENY, place)])

    def _write_settings(self) -> str:
        path = Path(super()._write_settings())
        lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
        both = ",".join(
            f"{name}://127.0.0.1:{port}" for name, port in zip(("SASL", "MUTUAL"), self._ports, strict=True)
        )
        lines["listeners"] += f",{both}"
        lines["advertised.listeners"] += f",{both}"
        lines["listener.security.protocol.map"] += ",SASL:SASL_SSL,MUTUAL:SSL"
        for name in ("sasl", "mutual"):
            lines[f"listener.name.{name}.ssl.keystore.type"] = "PEM"
            lines[f"listener.name.{name}.ssl.keystore.location"] = str(self._store)
            lines[f"listener.name.{name}.ssl.truststore.type"] = "PEM"
            lines[f"listener.name.{name}.ssl.truststore.location"] = str(self.ca)
        lines["listener.name.mutual.ssl.client.auth"] = "required"
        lines["listener.name.sasl.sasl.enabled.mechanisms"] = "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN"
        login = "org.apache.kafka.common.security"
        lines["listener.name.sasl.plain.sasl.jaas.config"] = (
            f'{login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        )
        # Everybody may do what no rule is about; the open listener may do all.
        lines["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        lines["allow.everyone.if.no.acl.found"] = "true"
        lines["super.users"] = "User:ANONYMOUS"
        for size in (256, 512):
            lines[f"listener.name.sasl.scram-sha-{size}.sasl.jaas.config"] = f"{login}.scram.ScramLoginModule required;"
        path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        return str(path)


def _pkcs8(leaf: trustme.LeafCert) -> bytes:
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
