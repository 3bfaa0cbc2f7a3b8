"""What lowering knows while it walks a graph: buffers made so far, where values lie, and the step lists being filled.

One `ProgramContext` a program; one `Scope` a graph, so that regions of control flow have their own. A value is static
when it depends on parameters and constants alone: its steps go to setup, its memory is persistent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rlx.codegen.lower.templates import Templates
from rlx.codegen.lower.view import View, dense
from rlx.codegen.program import BufferKind, Step, VirtualBuffer
from rlx.ir.dtypes import DType
from rlx.ir.graph import Graph, Node, Value
from rlx.ir.types import TensorType


@dataclass
class ProgramContext:
    """Buffers and setup steps of the whole program."""

    templates: Templates
    fuse: bool = True
    setup: list[Step] = field(default_factory=list)
    _buffers: int = 0
    _constants: dict[tuple[str, bytes], VirtualBuffer] = field(default_factory=dict)

    def buffer(self, kind: BufferKind, nbytes: int, index: int = -1, data: bytes = b"") -> VirtualBuffer:
        """A fresh virtual buffer."""
        name = f"{kind}{index}" if index >= 0 else f"b{self._buffers}"
        self._buffers += 1
        return VirtualBuffer(name, nbytes, kind, index, data)

    def constant(self, array: np.ndarray) -> VirtualBuffer:
        """A buffer with the array's bytes, row-major; equal contents share one."""
        data = np.ascontiguousarray(array).tobytes()
        key = (array.dtype.str, data)
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = self.buffer("constant", len(data), data=data)
        return found


class Scope:
    """One graph being lowered into one step list. in_setup: the list runs in setup, so all its memory is persistent."""

    def __init__(self, program: ProgramContext, graph: Graph, steps: list[Step], *, in_setup: bool = False) -> None:
        self.program = program
        self.in_setup = in_setup
        self.graph = graph
        self.steps = steps
        self.views: dict[Value, View] = {}
        self.static: set[Value] = set()
        self.destinations: dict[Value, View] = {}
        #: Values whose memory may be overwritten in place: nothing reads it later.
        self.expendable: set[Value] = set()
        #: Whether attention is looked for; not where a template has refused it.
        self.attention = True
        self._wholes: dict[Node, View] = {}

    @property
    def producers(self) -> Mapping[Value, Node]:
        return self.graph.producers

    def view_of(self, value: Value) -> View | None:
        """Where `value` lies; None where it is computed by its readers. Constants get memory when first asked for."""
        view = self.views.get(value)
        if view is None:
            node = self.graph.producers.get(value)
            if node is not None and node.op == "constant" and value.type.elements != 1:
                array = node.attrs["value"]
                assert isinstance(array, np.ndarray)
                view = dense(self.program.constant(array), value.type.dtype, value.type.sizes)
                self.views[value] = view
        return view

    def find_static(self, given: set[Value]) -> None:
        """Mark what depends on static values alone; `given` are the static inputs."""
        self.static |= given
        for node in self.graph.nodes:
            if all(v in self.static for v in node.inputs) and node.op != "custom_call":
                self.static.update(node.outputs)

    def allocate(self, value: Value) -> View:
        """Memory for `value`, which the next step writes; its destination where it has one."""
        destination = self.destinations.get(value)
        if destination is not None and value not in self.static:
            return destination
        piece = self._piece_of_whole(value)
        return self.allocate_like(value.type, value in self.static) if piece is None else piece

    def _piece_of_whole(self, value: Value) -> View | None:
        """The place of `value` in the first concatenation that reads it, so that nothing is copied there later."""
        if not self.program.fuse:
            return None
        for user in self.graph.users.get(value, ()):
            if user.op != "concatenate" or user.inputs.count(value) != 1:
                continue
            if (user.output in self.static) != (value in self.static):
                continue
            dimension = user.attrs["dimension"]
            assert isinstance(dimension, int)
            whole = self.whole(user)
            start = 0
            for operand in user.inputs:
                if operand is value:
                    break
                start += operand.type.sizes[dimension]
            offset = whole.offset + start * whole.strides[dimension]
            return View(whole.buffer, whole.dtype, value.type.sizes, whole.strides, offset)
        return None

    def whole(self, concatenation: Node) -> View:
        """Memory for a concatenation's result, made when the first of its operands is."""
        found = self._wholes.get(concatenation)
        if found is None:
            found = self._wholes[concatenation] = self.allocate(concatenation.output)
        return found

    def allocate_like(self, type: TensorType, static: bool) -> View:
        """Dense memory of one type, persistent where it is static."""
        buffer = self.program.buffer("persistent" if static or self.in_setup else "temporary", type.nbytes)
        return dense(buffer, type.dtype, type.sizes)

    def scratch(self, dtype: DType, shape: tuple[int, ...], static: bool = False) -> View:
        """Dense memory for one step's own use."""
        kind = "persistent" if static or self.in_setup else "temporary"
        return dense(self.program.buffer(kind, math.prod(shape) * dtype.itemsize), dtype, shape)

    def emit(self, step: Step, static: bool = False) -> None:
        """Append a step, to setup where it is static."""
        (self.program.setup if static else self.steps).append(step)
