"""Who may ask: bearer tokens, of which a server knows the hashes alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Sequence
from pathlib import Path

from forebay.errors import ConfigError

MOST = 2  # at once: a new one is added, callers change over, and the old one is taken out
_MOST_BYTES = 4_096
_log = logging.getLogger("forebay.server")


class Access:
    """Admits the tokens whose SHA-256 it is given. They are random and long, so that a plain hash keeps them."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self._hashes = tuple(hashes)

    def admits(self, authorization: bytes | None) -> bool:
        """Whether a request with this header may go on. It takes as long whichever of the tokens it has, or none."""
        scheme, _, token = (authorization or b"").partition(b" ")
        return self._knows(token.strip()) and scheme.lower() == b"bearer"

    def admits_person(self, authorization: bytes | None) -> bool:
        """As `admits`, and with the token as the password of HTTP's Basic scheme, whatever the name: what a browser
        asks a person for. It keeps that in memory, sends it to this address and port alone, and forgets it with its
        last window; nothing is kept here, so that a token which is taken out ends every such visit."""
        scheme, _, text = (authorization or b"").partition(b" ")
        if scheme.lower() != b"basic":
            return self.admits(authorization)
        try:
            given = base64.b64decode(text.strip(), validate=True)
        except binascii.Error:
            return False
        return self._knows(given.partition(b":")[2])

    def _knows(self, token: bytes) -> bool:
        given = hashlib.sha256(token).digest()
        found = [hmac.compare_digest(given, known) for known in self._hashes]
        return any(found)


class TokensFile:
    """The hashes of a file, one in hex on each line, MOST of them; `#` begins a remark.

    A file that changes is read again, so that tokens rotate without a restart. One that cannot be used then is told of
    in the log, and what was known stays.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError, which names the file and the line and never says what stands there."""
        self._path = path
        self._stamp = self._stamped()
        self.access = self._read()

    def look(self) -> None:
        """Read the file again if it changed. A stat, most of the time."""
        try:
            stamp = self._stamped()
            if stamp != self._stamp:
                self._stamp = stamp
                self.access = self._read()
                _log.info("tokens read again from %s", self._path)
        except ConfigError as error:
            if self._stamp is not None:
                _log.error("tokens stay as they were: %s", error)
            self._stamp = None

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError as error:
            raise self._wrong(error.strerror or str(error)) from None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Access:
        try:
            with self._path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1).decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise self._wrong(getattr(error, "strerror", None) or "it is not a text") from None
        hashes = []
        for number, line in enumerate(text.splitlines(), start=1):
            if said := line.partition("#")[0].strip():
                try:
                    hashes.append(bytes.fromhex(said))
                except ValueError:
                    raise self._wrong(f"line {number} is no hash") from None
                if len(hashes[-1]) != 32:
                    raise self._wrong(f"line {number} is no SHA-256")
        if not 1 <= len(hashes) <= MOST or len(text) > _MOST_BYTES:
            raise self._wrong(f"it has {len(hashes)} hashes")
        return Access(hashes)

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(
            f"tokens cannot be read: {what}",
            where=str(self._path),
            do=f"Write 1 to {MOST} lines, each the SHA-256 of a token in hex: printf %s TOKEN | sha256sum",
        )
