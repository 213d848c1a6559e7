"""An array with zeros behind it, for tables that grow with what they hold."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

A = TypeVar("A", bound=npt.NDArray[Any])


def grown(array: A, more: int) -> A:
    """With so many zeros behind it. They are not touched, so that the system gives no memory for them yet: a row of
    state has kilobytes."""
    made = np.zeros((len(array) + more, *array.shape[1:]), array.dtype)
    made[: len(array)] = array
    return cast("A", made)
