"""Modules written down function by function, so that their objects leave memory as they grow.

llvmlite's objects take some twenty times the room of their text and refer to each other in circles, which only Python's
collector undoes, late: the instructions of a large model would stay until its last kernel is emitted.
"""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.kernel import Kernel
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.target import Target


class WrittenModule:
    """A module for `target` to which kernels are added and whose text is then taken, once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._module = new_module(target)
        self._definitions: dict[str, str] = {}

    def add(self, symbol: str, kernel: Kernel) -> None:
        """Emit `kernel` as the function `symbol`. Raises UnsupportedKernel."""
        emit_kernel(self._module, symbol, kernel, self._target)
        for function in self._module.functions:
            if function.blocks:
                self._definitions[function.name] = str(function)
                _empty(function)

    def text(self) -> str:
        """The whole module."""
        for name in self._definitions:
            del self._module.globals[name]
        return "\n".join((str(self._module), *self._definitions.values()))


def _empty(function: ir.Function) -> None:
    """Take a function's instructions from it, and undo the circles between them."""
    for block in function.blocks:
        for instruction in block.instructions:
            instruction.operands = ()
            if isinstance(instruction, ir.PhiInstr):
                instruction.incomings.clear()
        block.instructions.clear()
        block.terminator = None
    function.blocks.clear()
