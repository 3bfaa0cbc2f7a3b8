"""The scratch memory of attention kernels: named parts of f32 elements, one behind the other."""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64
from rlx.ir.dtypes import f32

_LINE = 64


def scratch_parts(elements: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each part, in order: whole cache lines."""
    return {name: -(-count * f32.itemsize // _LINE) * _LINE for name, count in elements.items()}


def scratch_places(e: FunctionEmitter, parts: Mapping[str, int]) -> dict[str, ir.Value]:
    """The address of each part in the worker's scratch memory."""
    places: dict[str, ir.Value] = {}
    before = 0
    for name, nbytes in parts.items():
        places[name] = e.element_pointer(e.scratch, f32, I64(before // f32.itemsize))
        before += nbytes
    return places
