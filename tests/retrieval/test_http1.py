"""An answer is the same in whatever pieces it comes, and no bytes make its reader fail in another way than by name."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.retrieval.http1 import AnswerReader, UnreadableAnswer

BODIES = st.binary(max_size=300)
BITS = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 X\r\n\r\n", b"\r\n", b"content-length: 5\r\n", b"5\r\n", b"0\r\n", b"hello",
     b"transfer-encoding: chunked\r\n", b": x\r\n", b"content-length: x\r\n", b"ffffffffffffffff\r\n", b"-1\r\n"]
)  # fmt: skip


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def _read(data: bytes, cuts: list[int], *, most: int = 1000) -> tuple[int, bytes, bool]:
    reader = AnswerReader("http://a", most)
    done = [reader.feed(piece) for piece in _pieces(data, cuts)]
    assert not any(done[:-1])
    if not done[-1]:
        assert reader.feed(b"")
    return reader.status, bytes(reader.body), reader.keep


def _chunked(body: bytes, cuts: list[int]) -> bytes:
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(body, cuts))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunks + b"0\r\nx-trailer: a\r\n\r\n"


@given(BODIES, st.lists(st.integers(0, 500)), st.lists(st.integers(0, 500)))
def test_an_answer_is_the_same_in_any_pieces(body: bytes, cuts: list[int], chunks: list[int]) -> None:
    """By its length, in chunks and to the connection's end; only the last ends the connection."""
    by_length = b"HTTP/1.1 503 X\r\nContent-Length:  %d\r\nx: y\r\n\r\n%b" % (len(body), body)
    assert _read(by_length, cuts) == (503, body, True)
    assert _read(b"HTTP/1.1 103 Early\r\n\r\n" + by_length, cuts) == (503, body, True)
    assert _read(_chunked(body, chunks) if body else by_length, cuts)[1:] == (body, True)
    assert _read(b"HTTP/1.1 200 OK\r\n\r\n" + body, cuts) == (200, body, False)


@given(st.lists(st.one_of(BITS, st.binary(max_size=20)), max_size=12), st.lists(st.integers(0, 300), max_size=5))
def test_no_bytes_are_an_error_without_a_name(bits: list[bytes], cuts: list[int]) -> None:
    """UnreadableAnswer, or ConnectionError at the end; and no more is kept than the bounds allow."""
    reader = AnswerReader("http://a", 100)
    with contextlib.suppress(UnreadableAnswer, ConnectionError):
        for piece in (*_pieces(b"".join(bits), cuts), b""):
            if piece and reader.feed(piece):
                break
    assert len(reader.body) <= 100 + 300


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nmore", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_a_connection_is_kept_where_the_answer_allows_it(head: bytes, keep: bool) -> None:
    """And where nothing came behind it."""
    reader = AnswerReader("http://a", 100)
    assert reader.feed(head) and reader.keep is keep
