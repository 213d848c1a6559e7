"""Who comes in: TLS, tokens and their rotation, and metrics behind a door of their own."""

from __future__ import annotations

import hashlib
import logging
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3

from forebay.cli.asking import client as asking
from forebay.config import load
from forebay.errors import ConfigError, ServerUnavailable, Unauthorized
from forebay.retrieval.access import Access
from forebay.retrieval.client import Client
from forebay.retrieval.door import Door
from forebay.retrieval.limits import ServerLimits
from forebay.retrieval.messages import Readiness
from forebay.retrieval.server import create_app, serve, serving
from forebay.secret import Secret

from .test_server import _run
from .wire import answer, connect, ended, error, post, send

FIRST, SECOND, STRANGER = "token-one-" + "a" * 40, "token-two-" + "b" * 40, "token-six-" + "c" * 40


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# of the ranking service\n{_hash(FIRST)}  # until June\n")
    return file


@pytest.fixture
def guarded(node: Any, tokens: Path) -> Iterator[str]:
    with serving(create_app(node.engine, lambda: Readiness(True)), door=Door(tokens=tokens)) as url:
        yield url


@pytest.mark.parametrize("token", ["", STRANGER, FIRST[:-1], FIRST.upper()])
def test_without_a_token_of_the_servers_nothing_is_told(guarded: str, token: str) -> None:
    """By name, before the body is read; the connection ends."""
    with Client(guarded, timeout_s=20, token=Secret(token)) as client, pytest.raises(Unauthorized):
        client.rank("u", ["i1"])
    words = f"authorization: Bearer {token}\r\n" if token else ""
    with connect(guarded) as connection:
        send(connection, post(b"", length=100, headers=words))
        status, headers, body = answer(connection)
        assert (status, headers["www-authenticate"], body["error"]) == (401, "Bearer", "unauthorized")
        said = "this token is none of this server's" if token else "this server wants a token"
        assert body["message"] == said and "server_token_file" in body["do"]
        assert ended(connection)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/rank",
        "http://h/v1/rank",
        "/%76%31/rank",
        "//v1/rank",
        "/health/../v1/rank",
        "/metrics",
        "/v1/entities/user/u",
    ],
)
def test_no_way_of_writing_a_path_is_a_way_in(guarded: str, target: str) -> None:
    """What is open is listed, and written as it stands there."""
    with connect(guarded) as connection:
        send(connection, f"GET {target} HTTP/1.1\r\nhost: h\r\n\r\n".encode())
        assert error(connection) == (401, "unauthorized")


def test_probes_have_no_token(guarded: str) -> None:
    """Whether it lives and whether it wants lookups is no secret."""
    with urllib3.PoolManager(retries=False, timeout=20) as http:
        assert [http.request("GET", guarded + path).status for path in ("/health", "/ready", "/ready?x=1")] == [200] * 3


