"""Asking memory ahead, for kernels that read rows from all over a large array."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LINE_BYTES = 64  # of a cache line, on the processors that numba compiles for


@intrinsic
def prefetch(typing: Any, values: Any, at: Any) -> Any:
    """Ask for the cache line of `values[at]`, of an array of one dimension; nothing waits for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        array = context.make_array(kind)(context, builder, args[0])
        pointer = builder.gep(array.data, [args[1]], source_etype=context.get_data_type(kind.dtype))
        i32 = ir.IntType(32)
        taken = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, taken, "llvm.prefetch.p0")
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(values, at), generate
