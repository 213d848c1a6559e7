"""Loads, stores and fences that processors and compilers keep in order, for kernels over memory that another process
writes.

On x86 they cost what plain ones do, and the compiler is what they hold back; on ARM they are the barriers it needs.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


@intrinsic
def load_acquire(typing: Any, words: Any, at: Any) -> Any:
    """`words[at]` of uint64 [n]; nothing that stands behind it is read before it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        return builder.load_atomic(pointer, "acquire", 8, typ=ir.IntType(64))

    return types.uint64(words, at), generate


@intrinsic
def store_release(typing: Any, words: Any, at: Any, value: Any) -> Any:
    """`words[at] = value` of uint64 [n]; whoever sees it sees all that was written before it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        # The builder's own store_atomic asks a pointer for its type, which pointers no longer have (llvmlite 0.50).
        builder._insert(ir.instructions.StoreAtomicInstr(builder.block, args[2], pointer, "release", 8))
        return context.get_dummy_value()

    return types.void(words, at, types.uint64), generate


@intrinsic
def fence_acquire(typing: Any) -> Any:
    """What was read before it is read before what stands behind it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("acquire")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def fence_release(typing: Any) -> Any:
    """What was written before it is seen before what stands behind it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("release")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def half_to_float(typing: Any, bits: Any) -> Any:
    """float32 of a float16 whose bits these are (uint16): numba has no float16 of its own on processors."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]], source_etype=ir.IntType(64))
