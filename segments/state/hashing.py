"""xxh3 of many texts in one buffer, compiled. Its twin is the xxhash library, which hashes one text after another.

Source: the specification of XXH3 (Yann Collet, 2019; seed 0), for texts of up to 240 bytes. Longer ones go to the
library: they need another path of the algorithm, and ids have 256 bytes at most.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from xxhash import xxh3_64_intdigest

from forebay.arrays import Bytes, Ints

LONGEST = 240  # bytes
# None of these makes an array, and nobody counts who holds those that are handed on: that costs two locked additions
# each time, and half of a hash (numba's option for it has an underscore).
_bare = njit(cache=True, nogil=True, _nrt=False, forceinline=True)
_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
        "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
        "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
)
_U = np.uint64
_P1, _P2, _P3 = _U(0x9E3779B185EBCA87), _U(0xC2B2AE3D27D4EB4F), _U(0x165667B19E3779F9)
_MX1, _MX2, _LOW = _U(0x165667919E3779F9), _U(0x9FB21C651E98DF25), _U(0xFFFFFFFF)


def hashes_of(data: Bytes, starts: Ints, ends: Ints) -> Ints:
    """int64 [n]: the hash of `data[starts[i]:ends[i]]` for each i, as `xxh3_64` gives it, with its bits as a signed
    number."""
    found = np.empty(len(starts), np.uint64)
    long = _hash_all(data, starts, ends, found)
    if long:
        for place in np.flatnonzero(ends - starts > LONGEST).tolist():
            found[place] = xxh3_64_intdigest(data[starts[place] : ends[place]].tobytes())
    return found.view(np.int64)


@_bare
def find_texts(data: Any, starts: Any, ends: Any) -> int:
    """Where each text of `data` starts and ends, which zero bytes part; returns how many texts there are. Not more than
    there is room for are told."""
    count, start = 0, 0
    for at in range(len(data)):
        if data[at] == 0:
            if count < len(ends):
                starts[count], ends[count] = start, at
            count, start = count + 1, at + 1
    if count < len(ends):
        starts[count], ends[count] = start, len(data)
    return count + 1 if len(ends) > 0 else 0


@_bare
def _hash_all(data: Any, starts: Any, ends: Any, found: Any) -> bool:
    long = False
    for i in range(len(starts)):
        if ends[i] - starts[i] <= 240:
            found[i] = xxh3(data, starts[i], ends[i])
        else:
            long = True
    return long


@_bare
def xxh3(data: Any, start: int, end: int) -> Any:
    """uint64: the hash of `data[start:end]`, of 240 bytes at most."""
    size = end - start
    length = _U(size)
    if size > 128:
        acc = length * _P1
        for i in range(8):
            acc += _mix(data, start + 16 * i, 16 * i)
        acc = _avalanche(acc)
        for i in range(8, size // 16):
            acc += _mix(data, start + 16 * i, 16 * (i - 8) + 3)
        return _avalanche(acc + _mix(data, end - 16, 136 - 17))
    if size > 16:
        acc = length * _P1
        if size > 32:
            if size > 64:
                if size > 96:
                    acc += _mix(data, start + 48, 96) + _mix(data, end - 64, 112)
                acc += _mix(data, start + 32, 64) + _mix(data, end - 48, 80)
            acc += _mix(data, start + 16, 32) + _mix(data, end - 32, 48)
        return _avalanche(acc + _mix(data, start, 0) + _mix(data, end - 16, 16))
    if size > 8:
        low = _read64(data, start) ^ (_read64(_SECRET, 24) ^ _read64(_SECRET, 32))
        high = _read64(data, end - 8) ^ (_read64(_SECRET, 40) ^ _read64(_SECRET, 48))
        return _avalanche(length + _swapped(low) + high + _folded(low, high))
    if size > 3:
        both = _read32(data, end - 4) + (_read32(data, start) << _U(32))
        h = both ^ (_read64(_SECRET, 8) ^ _read64(_SECRET, 16))
        h ^= _rotated(h, _U(49)) ^ _rotated(h, _U(24))
        h *= _MX2
        h ^= (h >> _U(35)) + length
        h *= _MX2
        return h ^ (h >> _U(28))
    if size > 0:
        first, middle, last = _U(data[start]), _U(data[start + size // 2]), _U(data[end - 1])
        both = (first << _U(16)) | (middle << _U(24)) | last | (length << _U(8))
        return _finished(both ^ (_read32(_SECRET, 0) ^ _read32(_SECRET, 4)))
    return _finished(_read64(_SECRET, 56) ^ _read64(_SECRET, 64))


@_bare
def _read32(data: Any, place: int) -> Any:
    at = _U(place)  # a place that may be negative is tested for each byte, and the four loads do not become one
    low = _U(data[at]) | _U(data[at + _U(1)]) << _U(8)
    return low | _U(data[at + _U(2)]) << _U(16) | _U(data[at + _U(3)]) << _U(24)


@_bare
def _read64(data: Any, at: int) -> Any:
    return _read32(data, at) | _read32(data, at + 4) << _U(32)


@_bare
def _folded(a: Any, b: Any) -> Any:
    """The 128-bit product, its halves xored."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _U(32), b & _LOW, b >> _U(32)
    cross = (a_low * b_low >> _U(32)) + (a_high * b_low & _LOW) + a_low * b_high
    upper = (a_high * b_low >> _U(32)) + (cross >> _U(32)) + a_high * b_high
    return upper ^ (a * b)


@_bare
def _mix(data: Any, at: int, secret: int) -> Any:
    return _folded(_read64(data, at) ^ _read64(_SECRET, secret), _read64(data, at + 8) ^ _read64(_SECRET, secret + 8))


@_bare
def _avalanche(h: Any) -> Any:
    h ^= h >> _U(37)
    h *= _MX1
    return h ^ (h >> _U(32))


@_bare
def _finished(h: Any) -> Any:
    h ^= h >> _U(33)
    h *= _P2
    h ^= h >> _U(29)
    h *= _P3
    return h ^ (h >> _U(32))


@_bare
def _rotated(h: Any, bits: Any) -> Any:
    return (h << bits) | (h >> (_U(64) - bits))


@_bare
def _swapped(h: Any) -> Any:
    out = _U(0)
    for i in range(8):
        out = out << _U(8) | ((h >> _U(8 * i)) & _U(255))
    return out
