"""How much of a server one connection may take, in bytes and in time.

What uvicorn bounds with httptools: nothing of this but idle kept connections. A header of any length is gathered, an
open connection that says nothing stays, and a body comes as slowly as it likes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerLimits:
    """What a connection and its requests may take. The defaults are far above what a client of ours needs.

    The bytes are those that arrive; one read of the socket (256 KiB) may come on top before they are counted.
    """

    header_bytes: int = 16 << 10  # request line and headers together, and the trailers of a chunked body
    headers: int = 100  # lines of them
    body_bytes: int = 1 << 20  # 10,000 candidates of 64 bytes, with room to spare
    held_bytes: int = 64 << 20  # of bodies that are read and not yet answered, of all connections together
    connections: int = 1_000  # of one process; one more is told so, and ended
    pipelined: int = 16  # requests that wait behind the first one on their connection; the next ends it
    header_s: float = 5.0  # from a connection's start, or a request's first byte, to the end of its headers
    body_s: float = 10.0  # from there to the end of its body
    idle_s: float = 75.0  # between two requests: longer than the minute after which proxies and clients drop theirs
    write_s: float = 10.0  # an answer that its peer does not take


LOOK_S = 0.3  # between two looks at every connection: a bound in seconds is kept to within it
