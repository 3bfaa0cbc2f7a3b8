"""Functions that kernels of one module share: each is defined on first use, private to the module.

A function works on all lanes at once; its name carries its type, so that f32 in 16 lanes and f32 in one are two
functions made by the same Python code, and give equal bits in each lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from rlx.codegen.llvm.types import F64, I32, lanes_of, suffix, undefined
from rlx.codegen.llvm.values import ValueEmitter, declare, function_attributes

Body = Callable[..., ir.Value]


def shared(f: ValueEmitter, name: str, arguments: Sequence[ir.Value], body: Body, *, inline: bool = True) -> ir.Value:
    """Call `name` on the arguments; its result has the first one's type. body(emitter, *parameters) gives its value."""
    full = f"rlx.{name}.{suffix(arguments[0].type)}"
    function = f.module.globals.get(full)
    if function is None:
        type_ = arguments[0].type
        function = ir.Function(f.module, ir.FunctionType(type_, [a.type for a in arguments]), full)
        function.linkage = "internal"
        function.attributes = function_attributes(f.target, "alwaysinline" if inline else "noinline")
        inner = ValueEmitter(f.module, ir.IRBuilder(function.append_basic_block("entry")), f.target)
        inner.builder.ret(body(inner, *function.args))
    return f.builder.call(function, arguments)


def libm(f: ValueEmitter, name: str, arguments: Sequence[ir.Value]) -> ir.Value:
    """The C library's double function `name` in each lane; f32 lanes go through f64 and are rounded at the end."""
    element = arguments[0].type

    def body(inner: ValueEmitter, *parameters: ir.Value) -> ir.Value:
        b = inner.builder
        wide = [inner.convert_float(p, F64) for p in parameters]
        callee = declare(inner.module, name, F64, [F64] * len(wide))
        lanes = lanes_of(element)
        if lanes == 1:
            result: ir.Value = b.call(callee, wide)
        else:
            result = undefined(wide[0].type)
            for lane in map(I32, range(lanes)):
                one = b.call(callee, [b.extract_element(w, lane) for w in wide])
                result = b.insert_element(result, one, lane)
        return result if suffix(result.type) == suffix(element) else b.fptrunc(result, element)

    return shared(f, f"libm.{name}", arguments, body, inline=False)
