"""One kernel as one function: its arguments, its loops, and the expressions that templates share with plain loops.

A `FunctionEmitter` belongs to one kernel and one thread. It begins the function `void name(ptr args, ptr sizes, ptr
scratch, i64 begin, i64 end)` of the native kernel ABI, loads the arguments' addresses and the sizes, and hands both
on to an inner function whose parameters tell LLVM which memories cannot overlap. Instructions go where `builder`
stands; `finish` ends both functions.

For templates: `args` are the addresses of the kernel's memories, `begin`, `end` and `scratch` are as in the ABI,
`loop` makes loops, and `expr` and `store` evaluate kernel IR with names bound to values that exist already, so that
an epilogue is computed in the registers that hold the accumulators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from llvmlite import ir

from rlx.codegen.kernel import Expr, Kernel, LoopKernel, Memory, Store, Var
from rlx.codegen.llvm.expression import ExpressionEmitter
from rlx.codegen.llvm.frame import Cell, Frame
from rlx.codegen.llvm.pointwise import apply_pointwise
from rlx.codegen.llvm.softmax import softmax_parts
from rlx.codegen.llvm.types import I8, I32, I64, PTR, VOID, Complex, Value, bits_of, lane_constants, memory_type, real
from rlx.codegen.llvm.values import function_attributes
from rlx.codegen.target import Target
from rlx.ir import dtypes
from rlx.ir.dtypes import DType


class FunctionEmitter(ExpressionEmitter):
    """The function of `kernel`, named `symbol`, in `module`.

    args: memory name -> address of its first element. sizes: run-time size name -> i64.
    scratch: private bytes of the worker, aligned to 64. begin, end: the range of grid indices to run.
    """

    def __init__(self, module: ir.Module, symbol: str, kernel: Kernel, target: Target) -> None:
        names = kernel.sizes if isinstance(kernel, LoopKernel) else ()
        outer = ir.Function(module, ir.FunctionType(VOID, [PTR, PTR, PTR, I64, I64]), symbol)
        outer.attributes = function_attributes(target)
        inner_types = [PTR] * (len(kernel.args) + 1) + [I64] * (len(names) + 2)
        inner = ir.Function(module, ir.FunctionType(VOID, inner_types), f"{symbol}.body")
        inner.attributes = function_attributes(target, "noinline")
        inner.linkage = "internal"
        self._entry = inner.append_basic_block("entry")
        super().__init__(module, ir.IRBuilder(inner.append_basic_block("start")), target)
        self.kernel = kernel
        self.symbol = symbol
        self._inner = inner
        self._spare: ir.Value | None = None
        self._begin_outer(outer, kernel.args, len(names))

        pointers = inner.args[: len(kernel.args)]
        shared = {m.aliases for m in kernel.args} | {m.name for m in kernel.args if m.aliases}
        for memory, pointer in zip(kernel.args, pointers, strict=True):
            if memory.name not in shared:
                pointer.add_attribute("noalias")
        self.args = {m.name: p for m, p in zip(kernel.args, pointers, strict=True)}
        self.pointers = self.args
        self.scratch, self.begin, self.end = inner.args[len(kernel.args)], inner.args[-2], inner.args[-1]
        self.sizes = {v.name: a for v, a in zip(names, inner.args[len(kernel.args) + 1 : -2], strict=True)}
        self.arguments = frozenset(self.args)
        self.mutable_memories = frozenset(m.name for m in kernel.args if m.writable)
        self.frame = Frame(dict(self.sizes))
        if isinstance(kernel, LoopKernel):
            self.softmax = softmax_parts(kernel)

    def finish(self) -> None:
        """Return from the function; nothing may be emitted after."""
        self.fence_streamed()
        self.builder.ret_void()
        ir.IRBuilder(self._entry).branch(self._inner.blocks[1])

    # -- expressions for templates -------------------------------------------------------------------------------

    def expr(
        self,
        expr: Expr,
        env: Mapping[Var, Value],
        *,
        lanes: int = 1,
        along: Var | None = None,
        mask: ir.Value | None = None,
    ) -> Value:
        """The value of a kernel expression.

        env: values of its free variables; `along` is bound to its value in the first lane, and grows by one from lane
            to lane; other i64 scalars are the same in each lane; a vector holds one value a lane.
        mask: i1 lanes that count; the others touch no memory.
        The result is a vector of `lanes` lanes, a scalar where lanes is 1.
        """
        with self.lanes(env, lanes, along, mask):
            return self.splat_value(self.value(expr), lanes)

    def store(
        self,
        stmt: Store,
        env: Mapping[Var, Value],
        *,
        lanes: int = 1,
        along: Var | None = None,
        mask: ir.Value | None = None,
    ) -> None:
        """Run a store statement; parameters as in `expr`."""
        with self.lanes(env, lanes, along, mask):
            self.emit_store(stmt)

    def load_vector(
        self, memory: Memory, index: Sequence[ir.Value | int], lanes: int, mask: ir.Value | None = None
    ) -> Value:
        """`lanes` neighbours in memory from memory[index] on; masked-off lanes are zero."""
        offset = self.index_value(memory.offset)
        for at, stride in zip(index, memory.strides, strict=True):
            place = I64(at) if isinstance(at, int) else at
            offset = self.integer_add(offset, self.integer_mul(place, self.index_value(stride)))
        pointer = self.element_pointer(self.pointers[memory.name], memory.dtype, offset)
        return self.load_lanes(pointer, memory.dtype, lanes, mask)

    @contextmanager
    def lanes(self, env: Mapping[Var, Value], lanes: int, along: Var | None, mask: ir.Value | None) -> Iterator[Frame]:
        """A frame in which `lanes` values of `along` are computed at once."""
        with self.scope():
            frame = self.frame
            frame.lanes, frame.active = lanes, mask
            if along is not None:
                frame.along, frame.varying = along.name, frame.varying | {along.name}
            self.bind_values(env)
            yield frame

    @contextmanager
    def again(self, frame: Frame) -> Iterator[None]:
        """A frame that was left, with all that it has computed."""
        outer, self.frame = self.frame, frame
        yield
        self.frame = outer
        outer.volatile.clear()

    @contextmanager
    def scope(self) -> Iterator[Frame]:
        """A frame inside the current one."""
        outer = self.frame
        self.frame = outer.inner()
        yield self.frame
        self.frame = outer
        outer.volatile.clear()

    # -- control flow --------------------------------------------------------------------------------------------

    @contextmanager
    def loop(self, start: ir.Value, stop: ir.Value, step: ir.Value | int = 1) -> Iterator[ir.Value]:
        """for i in range(start, stop, step), step > 0: yields i; what is emitted inside is the body."""
        step = I64(step) if isinstance(step, int) else step
        b = self.builder
        known = type(start) is ir.Constant and type(stop) is ir.Constant and type(step) is ir.Constant
        trips = -(-(stop.constant - start.constant) // step.constant) if known else 2
        before, body, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
        if known and trips > 0:
            b.branch(body)
        else:
            b.cbranch(b.icmp_signed("<", start, stop), body, after)
        b.position_at_end(body)
        index = b.phi(I64)
        index.add_incoming(start, before)
        with self.scope():
            yield index
        following = b.add(index, step, flags=("nsw",))
        if known and trips == 1:
            b.branch(after)
        else:
            index.add_incoming(following, b.block)
            b.cbranch(b.icmp_signed("<", following, stop), body, after)
        b.position_at_end(after)

    def mask_for(self, remaining: ir.Value, lanes: int) -> ir.Value:
        """i1 lanes: lane i counts where i < remaining (i64)."""
        if lanes == 1:
            return self.builder.icmp_signed(">", remaining, I64(0))
        # More than all lanes remaining is all of them: compare in 32 bits, which is half the work.
        limit = self.intrinsic("smin", remaining, I64(lanes))
        few = self.splat(self.builder.trunc(limit, I32), lanes)
        return self.builder.icmp_signed("<", lane_constants(I32, range(lanes)), few)

    # -- values --------------------------------------------------------------------------------------------------

    def apply(self, op: str, values: Sequence[Value], dtype: DType) -> Value:
        """A pointwise primitive on operands of one dtype, giving the same dtype."""
        return apply_pointwise(self, op, values, [dtype] * len(values), dtype)

    def horizontal(self, op: str, value: Value, dtype: DType | None = None) -> Value:
        """All lanes combined by an associative primitive, in a fixed tree. dtype: needed for all but f32 and f64."""
        if dtype is None:
            dtype = dtypes.f64 if bits_of(value.type) == 64 else dtypes.f32
        if not isinstance(value, Complex):
            return self.reduce(value, lambda a, b: real(self.apply(op, [a, b], dtype)))
        lanes = value.re.type.count
        while lanes > 1:
            half = lanes // 2
            low, high = ([self.shuffle(p, part) for p in value] for part in (range(half), range(half, lanes)))
            both = self.apply(op, [Complex(*low), Complex(*high)], dtype)
            assert isinstance(both, Complex)
            value, lanes = both, half
        return Complex(*(self.builder.extract_element(p, I32(0)) for p in value))

    # -- variables and private memory ----------------------------------------------------------------------------

    def cell(self, initial: Value) -> Cell:
        """A mutable variable that holds `initial`."""
        parts = initial if isinstance(initial, Complex) else (initial,)
        slots = tuple(self.allocate(parts[0].type) for _ in parts)
        for part, slot in zip(parts, slots, strict=True):
            self.builder.store(part, slot)
        return Cell(slots, parts[0].type)

    def read_cell(self, cell: Cell) -> Value:
        parts = [self.builder.load(slot, typ=cell.type) for slot in cell.slots]
        return Complex(*parts) if len(parts) == 2 else parts[0]

    def write_cell(self, cell: Cell, value: Value) -> None:
        for part, slot in zip(value if isinstance(value, Complex) else (value,), cell.slots, strict=True):
            self.builder.store(part, slot)

    def allocate(self, type_: ir.Type, count: int | None = None, align: int | None = None) -> ir.Value:
        """Stack memory that lives as long as the function runs."""
        slot = ir.IRBuilder(self._entry).alloca(type_, None if count is None else I64(count))
        slot.type = PTR
        if align is not None:
            slot.align = align
        return slot

    def local_memory(self, memory: Memory, elements: int) -> ir.Value:
        """Stack memory for `elements` elements, from a cache line on."""
        count = elements * (2 if memory.dtype.is_complex else 1)
        slot = self.allocate(memory_type(memory.dtype), count, align=64)
        slot.type = ir.PointerType()  # read and written by vectors too
        return slot

    def spare(self) -> ir.Value:
        if self._spare is None:
            self._spare = self.allocate(I8, 16, align=16)
        return self._spare

    # -- prologue ------------------------------------------------------------------------------------------------

    def _begin_outer(self, outer: ir.Function, args: Sequence[Memory], sizes: int) -> None:
        b = ir.IRBuilder(outer.append_basic_block("entry"))
        table, size_table, scratch, begin, end = outer.args
        pointers = [b.load(b.gep(table, [I64(i)], source_etype=PTR), typ=PTR, align=8) for i in range(len(args))]
        values = [b.load(b.gep(size_table, [I64(i)], source_etype=I64), typ=I64, align=8) for i in range(sizes)]
        b.call(self._inner, [*pointers, scratch, *values, begin, end], tail=True)
        b.ret_void()
