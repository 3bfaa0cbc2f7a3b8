"""Expressions of the kernel IR as instructions.

An expression is evaluated in a `Frame`. What does not differ between lanes stays scalar and is splat only where it
meets a vector. Addresses are found by looking at how indices move along the vectorised loop: not at all (one scalar
load), by one element forwards or back (one vector load), by a constant (a gather with constant offsets), or in any
other way (a gather).
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from rlx.codegen.kernel import Apply, Const, Expr, Load, Memory, Store, Var
from rlx.codegen.llvm.exponential import exp
from rlx.codegen.llvm.frame import Cell, Dependencies, Frame
from rlx.codegen.llvm.gelu import gelu, gelu_argument
from rlx.codegen.llvm.memory import MemoryEmitter
from rlx.codegen.llvm.pointwise import apply_pointwise
from rlx.codegen.llvm.softmax import SoftmaxParts
from rlx.codegen.llvm.types import I64, Complex, Value, dtype_constant, lane_constants, lanes_of, real
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType, f32, i64


def constant_index(expr: Expr | int) -> int | None:
    """The value of an index expression that is a literal."""
    if isinstance(expr, int):
        return expr
    return int(expr.value) if isinstance(expr, Const) and not isinstance(expr.value, complex) else None


class ExpressionEmitter(MemoryEmitter):
    """A `MemoryEmitter` that knows a kernel's names.

    frame: where expressions are evaluated now. pointers: memory name -> address of its first element. arguments: names
    of the memories that are the caller's. softmax: what of the kernel may be computed more cheaply.
    """

    frame: Frame
    pointers: dict[str, ir.Value]
    mutable_memories: frozenset[str]
    arguments: frozenset[str]

    def __init__(self, module: ir.Module, builder: ir.IRBuilder, target: Target) -> None:
        super().__init__(module, builder, target)
        self.dependencies = Dependencies()
        self.softmax = SoftmaxParts()

    # -- values --------------------------------------------------------------------------------------------------

    def value(self, expr: Expr) -> Value:
        """The expression in the current frame: a vector where lanes differ, else a scalar."""
        return self._evaluate(expr, in_lanes=True)

    def first(self, expr: Expr) -> Value:
        """The expression in the first lane: always a scalar. Names bound to vectors must not be read."""
        return self._evaluate(expr, in_lanes=False)

    def index_value(self, expr: Expr | int) -> ir.Value:
        """`first` of an index that may be a literal."""
        return I64(expr) if isinstance(expr, int) else real(self.first(expr))

    def varies(self, expr: Expr) -> bool:
        """Whether the expression may differ between lanes."""
        return self.frame.lanes > 1 and not self.frame.varying.isdisjoint(self.dependencies.of(expr).variables)

    def _evaluate(self, expr: Expr, in_lanes: bool) -> Value:
        if isinstance(expr, Const):
            return dtype_constant(expr.dtype, expr.value)
        in_lanes = in_lanes and self.varies(expr)
        frame = self.frame
        if isinstance(expr, Var):
            bound = frame.env.get(expr.name)
            if bound is not None:
                return self._read(expr, bound, in_lanes)
        key = (id(expr), in_lanes)
        found = frame.find(key)
        if found is not None:
            return found
        match expr:
            case Var():
                value = self._evaluate(frame.definitions[expr.name], in_lanes)
            case Apply():
                value = self._apply(expr, in_lanes)
            case Load():
                value = self._load_expression(expr, in_lanes)
        (frame.volatile if self._is_volatile(expr) else frame.stable)[key] = (expr, value)
        return value

    def _is_volatile(self, expr: Expr) -> bool:
        reads = self.dependencies.of(expr)
        if not reads.memories.isdisjoint(self.mutable_memories):
            return True
        env = self.frame.env
        return any(isinstance(env.get(name), Cell) for name in reads.variables)

    def _read(self, var: Var, bound: Value | Cell, in_lanes: bool) -> Value:
        if isinstance(bound, Cell):
            parts = [self.builder.load(slot, typ=bound.type) for slot in bound.slots]
            return Complex(*parts) if len(parts) == 2 else parts[0]
        if in_lanes and var.name == self.frame.along:
            key = (id(var), True)
            found = self.frame.find(key)
            if found is None:
                steps = lane_constants(I64, range(self.frame.lanes))
                found = self.builder.add(self.splat(real(bound), self.frame.lanes), steps)
                self.frame.stable[key] = (var, found)
            return found
        return bound

    def _apply(self, expr: Apply, in_lanes: bool) -> Value:
        x = gelu_argument(expr) if self.target.has("avx512dq") else None
        if x is not None:
            return gelu(self, real(self._evaluate(x, in_lanes)))
        values = [self._evaluate(a, in_lanes) for a in expr.args]
        if expr.dtype is f32 and any(expr is e for e in self.softmax.exps):
            return exp(self, real(values[0]), brief=True)
        if expr.dtype is i64 and expr.op in ("add", "sub", "mul") and not in_lanes:
            a, b = (real(v) for v in values)
            if expr.op == "mul":
                return self.integer_mul(a, b)
            if expr.op == "add":
                return self.integer_add(a, b)
            if type(b) is ir.Constant:
                return self.integer_add(a, I64(-b.constant))
        return apply_pointwise(self, expr.op, self.unify(values), [a.dtype for a in expr.args], expr.dtype)

    # -- addresses -----------------------------------------------------------------------------------------------

    def coefficient(self, expr: Expr) -> int | None:
        """By how much the index grows from lane to lane; None where that is not a constant."""
        if not self.varies(expr):
            return 0
        match expr:
            case Var():
                if expr.name == self.frame.along:
                    return 1
                definition = self.frame.definitions.get(expr.name)
                return None if definition is None else self.coefficient(definition)
            case Apply(op="add" | "sub", args=(a, b)):
                left, right = self.coefficient(a), self.coefficient(b)
                if left is None or right is None:
                    return None
                return left + right if expr.op == "add" else left - right
            case Apply(op="mul", args=(a, b)):
                factor, moving = constant_index(a), b
                if factor is None:
                    factor, moving = constant_index(b), a
                step = self.coefficient(moving)
                return None if factor is None or step is None else factor * step
            case Apply(op="neg", args=(a,)):
                step = self.coefficient(a)
                return None if step is None else -step
        return None

    def stride_along(self, memory: Memory, index: tuple[Expr, ...]) -> int | None:
        """Elements from lane to lane of memory[index]; None where that is not a constant."""
        total = 0
        for expr, stride in zip(index, memory.strides, strict=True):
            step = self.coefficient(expr)
            if step == 0:
                continue
            width = constant_index(stride)
            if step is None or width is None:
                return None
            total += step * width
        return total

    def address(self, memory: Memory, index: tuple[Expr, ...]) -> ir.Value:
        """The address of memory[index] in the first lane."""
        offset = self.index_value(memory.offset)
        for expr, stride in zip(index, memory.strides, strict=True):
            offset = self.integer_add(offset, self.integer_mul(self.index_value(expr), self.index_value(stride)))
        return self.element_pointer(self.pointers[memory.name], memory.dtype, offset)

    def addresses(self, memory: Memory, index: tuple[Expr, ...]) -> ir.Value:
        """The address of memory[index] in each lane."""
        lanes = self.frame.lanes
        total = self.splat(self.index_value(memory.offset), lanes)
        for expr, stride in zip(index, memory.strides, strict=True):
            step = self.splat(self.index_value(stride), lanes)
            place = self.splat(real(self.value(expr)), lanes)
            total = self.builder.add(total, self.builder.mul(place, step))
        return self.lane_pointers(self.pointers[memory.name], memory.dtype, total)

    # -- memory --------------------------------------------------------------------------------------------------

    def _load_expression(self, load: Load, in_lanes: bool) -> Value:
        evaluate = self.value if in_lanes else self.first
        mask = None if load.mask is None else real(evaluate(load.mask))
        other = None if load.other is None else evaluate(load.other)
        memory = load.memory
        if not in_lanes:
            return self.load_one(self.address(memory, load.index), memory.dtype, mask, other)
        lanes, active = self.frame.lanes, self.frame.active
        stride = self.stride_along(memory, load.index)
        if stride == 0 and mask is None and other is None:
            return self.load_one(self.address(memory, load.index), memory.dtype)
        if active is not None:
            mask = active if mask is None else self.builder.and_(self.splat(mask, lanes), active)
        if stride == 1:
            pointer = self.address(memory, load.index)
            if self.frame.ahead and load.mask is None and self._is_new_each_row(load):
                self.fetch_ahead(pointer, self.frame.ahead)
            return self.load_lanes(pointer, memory.dtype, lanes, mask, other)
        if stride == -1:
            return self.load_reversed(self.address(memory, load.index), memory.dtype, lanes, mask, other)
        if stride is not None:
            pointer = self.address(memory, load.index)
            return self.load_strided(pointer, memory.dtype, stride, lanes, mask, other)
        return self.gather(self.addresses(memory, load.index), memory.dtype, mask, other)

    def _is_new_each_row(self, load: Load) -> bool:
        """Whether the load is of an argument, and not of the same elements whenever the loop is run."""
        return load.memory.name in self.arguments and self.dependencies.of(load).variables != {self.frame.along}

    def store_value(self, memory: Memory, index: tuple[Expr, ...], value: Value, mask: ir.Value | None = None) -> None:
        """memory[index] = value in every active lane where mask is true."""
        lanes, active, first = self.frame.lanes, self.frame.active, self.frame.first
        moving = any(self.varies(e) for e in index)
        if lanes == 1 or not moving:
            self.store_one(self.address(memory, index), memory.dtype, value, mask)
            return
        stride = self.stride_along(memory, index)
        streamed = stride == 1 and mask is None and memory.name == self.frame.streamed
        if streamed and self.frame.line is not None:
            self._store_line(self.frame.line, self.address(memory, index), memory.dtype, self.splat(real(value), lanes))
            return
        if streamed and first is not None:
            self.store_first(self.address(memory, index), memory.dtype, real(value), lanes, first)
            return
        if active is not None:
            mask = active if mask is None else self.builder.and_(self.splat(mask, lanes), active)
        if stride == 1:
            streamed = streamed and mask is None
            self.store_lanes(self.address(memory, index), memory.dtype, value, lanes, mask, streamed=streamed)
        elif stride is not None and stride != 0:
            self.store_strided(self.address(memory, index), memory.dtype, value, stride, lanes, mask)
        else:
            self.scatter(self.addresses(memory, index), memory.dtype, value, mask)

    def _store_line(self, line: ir.Value, pointer: ir.Value, dtype: DType, value: ir.Value) -> None:
        """Keep the lanes in the slot `line`; or, to end the line, store them at `pointer` with those kept in it."""
        raw = self.to_memory(value, dtype)
        if self.frame.first is not None:
            self.builder.store(raw, line)
            return
        assert self.frame.active is not None
        before = self.builder.load(line, typ=raw.type)
        whole = self.from_memory(self.builder.select(self.frame.active, raw, before), dtype)
        self.store_lanes(pointer, dtype, whole, self.frame.lanes, streamed=True)

    def emit_store(self, stmt: Store) -> None:
        """One store statement in the current frame."""
        value = self.value(stmt.value)
        mask = None if stmt.mask is None else real(self.value(stmt.mask))
        self.store_value(stmt.memory, stmt.index, value, mask)
        self.frame.forget(self.dependencies, memory=stmt.memory.name)

    # -- binding -------------------------------------------------------------------------------------------------

    def bind(self, var: Var, expr: Expr) -> None:
        """A let: index arithmetic is kept as an expression, so that addresses see through it; anything else is now."""
        reads = self.dependencies.of(expr)
        frame = self.frame
        frame.env.pop(var.name, None)
        frame.definitions.pop(var.name, None)
        varies = self.varies(expr)
        if expr.dtype is i64 and not reads.memories and not self._is_volatile(expr):
            frame.definitions[var.name] = expr
        else:
            frame.env[var.name] = self.value(expr)
        frame.varying = frame.varying | {var.name} if varies else frame.varying - {var.name}

    def bind_values(self, env: Mapping[Var, Value]) -> None:
        """Names bound to values that exist already; vectors vary between lanes."""
        frame = self.frame
        for var, value in env.items():
            frame.env[var.name] = value
            if lanes_of(value.type) > 1:
                frame.varying |= {var.name}
