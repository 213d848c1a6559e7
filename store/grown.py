"""An array with zeros behind it, for tables that grow with what they hold."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

A = TypeVar("A", bound=npt.NDArray[Any])


def grown(array: A, more: int) -> A:
    """With so many zeros behind it. They are not touched, so that the system gives no memory for them yet: a row of
    state has kilobytes. For the same reason there is room for four times as many behind those, so that two of three
    doublings copy nothing.

    `array` is what was grown last, or no part of another one: what lies behind it in its room is taken for zeros."""
    count = len(array) + more
    room = array.base
    if not isinstance(room, np.ndarray) or not _begins(room, array) or len(room) < count:
        try:
            room = np.zeros((4 * count, *array.shape[1:]), array.dtype)
        except MemoryError:  # where address space is counted as memory
            room = np.zeros((count, *array.shape[1:]), array.dtype)
        room[: len(array)] = array
    return cast("A", room[:count])


def _begins(room: npt.NDArray[Any], array: npt.NDArray[Any]) -> bool:
    """Whether `array` is the beginning of `room`."""
    same = room.dtype == array.dtype and room.shape[1:] == array.shape[1:] and room.strides == array.strides
    return same and bool(room.ctypes.data == array.ctypes.data)