def test_two_tokens_live_while_they_rotate(guarded: str, tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new one is added, callers change over, the old one is taken out; nobody restarts the server."""
    caplog.set_level(logging.DEBUG)

    def admitted(token: str) -> bool:
        with Client(guarded, timeout_s=20, token=Secret(token)) as client:
            try:
                client.rank("u", ["i1"])
            except Unauthorized:
                return False
            return True

    def until(token: str, expected: bool) -> bool:
        end = time.monotonic() + 20
        while admitted(token) != expected and time.monotonic() < end:
            time.sleep(0.05)
        return admitted(token) == expected

    assert admitted(FIRST) and not admitted(SECOND)
    tokens.write_text(f"{_hash(FIRST)}\n{_hash(SECOND)}\n")
    assert until(SECOND, True) and admitted(FIRST)
    tokens.write_text("nonsense\n")  # it is told of, and nothing changes
    end = time.monotonic() + 20
    while "tokens stay as they were" not in caplog.text and time.monotonic() < end:
        time.sleep(0.05)
    assert admitted(FIRST) and admitted(SECOND)
    tokens.write_text(f"{_hash(SECOND)}\n")
    assert until(FIRST, False) and admitted(SECOND)
    assert "line 1 is no hash" in caplog.text
    for hidden in (FIRST, SECOND, _hash(FIRST), _hash(SECOND), "nonsense"):
        assert hidden not in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 hashes"),
        ("\n".join(_hash(t) for t in (FIRST, SECOND, STRANGER)), "3 hashes"),
        (FIRST, "line 1 is no hash"),
        ("\n" + _hash(FIRST)[:-2], "line 2 is no SHA-256"),
        ("\xff", "not a text"),
    ],
)
def test_a_file_of_tokens_that_is_none_is_named(tmp_path: Path, node: Any, text: str, said: str) -> None:
    """With its line; what stands there may be a token in the wrong place, and is not repeated."""
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as raised:
        serve(create_app(node.engine, lambda: Readiness(True)), port=0, door=Door(tokens=file))
    assert str(file) in str(raised.value) and FIRST not in str(raised.value)
    with pytest.raises(ConfigError, match="No such file"):
        Door(tokens=tmp_path / "none").tokens_file()


def test_a_token_is_compared_as_a_whole() -> None:
    """And only as a bearer's."""
    access = Access([hashlib.sha256(FIRST.encode()).digest()])
    assert access.admits(f"Bearer {FIRST}".encode()) and access.admits(f"bearer  {FIRST} ".encode())
    for other in (None, b"", FIRST.encode(), f"Basic {FIRST}".encode(), b"Bearer ", b"Bearer \xff"):
        assert not access.admits(other)


class Authority:
    """A certificate for 127.0.0.1 and who signed it, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        issued.private_key_pem.write_to_path(str(self.key))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(self.certificate), append=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_lookups_go_over_tls(node: Any, authority: Authority, tokens: Path) -> None:
    """With a certificate of one's own: whoever knows its authority comes in, and nobody else hears anything."""
    door = Door(authority.certificate, authority.key, tokens)
    with serving(create_app(node.engine, lambda: Readiness(True)), door=door) as url:
        assert url.startswith("https://")
        with Client(url, timeout_s=20, token=Secret(FIRST), ca=authority.ca) as client:
            assert len(client.rank("u", ["i1", "i2"], 2)) == 2
        with Client(url, timeout_s=20, token=Secret(FIRST)) as client, pytest.raises(ServerUnavailable):
            client.rank("u", ["i1"])
        with connect(url) as connection:
            send(connection, post(headers=f"authorization: Bearer {FIRST}\r\n"))
            assert b"hits" not in connection.recv(1 << 16) and ended(connection)
    context = door.tls()
    assert context is not None and context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_limits_hold_within_tls(node: Any, authority: Authority) -> None:
    """A handshake that does not come has its time, and so has a request behind it."""
    app = create_app(node.engine, lambda: Readiness(True), limits=ServerLimits(header_s=0.3, header_bytes=2_000))
    with serving(app, door=Door(authority.certificate, authority.key)) as url:
        with connect(url) as silent:
            assert ended(silent)
        context = ssl.create_default_context(cafile=str(authority.ca))
        with connect(url) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            send(connection, b"GET /hea")
            assert error(connection) == (408, "too_slow")
            assert ended(connection)
        with connect(url) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            send(connection, b"GET /health HTTP/1.1\r\nx: " + b"a" * 5_000 + b"\r\n\r\n")
            assert error(connection) == (431, "too_large")


def test_a_certificate_that_is_none_is_named(node: Any, authority: Authority, tmp_path: Path) -> None:
    """Before anything is warmed up; the key's bytes stay in its file."""
    for door, said in (
        (Door(authority.certificate, tmp_path / "none"), "No such file"),
        (Door(authority.certificate), "no certificate for TLS"),
        (Door(authority.key, authority.key), "no certificate for TLS"),
        (Door(None, authority.key), "server_key has no server_certificate"),
    ):
        with pytest.raises(ConfigError, match=said):
            serve(create_app(node.engine, lambda: Readiness(True)), port=0, door=door)


def test_the_verbs_ask_with_what_the_settings_name(guarded: str, tmp_path: Path) -> None:
    """A token from its file or its variable, and from nowhere that others read."""
    file = tmp_path / "token"
    file.write_text(FIRST + "\n")
    settings, _ = load({"server": guarded, "server_token_file": file}, environment={})
    with asking(settings, 20) as client:
        assert client.entity("user", "u").known
    settings, _ = load({"server": guarded}, environment={"FOREBAY_SERVER_TOKEN": FIRST})
    with asking(settings, 20) as client:
        assert client.entity("user", "u").known and FIRST not in repr(settings)
    (tmp_path / "forebay.toml").write_text(f'server_token = "{FIRST}"\n')
    with pytest.raises(ConfigError) as raised:
        load({}, file=tmp_path / "forebay.toml", environment={})
    assert FIRST not in str(raised.value)


def test_metrics_can_have_a_door_of_their_own(node: Any) -> None:
    """Who may ask for lookups need not see them."""
    app = create_app(node.engine, lambda: Readiness(True))
    with serving(app, door=Door(metrics=False)) as url, urllib3.PoolManager(retries=False, timeout=20) as http:
        assert http.request("GET", url + "/metrics").status == 404
        assert b"forebay_ready" in app.exposed("")[0]


def test_a_lookups_algebra_has_one_thread() -> None:
    """What `forebay serve` says to it is said before numpy is there to hear it."""
    code = """
import os, sys
from forebay.cli import processes
assert "numpy" not in sys.modules
processes.one_thread_for_algebra()
import numpy as np
a = np.ones((600, 600), np.float32)
a @ a
print(len(os.listdir("/proc/self/task")))
"""
    assert _run(code) == "1"
