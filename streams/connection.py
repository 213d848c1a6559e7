"""How kafka-python is loaded and connected: one place for its import, its time-outs and what it leaves open.

Four things in kafka-python 3.0.12 are put right here: its import warns on Python 3.11 (and an application may run with
warnings as errors); its clients retry an address that nobody listens at until the time-out, with a line of log for
each try; a client whose first connection fails leaves its thread behind; and each refused connection leaves a socket
open, ten a second while a broker is away.
"""

from __future__ import annotations

import socket
import warnings
from functools import cache
from typing import Any

from forebay.errors import BrokerUnavailable, ConfigError, MissingExtra

CONNECT_TIMEOUT_S = 5.0
_DIRECT = "forebay-direct"


def kafka_python() -> Any:
    """The `kafka` module. Raises MissingExtra."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # importlib.resources.read_text, in 3.0.12
            import kafka
            import kafka.admin
    except ImportError:
        raise MissingExtra("kafka-python", "publisher") from None
    return kafka


def connected(kind: str, bootstrap: str, *, timeout_s: float = CONNECT_TIMEOUT_S, **options: Any) -> Any:
    """A connected `KafkaProducer`, `KafkaConsumer` or `KafkaAdminClient` (`kind`); the caller closes it.

    `options` are kafka-python's own (security_protocol, sasl_mechanism, ...). Raises BrokerUnavailable within
    about `timeout_s`, and ConfigError for options that cannot be.
    """
    kafka = kafka_python()
    _closing_sockets()
    reach(bootstrap, timeout_s)
    opened: list[Any] = []

    def open_client(**settings: Any) -> Any:
        opened.append(kafka.net.compat.KafkaNetClient(**settings))
        return opened[-1]

    try:
        return getattr(kafka, kind)(
            bootstrap_servers=addresses(bootstrap),
            bootstrap_timeout_ms=round(timeout_s * 1000),
            kafka_client=open_client,
            **({"proxy_url": f"{_DIRECT}://"} | options),
        )
    except BaseException as error:
        for client in opened:
            client._net.stop()
            client.close()
        if isinstance(error, (kafka.errors.KafkaConfigurationError, ValueError, TypeError, RuntimeError)):
            raise ConfigError(f"kafka-python refuses its settings: {error}", do="See its documentation") from None
        if isinstance(error, kafka.errors.KafkaError):
            said = f"something listens, but it did not answer as Kafka does ({error})"
            raise _unavailable(bootstrap, said) from None
        raise


@cache
def _closing_sockets() -> None:
    """Register a way to connect that closes what did not connect: kafka-python finds it by the scheme of `proxy_url`."""
    from kafka.net.inet import KafkaNetSocket

    class Direct(KafkaNetSocket):  # type: ignore[misc]
        SCHEMES = (_DIRECT,)

        async def sock_connect(
            self, net: Any, sock: socket.socket, sockaddr: Any, timeout_at: float | None = None
        ) -> Any:
            try:
                return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
            except BaseException:
                sock.close()
                raise


def addresses(bootstrap: str) -> list[str]:
    """`host:port,host:port` taken apart; a missing port is 9092."""
    return [
        part if part.rpartition(":")[2].isdecimal() and ":" in part else f"{part}:9092"
        for part in (piece.strip() for piece in bootstrap.split(","))
        if part
    ]


def reach(bootstrap: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Return when one of the addresses takes a connection; raise BrokerUnavailable when none does."""
    parts = addresses(bootstrap)
    said = "no address given"
    for part in parts:
        host, _, port = part.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_s / len(parts)).close()
            return
        except (OSError, OverflowError, UnicodeError) as error:
            said = getattr(error, "strerror", None) or str(error)
    raise _unavailable(bootstrap, said)


def _unavailable(bootstrap: str, said: str) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"no Kafka broker answers: {said}", where=bootstrap, do="Run: forebay kafka (or name your broker's address)"
    )
