"""What the kernel reads of a body is what msgspec reads, and what it declines is msgspec's to judge."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from forebay.errors import BadRequest
from forebay.retrieval.messages import MSGPACK, RankRequest
from forebay.retrieval.scanned import Scanned, rank_request, scanned
from forebay.retrieval.wire import decode
from forebay.segments.state.ids import hash_ids

HEADERS = [(b"content-type", MSGPACK.encode())]
TURNS = 6_000


def _plain(request: RankRequest | Scanned) -> tuple[Any, ...]:
    return request.user, list(request.candidates), request.k, request.generation, request.explain


def _outcome(ask: Any, body: bytes) -> Any:
    try:
        return _plain(ask(body))
    except BadRequest as error:
        return str(error)


@pytest.mark.parametrize(
    "request_",
    [
        RankRequest("u", []),
        RankRequest("ü" * 40, ["i1", "", "a" * 31, "b" * 32, "c" * 240], 0),
        RankRequest("u" * 300, [f"item-{n}" for n in range(70_000)], 70_000, "g1", True),
        RankRequest("u", ["x"] * 20, 255, "", False),
    ],
    ids=str,
)
def test_a_usual_body_is_read_by_the_kernel(request_: RankRequest) -> None:
    found = scanned(msgspec.msgpack.encode(request_))
    assert found is not None and _plain(found) == _plain(request_)
    assert found.hashes.tolist() == hash_ids(request_.candidates).tolist()
    some = np.arange(len(request_.candidates))[::-3]
    assert found.candidates.at(some) == [request_.candidates[i] for i in some.tolist()]


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u"},
        {"candidates": ["i"]},
        {"user": "u", "candidates": ["é"]},
        {"user": "u", "candidates": ["a" * 241]},
        {"user": "u", "candidates": ["i"], "more": 1},
        {"user": "u", "candidates": ["i"], "k": -1},
        {"user": "u", "candidates": ["i"], "k": 5.0},
        {"user": "u", "candidates": ["i"], "k": None},
        {"user": "u", "candidates": ["i"], "explain": 1},
        {"user": "u", "candidates": [b"i"]},
        {"user": b"u", "candidates": ["i"]},
        {"user": "u", "candidates": ["i", 5]},
        {"user": "u", "candidates": {"i": 1}},
        {"user": None, "candidates": []},
        [1],
        None,
    ],
    ids=str,
)
def test_what_is_unusual_is_declined(fields: Any) -> None:
    body = msgspec.msgpack.encode(fields)
    assert scanned(body) is None
    assert _outcome(lambda b: rank_request(b, HEADERS), body) == _outcome(
        lambda b: decode(b, HEADERS, RankRequest), body
    )


def test_fields_that_come_twice_and_bytes_behind_the_end_are_declined() -> None:
    good = msgspec.msgpack.encode({"user": "u", "candidates": ["i"]})
    assert scanned(good) is not None
    assert scanned(good + b"\xc0") is None and scanned(b"") is None
    assert scanned(b"\x83" + good[1:] + msgspec.msgpack.encode("user") + msgspec.msgpack.encode("v")) is None


@pytest.mark.parametrize("seed", range(3))
def test_hostile_bodies_are_read_as_msgspec_reads_them(seed: int) -> None:
    """Damaged, cut and made of odd parts: the same request or the same error, whichever path it takes."""
    chance, read = random.Random(seed), 0
    odd = [
        b"\xc0",
        b"\xc1",
        b"\xd9\xff",
        b"\xda\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\xa1\xff",
        b"\xa0",
    ]
    for _ in range(TURNS):
        fields: dict[str, Any] = {
            "user": chance.choice(["u", "", "ü", "x" * 40]),
            "candidates": [
                chance.choice(["i1", "", "é", "y" * 33]) if chance.random() < 0.2 else "i2" for _ in range(4)
            ],
            "k": chance.choice([0, 5, 127, 128, 65_536, 2**31, 2**32]),
            "generation": chance.choice([None, "g1", ""]),
            "explain": chance.choice([True, False]),
        }
        names = chance.sample(list(fields), chance.randrange(2, 6))
        body = bytearray(msgspec.msgpack.encode({name: fields[name] for name in names}))
        for _ in range(chance.choice([0, 0, 1, 2])):
            at = chance.randrange(len(body) + 1)
            body[at : at + chance.randrange(3)] = chance.choice([*odd, bytes([chance.randrange(256)])])
        if chance.random() < 0.1:
            del body[chance.randrange(len(body) + 1) :]
        data = bytes(body)
        read += scanned(data) is not None
        plain = _outcome(lambda b: decode(b, HEADERS, RankRequest), data)
        assert _outcome(lambda b: rank_request(b, HEADERS), data) == plain, data
    assert read > TURNS // 10  # the kernel had its part in it
