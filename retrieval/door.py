"""How a server is entered: with TLS or without, with a token or by whoever reaches it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from forebay.errors import ConfigError
from forebay.retrieval.access import TokensFile


@dataclass(frozen=True)
class Door:
    """`certificate` (PEM, with those of its issuers behind it) and its `key`: TLS 1.2 or later. `tokens`: a file of
    hashes. `metrics`: whether /metrics is answered here, too."""

    certificate: Path | None = None
    key: Path | None = None
    tokens: Path | None = None
    metrics: bool = True

    def tls(self) -> ssl.SSLContext | None:
        """None for plain HTTP. Raises ConfigError for files that cannot be used."""
        if self.certificate is None:
            if self.key is not None:
                raise ConfigError("server_key has no server_certificate", where=str(self.key), do="Name both, or none")
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # A key that is encrypted would make the process ask for its password at a terminal.
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or getattr(error, "reason", None) or "it cannot be read"
            raise ConfigError(
                f"no certificate for TLS: {said}",
                where=f"{self.certificate}" + (f", {self.key}" if self.key else ""),
                do="Name a certificate and its key in PEM, the key without a password",
            ) from None
        return context

    def tokens_file(self) -> TokensFile | None:
        """None where nobody is asked for a token. Raises ConfigError."""
        return None if self.tokens is None else TokensFile(self.tokens)
