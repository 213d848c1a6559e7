"""Why a broker that listens does not answer: a client library says "disconnected" for a wrong password, an unknown
certificate and a port that is not Kafka's alike."""

from __future__ import annotations

import socket
import ssl

from forebay.streams.clients import CONNECT_TIMEOUT_S
from forebay.streams.cluster import Cluster

LOOK_S = 1.0  # after a client library has waited for its time: whoever says nothing is given no more of it
_WORDS = "user, password and mechanism (kafka_user, kafka_password_file, kafka_mechanism)"


def tls_problem(cluster: Cluster, host: str, port: int) -> tuple[str, str] | None:
    """What is wrong with TLS, and what to do about it; None when nothing is, or none is asked for. Asked before a
    client library connects: it would try on for as long as it may, and leave each socket to the garbage collector.

    Takes 5 s at most. Raises ConfigError for files that cannot be used.
    """
    if not cluster.protocol.endswith("SSL"):
        return None
    found = _handshake(cluster.ssl_context(), host, port, CONNECT_TIMEOUT_S)
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {found.verify_message}", "Name who signed it in kafka_ca"
    return "it does not speak TLS at this address", "Compare kafka_protocol and the port with its listeners"


def diagnosis(protocol: str, host: str, port: int) -> tuple[str, str]:
    """Why a client library that speaks `protocol` gets no answer, TLS being fine where it is asked for, and what to do
    about it, as far as one more handshake tells."""
    if protocol == "SSL":
        return (
            "TLS is fine, and it ends the connection after that",
            "Does it ask for this client's certificate (kafka_certificate, kafka_key), or for SASL (kafka_protocol)?",
        )
    if protocol == "SASL_SSL":
        return "TLS is fine, and it ends the connection where we say who we are", f"Compare {_WORDS}"
    if _handshake(_trusting(), host, port, LOOK_S) is None:
        return "it speaks TLS at this address", "Set kafka_protocol to SSL or SASL_SSL"
    if protocol == "SASL_PLAINTEXT":
        return "it ends the connection", f"Compare {_WORDS}"
    return (
        "something listens, but it does not answer as Kafka does",
        "Is it the port of another service, or does it ask for SASL (kafka_protocol)?",
    )


def _trusting() -> ssl.SSLContext:
    """For a look at whether there is TLS at all: nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _handshake(context: ssl.SSLContext, host: str, port: int, within_s: float) -> OSError | None:
    """What a TLS handshake ends with; None when it is done."""
    try:
        with socket.create_connection((host, port), within_s) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except OSError as error:  # ssl.SSLError is one
        return error
    return None
