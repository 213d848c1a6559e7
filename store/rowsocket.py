"""Rows of users that are not in the shared table, from the one process that may read the store: over a Unix socket.

    request   bytes of all that follows u4 | how many hashes u4 | hashes i8 each | id in UTF-8, or nothing
    answer    to an id: bytes u4, and the partition u2 with the record; 0 bytes where there is no such user

The hashes are of users that were asked for lately, wherever their rows were found: what is asked for often is counted
where it is decided who is in memory. A request without an id has no answer.

A secondary instance of RocksDB in each process would have to catch up before each read, or answer from an older copy,
and would have its own memory; the replica is told what is asked for in any case (benchmarks/serving/users.py has both).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from forebay.arrays import Ints
from forebay.errors import ForebayError, ServerUnavailable
from forebay.events import MAX_ID_BYTES
from forebay.store.vectors import Part

log = logging.getLogger("forebay.copy")

CONNECTIONS = 256  # at once; what comes beyond is closed
HASHES = 4096  # in one request
_MOST_BYTES = 4 + HASHES * 8 + MAX_ID_BYTES
_WAIT_S = 1.0  # for an answer: then the replica is busy with something else, or gone
_IDLE = 8  # connections that are kept
_HEAD = struct.Struct("<I")


class RowServer:
    """In the replica's process: a thread for each connection. `fetch` is asked for rows, `count` is told of hashes."""

    def __init__(self, folder: Path, fetch: Callable[[str], Part | None], count: Callable[[Ints], None]) -> None:
        """Listens in `folder` from now on, in the place of one before it."""
        self._fetch, self._count = fetch, count
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _named(folder) as name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            self._listener.bind(name)
        self._listener.listen(128)
        self._thread = threading.Thread(target=self._accept, name="rows", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        with contextlib.suppress(OSError):  # wakes the thread that waits in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(_WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                room = len(self._open) < CONNECTIONS
                if room:
                    self._open.add(connection)
            if room:
                threading.Thread(target=self._serve, args=(connection,), name="rows", daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                while (body := _received(connection, _MOST_BYTES)) is not None:
                    count = int.from_bytes(body[:4], "little")
                    end = 4 + 8 * count
                    if end > len(body):
                        return
                    if count:
                        # A copy that may be written: of other arrays the kernel would be compiled anew.
                        self._count(np.frombuffer(bytearray(body[4:end]), np.int64))
                    if end < len(body):
                        connection.settimeout(_WAIT_S)
                        connection.sendall(_told(self._fetch(body[end:].decode())))
                        connection.settimeout(None)
        except (OSError, UnicodeDecodeError):
            return  # who asked is gone, or speaks something else
        except ForebayError as error:
            log.error("a row cannot be read: %s", error)
        finally:
            with self._lock:
                self._open.discard(connection)


class RowClient:
    """In a process that answers lookups. Any number of threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: deque[socket.socket] = deque()

    def fetch(self, user: str, seen: Ints) -> Part | None:
        """The user's row, None where there is none; and the replica is told of `seen` int64 hashes. Raises
        ServerUnavailable within two seconds where the replica does not answer."""
        request = _framed(seen, user.encode())
        try:
            try:
                return self._asked(self._idle.pop(), request)
            except IndexError:
                return self._asked(self._connected(), request)
            except TimeoutError:
                raise
            except OSError:  # a connection to a replica of before
                return self._asked(self._connected(), request)
        except OSError as error:
            raise ServerUnavailable(
                f"the user is not in memory, and the replica does not answer: {error.strerror or error}",
                where=str(self._folder),
                do="See that the replica of this node runs; users in memory go on being answered",
            ) from None

    def tell(self, seen: Ints) -> None:
        """Tell the replica of `seen` int64 hashes, if it is there."""
        with contextlib.suppress(OSError):
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connected()
            try:
                connection.sendall(_framed(seen, b""))
            except OSError:
                connection.close()
                raise
            self._kept(connection)

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            self._idle.pop().close()

    def _asked(self, connection: socket.socket, request: bytes) -> Part | None:
        try:
            connection.sendall(request)
            body = _received(connection, 1 << 24)
            if body is None:
                raise ConnectionResetError("the connection was closed")
        except BaseException:
            connection.close()
            raise
        self._kept(connection)
        return Part.of([body]) if body else None

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_WAIT_S)
            with _named(self._folder) as name:
                connection.connect(name)
        except BaseException:
            connection.close()
            raise
        return connection

    def _kept(self, connection: socket.socket) -> None:
        if len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[str]:
    """The socket's name, by way of the folder's descriptor: a name may have 107 bytes, and folders are longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/rows.sock"
    finally:
        os.close(descriptor)


def _framed(seen: Ints, name: bytes) -> bytes:
    hashes = seen[-HASHES:].astype("<i8").tobytes()
    return b"".join((_HEAD.pack(4 + len(hashes) + len(name)), _HEAD.pack(len(hashes) // 8), hashes, name))


def _told(part: Part | None) -> bytes:
    if part is None:
        return _HEAD.pack(0)
    body = int(part.partitions[0]).to_bytes(2, "little") + part.records[0]
    return _HEAD.pack(len(body)) + body


def _received(connection: socket.socket, most: int) -> bytes | None:
    """One frame; None at the end. Raises OSError for one that is longer."""
    head = _exactly(connection, 4)
    if head is None:
        return None
    length = int.from_bytes(head, "little")
    if length > most:
        raise OSError(f"a frame of {length} bytes")
    return _exactly(connection, length) if length else b""


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    found = b""
    while len(found) < length:
        part = connection.recv(length - len(found))
        if not part:
            return None
        found = found + part if found else part
    return found
