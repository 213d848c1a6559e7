"""The manifest of one generation: whose vectors these are, from which offsets on, and what computed them.

    {"sha256": "…", "generation": {"name": "g1", …}}

The checksum is over the bytes of the inner object: a flipped digit of an offset would be a valid manifest of another
cut. One of an older version is the inner object alone, and is read without a check.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

import msgspec

from forebay import files
from forebay.clock import now_ms
from forebay.errors import GenerationMismatch, GenerationUnavailable, StoreCorrupt

MANIFEST = "manifest.json"
ENCODERS = 2  # counts the ways in which the built-in encoders were computed: 1 was torch alone
REMEDY = "Bring the file from a copy of this folder, or build another generation: forebay backfill --generation NEW"


class _Sealed(msgspec.Struct):
    sha256: str
    generation: msgspec.Raw


class Generation(msgspec.Struct, frozen=True):
    """One bundle's vectors, index and offsets, served as one.

    `cut` is a vector of offsets in the clean logs: state folded up to it is what the first vectors were encoded from,
    and the stream goes on there. `platform` names what the numbers depend on: vectors are bit-equal within one, and
    within 1e-5 across two. `since` has the segments that do not know all that the others know: by title, the moment
    (ms) from which on their history is complete.
    """

    name: str
    bundle_hash: str
    partitions: dict[str, int]  # of the clean logs, by side
    cut: dict[str, dict[int, int]]  # topic -> partition -> next offset
    platform: str
    created: int  # ms
    since: dict[str, int] = msgspec.field(default_factory=dict)

    @classmethod
    def new(
        cls,
        name: str,
        bundle_hash: str,
        partitions: dict[str, int],
        cut: dict[str, dict[int, int]],
        device: str = "cpu",
        since: dict[str, int] | None = None,
    ) -> Generation:
        """A generation made here and now."""
        return cls(name, bundle_hash, partitions, cut, numeric_platform(device), now_ms(), since or {})

    def save(self, directory: Path) -> None:
        """Write the manifest into `directory`. After a crash there is the old one or the new one, never a half."""
        directory.mkdir(parents=True, exist_ok=True)
        inner = msgspec.json.format(msgspec.json.encode(self), indent=2)
        sealed = _Sealed(hashlib.sha256(inner).hexdigest(), msgspec.Raw(inner))
        files.write(directory / MANIFEST, msgspec.json.encode(sealed) + b"\n")

    @classmethod
    def load(cls, directory: Path, *, name: str | None = None, bundle_hash: str | None = None) -> Generation:
        """The generation in `directory`.

        Raises GenerationUnavailable when there is none, StoreCorrupt when its manifest is not what was written, and
        GenerationMismatch when it is not the one that `name` or `bundle_hash` ask for.
        """
        path = directory / MANIFEST
        try:
            found = _opened(path.read_bytes())
        except FileNotFoundError:
            raise GenerationUnavailable(
                "there is no generation",
                where=str(path),
                do="Run: forebay backfill --generation NAME, or name its --data folder",
            ) from None
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise StoreCorrupt(f"the manifest is not what was written: {error}", where=str(path), do=REMEDY) from None
        for word, wanted, stored in (("name", name, found.name), ("bundle", bundle_hash, found.bundle_hash)):
            if wanted is not None and wanted != stored:
                raise GenerationMismatch(
                    f"{word} {stored} where {wanted} is wanted",
                    where=str(path),
                    do="Was the folder renamed? Else build another generation: forebay backfill --generation NEW",
                )
        return found


def _opened(data: bytes) -> Generation:
    """The generation in a manifest's bytes. Raises ValueError or msgspec's errors."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
    except msgspec.ValidationError:  # of an older version; what lacks a field of this shape lacks all of that one
        return msgspec.json.decode(data, type=Generation)
    inner = bytes(sealed.generation)
    if hashlib.sha256(inner).hexdigest() != sealed.sha256:
        raise ValueError("its checksum is another one")
    return msgspec.json.decode(inner, type=Generation)


def numeric_platform(device: str = "cpu") -> str:
    """What vectors depend on besides state and bundle, as one line of text. Imports none of what it names."""
    parts = [f"{platform.machine()} {_cpu_family()}".strip(), f"encoders {ENCODERS}"]
    for package in ("torch", "numpy", "numba"):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            parts.append(f"{package} absent")
    return "; ".join([*parts, device])


def _cpu_family() -> str:
    """Vendor and family, and the widest vectors, which decide the kernels that a BLAS picks; "" off Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", "").split())
    widest = next((flag for flag in ("avx512f", "avx2", "avx") if flag in flags), "")
    return " ".join(filter(None, [facts.get("vendor_id", ""), facts.get("cpu family", ""), widest]))
