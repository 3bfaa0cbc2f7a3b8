"""Runs lowered programs in NumPy, slowly and exactly: the oracle between lowering and the native emitters.

Kernels run one grid index at a time and statements one by one; a vector loop runs all its lanes at once, as the kernel
IR allows. Whatever the IR forbids is an assertion here: an unmasked access outside the buffer, a store through a memory
that promised not to be written, lanes of one vector loop that store to one place, statements that do not belong in a
vector loop. Fresh memory is poisoned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Const,
    Declare,
    Expr,
    If,
    Let,
    Load,
    Local,
    Loop,
    LoopKernel,
    Memory,
    Stmt,
    Store,
    Var,
    While,
)
from rlx.codegen.program import Branch, Copy, Launch, LoweredProgram, Operand, Repeat, Step, VirtualBuffer
from rlx.ir.dtypes import DType
from rlx.ir.op import RunRegion, get

_POISON = 0xCB
_NO_REGIONS = RunRegion((), lambda graph, arrays: ())


def apply(op: str, args: Sequence[Any], dtype: DType) -> np.ndarray:
    """A pointwise primitive on scalars and arrays of one length."""
    arrays = list(np.broadcast_arrays(*args)) if len({np.shape(a) for a in args}) > 1 else [np.asarray(a) for a in args]
    attrs = {"dtype": dtype} if op in ("convert", "bitcast_convert") else {}
    evaluate = get(op).evaluate
    assert evaluate is not None
    (result,) = evaluate(arrays, attrs, _NO_REGIONS)
    result = np.asarray(result)
    assert result.dtype == dtype.numpy, f"{op} on {[a.dtype for a in arrays]} gives {result.dtype}, typed {dtype}"
    return result


class Machine:
    """One kernel invocation's memories and variables."""

    def __init__(self, arrays: Mapping[str, tuple[np.ndarray, int]]) -> None:
        self.arrays = dict(arrays)  # memory name -> (elements of the whole buffer, first element)
        self.env: dict[str, Any] = {}
        self.lanes: str | None = None
        self.touched: dict[str, list[np.ndarray]] | None = None  # addresses by memory, where someone wants to know

    # -- expressions -----------------------------------------------------------------------------------------------

    def eval(self, e: Expr, memo: dict[Expr, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        if e in memo:
            return memo[e]
        if isinstance(e, Const):
            with np.errstate(all="ignore"):
                value: Any = np.array(e.value, e.dtype.numpy)
        elif isinstance(e, Var):
            value = self.env[e.name]
            assert value.dtype == e.dtype.numpy, f"{e} holds {value.dtype}"
        elif isinstance(e, Apply):
            value = apply(e.op, [self.eval(a, memo) for a in e.args], e.dtype)
        else:
            value = self.load(e, memo)
        memo[e] = value
        return value

    def address(self, memory: Memory, index: Sequence[Expr], memo: dict[Expr, Any]) -> Any:
        assert len(index) == len(memory.strides), f"{memory.name} has {len(memory.strides)} strides, {len(index)} given"
        total: Any = self._number(memory.offset, memo)
        for stride, part in zip(memory.strides, index, strict=True):
            assert part.dtype.name == "i64", f"index of {memory.name} is {part.dtype}"
            total = total + self._number(stride, memo) * self.eval(part, memo)
        return total

    def _number(self, x: int | Expr, memo: dict[Expr, Any]) -> Any:
        return np.int64(x) if isinstance(x, int) else self.eval(x, memo)

    def load(self, e: Load, memo: dict[Expr, Any]) -> Any:
        array, base = self.arrays[e.memory.name]
        assert array.dtype == e.memory.dtype.numpy
        at = np.asarray(base + self.address(e.memory, e.index, memo))
        if e.mask is None:
            assert (at >= 0).all() and (at < len(array)).all(), f"load outside {e.memory.name}: {at} of {len(array)}"
            self._touch(e.memory, at)
            return array[at]
        mask = self.eval(e.mask, memo)
        at, mask = np.broadcast_arrays(at, mask)
        inside = at[mask]
        assert (inside >= 0).all() and (inside < len(array)).all(), f"masked load outside {e.memory.name}: {inside}"
        self._touch(e.memory, inside)
        other = np.zeros((), array.dtype) if e.other is None else self.eval(e.other, memo)
        result = np.array(np.broadcast_to(other, at.shape))
        result[mask] = array[inside]
        return result

    def _touch(self, memory: Memory, at: np.ndarray) -> None:
        if self.touched is not None:
            self.touched.setdefault(memory.name, []).append(np.ravel(at))

    # -- statements ------------------------------------------------------------------------------------------------

    def run(self, body: Sequence[Stmt]) -> None:
        for s in body:
            self.step(s)

    def step(self, s: Stmt) -> None:
        memo: dict[Expr, Any] = {}
        if self.lanes is not None:
            assert isinstance(s, Let | Store | Accumulate), f"{type(s).__name__} inside a vector loop"
        if isinstance(s, Loop):
            extent = int(self.eval(s.extent))
            if s.kind == "vector":
                if extent > 0:
                    self.env[s.var.name] = np.arange(extent, dtype=np.int64)
                    self.lanes = s.var.name
                    self.run(s.body)
                    self.lanes = None
            else:
                for i in range(extent):
                    self.env[s.var.name] = np.array(i, np.int64)
                    self.run(s.body)
            self.env.pop(s.var.name, None)
        elif isinstance(s, Let | Declare):
            value = self.eval(s.value if isinstance(s, Let) else s.init, memo)
            assert value.dtype == s.var.dtype.numpy, f"{s.var.name} is {s.var.dtype}, bound to {value.dtype}"
            self.env[s.var.name] = value
        elif isinstance(s, Assign):
            assert s.var.name in self.env
            self.env[s.var.name] = self.eval(s.value, memo)
        elif isinstance(s, Accumulate):
            value = np.asarray(self.eval(s.value, memo))
            if self.lanes is not None:
                value = np.broadcast_to(value, self.env[self.lanes].shape)
                while len(value) > 1:
                    half = len(value) // 2
                    joined = apply(s.op, [value[:half], value[half : 2 * half]], s.var.dtype)
                    value = np.concatenate([joined, value[2 * half :]])
                value = value[0]
            self.env[s.var.name] = apply(s.op, [self.env[s.var.name], value], s.var.dtype)
        elif isinstance(s, Store):
            self.store(s, memo)
        elif isinstance(s, If):
            self.run(s.then if self.eval(s.condition) else s.orelse)
        elif isinstance(s, While):
            while self.eval(s.condition):
                self.run(s.body)
        elif isinstance(s, Local):
            raw = np.full(s.elements * s.memory.dtype.itemsize, _POISON, np.uint8)
            self.arrays[s.memory.name] = (raw.view(s.memory.dtype.numpy), 0)
        else:
            raise AssertionError(f"unknown statement {s}")

    def store(self, s: Store, memo: dict[Expr, Any]) -> None:
        assert s.memory.writable, f"store through {s.memory.name}, which is not writable"
        array, base = self.arrays[s.memory.name]
        assert s.value.dtype is s.memory.dtype, f"{s.value.dtype} stored to {s.memory.name}: {s.memory.dtype}"
        at = np.asarray(base + self.address(s.memory, s.index, memo))
        value = self.eval(s.value, memo)
        mask = np.array(True) if s.mask is None else self.eval(s.mask, memo)
        shape = () if self.lanes is None else self.env[self.lanes].shape
        at, value, mask = (np.broadcast_to(x, shape) for x in (at, value, mask))
        inside = at[mask]
        assert (inside >= 0).all() and (inside < len(array)).all(), f"store outside {s.memory.name}: {inside}"
        if self.lanes is not None:
            assert len(np.unique(inside)) == inside.size, f"lanes store to one place of {s.memory.name}"
        self._touch(s.memory, inside)
        array[inside] = value[mask]


def run_kernel(
    kernel: LoopKernel,
    arrays: Mapping[str, tuple[np.ndarray, int]],
    touched: dict[str, list[np.ndarray]] | None = None,
) -> None:
    """Every grid index of one kernel, in an order that means nothing, as threads would run them.

    arrays: argument name -> (elements of its buffer, first element).
    """
    grid = int(Machine(arrays).eval(kernel.grid))
    for index in np.random.default_rng(grid).permutation(grid):
        machine = Machine(arrays)
        machine.touched = touched
        machine.env[kernel.index.name] = np.array(index, np.int64)
        machine.run(kernel.body)


class Program:
    """A lowered program with its memory: `setup` binds parameters once, `run` may be called again and again."""

    def __init__(self, program: LoweredProgram, parameters: Sequence[np.ndarray] = ()) -> None:
        self.program = program
        self.memory: dict[VirtualBuffer, np.ndarray] = {}
        self.bound: dict[tuple[str, int], np.ndarray] = {}
        for place, data in enumerate(parameters):
            self.bound["parameter", place] = _bytes(data)
        self.walk(program.setup)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for inputs in the program's order."""
        for place, data in enumerate(inputs):
            self.bound["input", place] = _bytes(data).copy()
        for place, type in enumerate(self.program.outputs.values()):
            self.bound["output", place] = np.full(type.nbytes, _POISON, np.uint8)
        for buffer in [b for b in self.memory if b.kind == "temporary"]:
            del self.memory[buffer]
        self.walk(self.program.steps)
        return [
            self.bound["output", place].view(type.dtype.numpy).reshape(type.sizes)
            for place, type in enumerate(self.program.outputs.values())
        ]

    def bytes_of(self, buffer: VirtualBuffer) -> np.ndarray:
        if buffer.kind in ("input", "output", "parameter"):
            return self.bound[buffer.kind, buffer.index]
        if buffer not in self.memory:
            data = np.frombuffer(buffer.data, np.uint8) if buffer.kind == "constant" else None
            self.memory[buffer] = np.full(buffer.nbytes, _POISON, np.uint8) if data is None else data
        return self.memory[buffer]

    def elements(self, operand: Operand, dtype: DType) -> tuple[np.ndarray, int]:
        """The whole buffer as elements of `dtype`, and where the operand begins."""
        raw = self.bytes_of(operand.buffer)
        first, odd = divmod(operand.byte_offset, dtype.itemsize)
        assert odd == 0
        return raw[: len(raw) // dtype.itemsize * dtype.itemsize].view(dtype.numpy), first

    def walk(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Launch):
                self.launch(step)
            elif isinstance(step, Copy):
                source = self.bytes_of(step.source.buffer)[step.source.byte_offset :][: step.nbytes]
                into = self.bytes_of(step.destination.buffer)[step.destination.byte_offset :]
                assert len(source) == step.nbytes and len(into) >= step.nbytes
                into[: step.nbytes] = source
            elif isinstance(step, Branch):
                self.walk(step.then if self.flag(step.predicate) else step.orelse)
            elif isinstance(step, Repeat):
                while True:
                    self.walk(step.test)
                    if not self.flag(step.predicate):
                        break
                    self.walk(step.body)

    def flag(self, operand: Operand) -> bool:
        return bool(self.bytes_of(operand.buffer)[operand.byte_offset])

    def launch(self, step: Launch) -> None:
        kernel = step.kernel
        touched = {*step.reads, *step.writes}
        for memory, operand in zip(kernel.args, step.operands, strict=True):
            assert operand.buffer in touched
            assert not memory.writable or operand.buffer in step.writes
        arrays = {
            memory.name: self.elements(operand, memory.dtype)
            for memory, operand in zip(kernel.args, step.operands, strict=True)
        }
        assert len(arrays) == len(kernel.args), f"argument names of {kernel.label} are not distinct"
        if isinstance(kernel, LoopKernel):
            touched: dict[str, list[np.ndarray]] = {}
            run_kernel(kernel, arrays, touched)
            _assert_apart(kernel, step.operands, touched)
        else:
            kernel.emit(arrays)


def _assert_apart(kernel: LoopKernel, operands: Sequence[Operand], touched: Mapping[str, list[np.ndarray]]) -> None:
    """What is written through one argument is neither read nor written through another."""
    spans = [
        (memory, operand.buffer, np.unique(np.concatenate(touched[memory.name])) * memory.dtype.itemsize)
        for memory, operand in zip(kernel.args, operands, strict=True)
        if memory.name in touched
    ]
    for i, (memory, buffer, places) in enumerate(spans):
        for other, its_buffer, its_places in spans[i + 1 :]:
            if buffer is its_buffer and (memory.writable or other.writable):
                assert np.intersect1d(places, its_places).size == 0, f"{kernel.label}: {memory.name} meets {other.name}"


def _bytes(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
