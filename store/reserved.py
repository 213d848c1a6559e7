"""A file mapped into more address space than it has bytes: it grows where it lies, and whoever reads it maps it once.

What lies behind the end of the file must not be touched: the system ends the process (SIGBUS). `grow` has the bytes
allocated before it returns, so that a full device is an error and no signal. A filesystem that copies on writing
(btrfs, ZFS) may still find itself full later.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from forebay.errors import StoreError, TableFull

Words = npt.NDArray[np.uint64]

_NORESERVE = 0x4000  # Linux's MAP_NORESERVE, which Python's mmap has no name for
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Reserved:
    """`words` uint64 [reserve_bytes // 8] over the file at `path`. The memory lives as long as any array over it."""

    def __init__(self, path: Path, reserve_bytes: int, *, writable: bool) -> None:
        """The writer makes the file if it is not there. Raises FileNotFoundError for a reader, and StoreError where so
        much address space is not to be had."""
        self.path, self.reserve_bytes = path, reserve_bytes
        self._file = os.open(path, (os.O_RDWR | os.O_CREAT) if writable else os.O_RDONLY, 0o640)
        try:
            self.words = _mapped(self._file, reserve_bytes, writable, path)
        except BaseException:
            os.close(self._file)
            raise

    @property
    def size_bytes(self) -> int:
        """What is allocated: the file's length now."""
        return os.fstat(self._file).st_size

    def grow(self, size_bytes: int) -> None:
        """Allocate up to `size_bytes`, zeros where nothing was. Raises TableFull; what there was goes on."""
        have = self.size_bytes
        if size_bytes <= have:
            return
        if size_bytes > self.reserve_bytes:
            raise TableFull(
                f"{size_bytes:,} bytes are more than the {self.reserve_bytes:,} reserved", where=str(self.path)
            )
        try:
            os.posix_fallocate(self._file, have, size_bytes - have)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise TableFull(
                f"no room for {size_bytes - have:,} bytes more: {error.strerror}",
                where=str(self.path),
                do="Make room on that device; the rows that are there go on being served",
            ) from None

    def close(self) -> None:
        """Let go of the file; arrays over it stay what they are."""
        os.close(self._file)
        del self.words


def _mapped(file: int, length: int, writable: bool, path: Path) -> Words:
    # Not by Python's mmap: it refuses to map more than the file is long.
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address = _libc.mmap(None, length, protection, mmap.MAP_SHARED | _NORESERVE, file, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        reason = os.strerror(ctypes.get_errno())
        raise StoreError(f"cannot reserve {length:,} bytes of address space: {reason}", where=str(path))
    buffer = (ctypes.c_uint8 * length).from_address(address)
    weakref.finalize(buffer, _libc.munmap, address, length).atexit = False
    words: Words = np.frombuffer(memoryview(buffer), np.uint64)
    words.flags.writeable = writable
    return words
