"""How kafka-python is loaded and connected: one place for its import, its time-outs and what it leaves open.

Four things in kafka-python 3.0.12 are put right here: its import warns on Python 3.11 (and an application may run with
warnings as errors); its clients retry an address that nobody listens at until the time-out, with a line of log for
each try; a client whose first connection fails leaves its thread behind; and each refused connection leaves a socket
open, ten a second while a broker is away.
"""

from __future__ import annotations

import difflib
import re
import socket
import warnings
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from forebay.errors import BrokerUnavailable, ConfigError, MissingExtra
from forebay.streams.clients import CONNECT_TIMEOUT_S
from forebay.streams.cluster import PROTOCOLS, Address, cluster_of
from forebay.streams.diagnosis import diagnosis, tls_problem

_DIRECT = "forebay-direct"
_REFUSALS = (
    ValueError,
    TypeError,
    RuntimeError,
    AssertionError,
    LookupError,
    AttributeError,
)  # what it raises for odd values
_PROXIES = ("proxy_url", "socks5_proxy")


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


def connected(kind: str, bootstrap: Address, *, timeout_s: float = CONNECT_TIMEOUT_S, **options: Any) -> Any:
    """A connected `KafkaProducer`, `KafkaConsumer` or `KafkaAdminClient` (`kind`); the caller closes it.

    `options` are kafka-python's own (security_protocol, sasl_mechanism, ...). Raises BrokerUnavailable within
    about `timeout_s`, and ConfigError for options that cannot be. It names options and repeats no value: one may be a
    password.
    """
    kafka, cluster = kafka_python(), cluster_of(bootstrap)
    options = cluster.for_kafka_python() | options
    known = getattr(kafka, kind).DEFAULT_CONFIG
    _check(options, known)
    _closing_sockets()
    at = reach(cluster, timeout_s)
    if (problem := tls_problem(cluster, *at)) is not None:
        raise _unavailable(cluster, *problem)
    opened: list[Any] = []

    def open_client(**settings: Any) -> Any:
        opened.append(kafka.net.compat.KafkaNetClient(**settings))
        return opened[-1]

    try:
        return getattr(kafka, kind)(
            bootstrap_servers=addresses(cluster.bootstrap),
            bootstrap_timeout_ms=round(timeout_s * 1000),
            kafka_client=open_client,
            **({"proxy_url": f"{_DIRECT}://"} | options),
        )
    except BaseException as error:
        for client in opened:
            client._net.stop()
            client.close()
        if isinstance(error, (kafka.errors.KafkaConfigurationError, *_REFUSALS)):
            raise _refused(error, options, known) from None
        if isinstance(error, kafka.errors.KafkaError):
            raise _unavailable(bootstrap, *diagnosis(options.get("security_protocol", cluster.protocol), *at)) from None
        raise


def _check(options: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ConfigError for what kafka-python would refuse with the value in its words, or write into its log at each
    try."""
    unknown = [name for name in options if name not in known]
    if unknown:
        meant = difflib.get_close_matches(unknown[0], known, 1)
        raise ConfigError(
            f"kafka-python has no option {', '.join(unknown)}",
            do=f"Did you mean {meant[0]}?" if meant else "See its documentation",
        )
    # kafka-python takes any other word for PLAINTEXT.
    if options.get("security_protocol", "PLAINTEXT") not in PROTOCOLS:
        raise ConfigError("security_protocol is not one of Kafka's", do=f"Known: {', '.join(PROTOCOLS)}")
    for name in _PROXIES:
        if options.get(name) is not None and not _is_proxy(options[name]):
            raise ConfigError(
                f"{name} is not the address of a proxy", do="Write it like socks5://user:password@host:1080"
            )


def _is_proxy(url: object) -> bool:
    try:
        parts = urlsplit(str(url))
        return parts.scheme in ("socks5", "socks5h", _DIRECT) and bool(parts.hostname) and parts.port is not None
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


def _refused(error: BaseException, options: Mapping[str, Any], known: Collection[str]) -> ConfigError:
    """Of kafka-python's own words only the options that they name: the rest may be a value."""
    named = [name for name in dict.fromkeys(re.findall(r"[a-z0-9_]+", str(error))) if name in known]
    about = f"see {', '.join(named)}" if named else f"one of {', '.join(sorted(options))}"
    return ConfigError(
        f"kafka-python refuses its settings: {about} ({type(error).__name__})",
        do="Compare their values, which are not repeated here, with its documentation",
    )


@cache
def _closing_sockets() -> None:
    """Register a way to connect that closes what did not connect: kafka-python finds it by the scheme of
    `proxy_url`."""
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


def reach(bootstrap: Address, timeout_s: float = CONNECT_TIMEOUT_S) -> tuple[str, int]:
    """The first of the addresses that takes a connection, as host and port; raises BrokerUnavailable when none does."""
    parts = addresses(str(bootstrap))
    said = "no address given"
    for part in parts:
        host, _, port = part.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_s / len(parts)).close()
            return host.strip("[]"), int(port)
        except (OSError, OverflowError, UnicodeError) as error:
            said = getattr(error, "strerror", None) or str(error)
    raise _unavailable(bootstrap, said, "Run: forebay kafka (or name your broker's address: --bootstrap)")


def _unavailable(bootstrap: Address, said: str, do: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"no Kafka broker answers: {said}", where=str(bootstrap), do=do)
