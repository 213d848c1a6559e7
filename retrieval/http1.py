"""HTTP/1.1 as the clients speak it: the bytes of a request, and an answer out of the bytes that come. No sockets here:
Client and AsyncClient read and write the same way over their own.

An answer has a length, chunks, or ends with its connection. What is larger than the bounds, or framed in another way,
is no answer.
"""

from __future__ import annotations

from forebay.errors import ServerUnavailable

HEAD_BYTES = 64 << 10  # of a status line with its headers; a server of ours sends a hundred
DO = "Is it a Forebay server?"
_HEX = frozenset(b"0123456789abcdefABCDEF")


class UnreadableAnswer(ServerUnavailable):
    """Somebody answered, and not as a lookup server does. Asking again would bring the same."""


def request_head(method: str, target: str, host: str, lines: str) -> bytes:
    """Everything of a head but its last lines: `lines` are whole, each with its end."""
    return f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n{lines}".encode("latin-1")


class AnswerReader:
    """One answer. `feed` what comes until it is whole; then `status`, `headers` (names in small letters), `body`, and
    `keep`: whether the connection may carry another request."""

    __slots__ = (
        "_body",
        "_buffer",
        "_chunked",
        "_left",
        "_most",
        "_place",
        "_where",
        "begun",
        "headers",
        "keep",
        "status",
    )

    def __init__(self, where: str, most_bytes: int) -> None:
        """Bodies of more than `most_bytes` are refused. Errors name the server at `where`."""
        self.status, self.keep, self.begun = 0, True, False
        self.headers: dict[bytes, bytes] = {}
        self._where, self._most, self._place = where, most_bytes, self._in_head
        self._buffer = bytearray()
        self._body = bytearray()
        self._left = 0
        self._chunked = False

    @property
    def elsewhere(self) -> bool:
        """Whether another server may have an answer where this one has none."""
        return self.status == 429 or self.status >= 500

    @property
    def body(self) -> bytearray:
        """Of an answer that is whole."""
        return self._body

    def feed(self, data: bytes) -> bool:
        """Take in what came; b"" is the connection's end. True where the answer is whole. Raises UnreadableAnswer, and
        ConnectionError where the connection ended before its answer."""
        if not data:
            if self.begun and self._place == self._to_the_end:
                return True
            raise ConnectionError("it ended inside an answer" if self.begun else "it ended before an answer")
        self.begun = True
        return self._place(data)

    def _in_head(self, data: bytes) -> bool:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if max(end, len(self._buffer) if end < 0 else 0) > HEAD_BYTES:
            raise self._unreadable(f"an answer's headers have more than {HEAD_BYTES} bytes")
        if end < 0:
            if not b"HTTP/1.".startswith(self._buffer[:7]):
                raise self._unreadable("the answer is not HTTP/1.1")
            return False
        rest = bytes(self._buffer[end + 4 :])
        self._read_head(bytes(self._buffer[:end]))
        self._buffer.clear()
        if self.status < 200:  # the answer is yet to come
            return self._in_head(rest) if rest else False
        self._frame()
        if self._place == self._by_length and not self._left:
            self.keep &= not rest
            return True
        return self._place(rest) if rest else False

    def _read_head(self, head: bytes) -> None:
        line, *lines = head.split(b"\r\n")
        if not line.startswith(b"HTTP/1.") or not line[9:12].isdigit():
            raise self._unreadable("the answer is not HTTP/1.1")
        self.status = int(line[9:12])
        self.keep = line[7:8] != b"0"
        self.headers = {}
        for one in lines:
            name, colon, value = one.partition(b":")
            if not colon:
                raise self._unreadable("an answer's header has no name")
            name, value = name.lower(), value.strip()
            if name == b"content-length" and self.headers.get(name, value) != value:
                raise self._unreadable("an answer has two lengths")
            self.headers[name] = value
        if b"close" in self.headers.get(b"connection", b"").lower():
            self.keep = False

    def _frame(self) -> None:
        """How the body ends."""
        coding, length = self.headers.get(b"transfer-encoding"), self.headers.get(b"content-length")
        if self.status in (204, 304):
            self._place, self._left = self._by_length, 0
        elif coding is not None:
            if coding.lower() != b"chunked" or length is not None:
                raise self._unreadable("an answer's body ends in no known way")
            self._place = self._by_chunks
        elif length is not None:
            if not length.isdigit() or len(length) > 18:
                raise self._unreadable("an answer's length is no number")
            self._place, self._left = self._by_length, int(length)
            self._bound(self._left)
        else:
            self._place, self.keep = self._to_the_end, False

    def _by_length(self, data: bytes) -> bool:
        if len(data) > self._left:  # nobody asked for what is behind it
            self.keep, data = False, data[: self._left]
        self._body += data
        self._left -= len(data)
        return not self._left

    def _to_the_end(self, data: bytes) -> bool:
        self._body += data
        self._bound(len(self._body))
        return False

    def _by_chunks(self, data: bytes) -> bool:
        """Sizes in hexadecimal, each before its bytes; the last is 0, and trailers behind it are read over."""
        self._buffer += data
        while True:
            if self._left:  # the rest of a chunk, and the line's end behind it
                if len(self._buffer) < self._left:
                    return False
                if self._buffer[self._left - 2 : self._left] != b"\r\n":
                    raise self._unreadable("an answer's chunk is longer than it says")
                self._body += self._buffer[: self._left - 2]
                del self._buffer[: self._left]
                self._left = 0
            end = self._buffer.find(b"\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_BYTES:
                    raise self._unreadable("an answer's chunk has no size")
                return False
            if self._chunked:  # behind the last chunk: trailers, up to an empty line
                del self._buffer[: end + 2]
                if not end:
                    self.keep &= not self._buffer
                    return True
                continue
            digits = bytes(self._buffer[:end]).partition(b";")[0].strip()
            if not digits or len(digits) > 15 or not _HEX.issuperset(digits):
                raise self._unreadable("an answer's chunk has no size")
            del self._buffer[: end + 2]
            size = int(digits, 16)
            self._bound(len(self._body) + size)
            self._chunked, self._left = not size, size + 2 if size else 0

    def _bound(self, size: int) -> None:
        if size > self._most:
            raise self._unreadable(f"an answer of more than {self._most} bytes")

    def _unreadable(self, what: str) -> UnreadableAnswer:
        return UnreadableAnswer(what, where=self._where, do=DO)
