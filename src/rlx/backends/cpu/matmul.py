"""Matrix products of the lowering as kernels: choosing how each operand is read, and building pack and compute."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from llvmlite import ir

from rlx.backends.cpu import gemm_amx
from rlx.backends.cpu.gemm import ProductKernel
from rlx.backends.cpu.gemm_epilogue import TileWriter
from rlx.backends.cpu.gemm_operand import (
    Panels,
    PanelsCopied,
    PanelsInPlace,
    PanelsPacked,
    RowsOperand,
    fill_panel,
    rows_in_place,
    words_of,
)
from rlx.backends.cpu.gemm_pack import copy_rows, padded_stride
from rlx.backends.cpu.gemm_plan import Tile, rows_ahead
from rlx.backends.cpu.gemm_schedule import Product, Schedule, copies_panels
from rlx.backends.cpu.gemm_tile import words_of_products
from rlx.backends.cpu.gemm_view import Dims, MatrixView, matrix_view, split_index
from rlx.backends.cpu.matvec import DotKernel, dot_block, is_stream_of_dots
from rlx.codegen.kernel import Const, Cost, LoopKernel, Memory, TemplateKernel, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64
from rlx.codegen.lower.templates import Epilogue, MatmulKernels, MatmulSpec
from rlx.codegen.printer import kernel_identity
from rlx.codegen.target import Target
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

#: What sums may be held in.
SUM_DTYPES = (dtypes.f32, dtypes.f64, dtypes.i32, dtypes.u32)
#: What operands may be held in, beside the sums' own dtype.
OPERAND_DTYPES = (dtypes.f16, dtypes.bf16, dtypes.i8, dtypes.u8, dtypes.i16, dtypes.u16)


def matmul_kernels(
    target: Target, spec: MatmulSpec, epilogue: Epilogue, schedule: Schedule | None = None
) -> MatmulKernels | None:
    """The kernels for a spec, or None where loops should do it.

    schedule: one that the spec's product allows (see `matmul_product`); the planner's choice where it is None.
    """
    dtype = spec.acc_dtype
    if not supported(spec.a_dtype, spec.b_dtype, dtype) or 0 in (*spec.batch, *spec.m, *spec.n, *spec.k):
        return None
    a = matrix_view(spec.a, spec.batch, spec.m, spec.k)
    b = matrix_view(spec.b, spec.batch, spec.k, spec.n)
    if a is None or b is None:
        return None
    batch, rows, columns = prod(spec.batch), prod(spec.m), prod(spec.n)

    def place(e: FunctionEmitter, matrix: ir.Value, row: ir.Value) -> list[ir.Value]:
        return [*split_index(e, matrix, spec.batch), *split_index(e, row, spec.m)]

    def finished(kernel: ProductKernel | DotKernel, a: Memory, b: Memory, details: str) -> TemplateKernel:
        identity = (
            f"matmul {target.name} {spec.a_dtype}x{spec.b_dtype}->{dtype} "
            f"{spec.batch}x{spec.m}x{spec.n}x{spec.k} {details} {epilogue_identity(epilogue)}"
        )
        return TemplateKernel(
            label="matmul",
            args=(a, b, *epilogue.args),
            grid=kernel.grid,
            identity=identity,
            emit=kernel.emit,
            cost=product_cost(spec, epilogue),
            scratch_bytes=kernel.scratch_bytes,
        )

    b_is_long = is_stream_of_dots(a, b, dtype, target, b_constant=spec.b_constant)
    if b_is_long is not None:
        long, short = (b.transposed, a) if b_is_long else (a, b.transposed)
        block = dot_block(target, dtype, batch, long.rows.count)
        lanes = target.lanes(dtype.bits)
        width, pitch = (block, block) if b_is_long else (-(-columns // lanes) * lanes, columns)
        writer = TileWriter(epilogue, place, spec.n, dtype, width, pitch)
        dots = DotKernel(target, dtype, batch, long, short, b_is_long, block, writer)
        details = f"dots {block} {a.unnamed} {b.unnamed}"
        return MatmulKernels(None, 0, finished(dots, spec.a, spec.b, details), in_place=True)

    product = product_of(target, [spec], a, None if spec.b_constant else b)
    if schedule is None:
        schedule = product.default
    tile, together = schedule.tile, product.together
    left = rows_operand(target, spec.a, a, spec.a_constant, dtype, tile, columns, together)
    pack, packed_nbytes, b_memory = left.pack, left.packed_nbytes, spec.b
    if spec.b_constant:
        packed = PanelsPacked(b, dtype, tile.columns, together)
        pack, packed_nbytes = pack_panels(target, spec.b, packed), packed.packed_bytes
        b_memory = Memory(spec.b.name, dtype, (1,))
        panels: Panels = packed
    else:
        panels = PanelsCopied(b, dtype, tile.columns, together) if schedule.copied else PanelsInPlace(b)
    a_rows = left.read(schedule.blocks, rows)

    kernel = ProductKernel(
        target,
        dtype,
        batch,
        rows,
        columns,
        product.depth,
        tile,
        schedule.blocks,
        a_rows,
        panels,
        TileWriter(epilogue, place, spec.n, dtype, tile.columns, ahead=rows_ahead(target, tile, rows, columns)),
        spec.a_dtype if together > 1 else None,
        product.in_matrix_registers,
        near=schedule.near,
    )
    details = f"a={left.view.unnamed}{type(a_rows).__name__} b={b.unnamed}{type(panels).__name__} {schedule}"
    return MatmulKernels(pack, packed_nbytes, finished(kernel, left.memory, b_memory, details), in_place=True)


def product_cost(spec: MatmulSpec, epilogue: Epilogue) -> Cost:
    """What a product must do at least."""
    a, b = prod((*spec.m, *spec.k)) * spec.a_dtype.itemsize, prod((*spec.k, *spec.n)) * spec.b_dtype.itemsize
    elements = prod((*spec.batch, *spec.m, *spec.n))
    written = elements * sum(s.memory.dtype.itemsize for s in epilogue.stores)
    flops, nbytes = elements * (2.0 * prod(spec.k) + epilogue.flops), float(prod(spec.batch) * (a + b) + written)
    return Cost(flops, nbytes, spec.a_dtype.name if spec.a_dtype is spec.b_dtype else "f32")


def supported(a: DType, b: DType, sums: DType) -> bool:
    """Whether the tiles take these dtypes."""
    return sums in SUM_DTYPES and all(d is sums or d in OPERAND_DTYPES for d in (a, b))


def neighbours_together(target: Target, spec: MatmulSpec) -> int:
    """How many neighbours along k a multiply-add takes: words of several where both operands hold what it wants."""
    return words_of_products(target, spec.a_dtype, spec.acc_dtype) if spec.a_dtype is spec.b_dtype else 1


def epilogue_identity(epilogue: Epilogue) -> str:
    """Text that tells epilogues apart which emit different code."""
    names = (epilogue.acc, *epilogue.index, *([epilogue.second] if epilogue.second else []))
    one = Const(1, dtypes.i64)
    return kernel_identity(LoopKernel("", epilogue.args, Var("unused"), one, epilogue.stores, names))


def matmul_product(target: Target, spec: MatmulSpec) -> Product | None:
    """What a schedule is chosen for; None where `matmul_kernels` leaves no choice."""
    a = matrix_view(spec.a, spec.batch, spec.m, spec.k)
    b = matrix_view(spec.b, spec.batch, spec.k, spec.n)
    if a is None or b is None or 0 in (*spec.batch, *spec.m, *spec.n, *spec.k):
        return None
    if not supported(spec.a_dtype, spec.b_dtype, spec.acc_dtype):
        return None
    if is_stream_of_dots(a, b, spec.acc_dtype, target, b_constant=spec.b_constant) is not None:
        return None
    return product_of(target, [spec], a, None if spec.b_constant else b)


def product_of(
    target: Target, specs: Sequence[MatmulSpec], a: MatrixView, b: MatrixView | None, *, paired: bool = False
) -> Product:
    """What a schedule is chosen for: the product of a spec, or the joined or paired ones of several with one a.

    b: None where it is packed at setup.
    """
    first = specs[0]
    together = neighbours_together(target, first)
    rows, depth = prod(first.m), -(-prod(first.k) // together)
    return Product(
        target,
        first.acc_dtype,
        prod(first.batch),
        rows,
        tuple(prod(spec.n) for spec in specs),
        depth,
        a,
        b,
        first.a_constant,
        together,
        together > 1 and gemm_amx.suits(target, rows, depth),
        paired,
    )


def rows_operand(
    target: Target,
    memory: Memory,
    view: MatrixView,
    constant: bool,
    dtype: DType,
    tile: Tile,
    columns: int,
    together: int = 1,
) -> RowsOperand:
    """Read a in place where it lies well, from a packed copy where it is constant, else copy it block by block."""
    if together > 1:
        words = words_of(view, together)
        if words is not None and rows_in_place(words, words.dtype, tile.rows, tile.panels(columns)):
            return RowsOperand(memory, words, dtype, True)
        return RowsOperand(memory, view, dtype, False, together=together)
    if rows_in_place(view, dtype, tile.rows, tile.panels(columns)):
        return RowsOperand(memory, view, dtype, True)
    if not constant:
        return RowsOperand(memory, view, dtype, False)
    pack, packed_nbytes, copied = _pack_rows(target, memory, view, dtype)
    return RowsOperand(Memory(memory.name, dtype, (1,)), copied, dtype, True, pack, packed_nbytes)


def panels_of(b: MatrixView, dtype: DType, tile: Tile, rows: int) -> Panels:
    """How a b that is not constant is read: in place where few tiles read it, else copied."""
    return PanelsCopied(b, dtype, tile.columns) if copies_panels(b, dtype, tile, rows) else PanelsInPlace(b)


def _without_broadcasts(view: MatrixView) -> MatrixView:
    """The view of the matrices that differ."""
    kept = [(n, s) for n, s in zip(view.batch.sizes, view.batch.strides, strict=True) if s]
    batch = Dims(tuple(n for n, _ in kept), tuple(s for _, s in kept))
    return MatrixView(view.name, view.dtype, batch, view.rows, view.columns)


def pack_panels(target: Target, source: Memory, packed: PanelsPacked, step: int = 1) -> TemplateKernel:
    """The setup kernel that packs a constant b: one grid index a panel. step: panels from one of these to the next."""
    view = _without_broadcasts(packed.view)
    destination = Memory("packed", packed.dtype, (1,), writable=True)
    dtype, columns = packed.dtype, packed.columns

    def emit(e: FunctionEmitter) -> None:
        with e.loop(e.begin, e.end, I64(1)) as index:
            matrix, panel = split_index(e, index, (view.matrices, packed.panels))
            at = e.integer_mul(index, I64(step * packed.depth * columns))
            to = e.element_pointer(e.args["packed"], dtype, at)
            fill_panel(e, view, dtype, columns, packed.together, matrix, e.integer_mul(panel, I64(columns)), to)

    return TemplateKernel(
        label="pack_panels",
        args=(source, destination),
        grid=view.matrices * packed.panels,
        identity=f"pack_panels {target.name} {view.unnamed} {dtype} {columns} {packed.together} {step}",
        emit=emit,
        cost=Cost(bytes=2.0 * packed.packed_bytes),
    )


def _pack_rows(target: Target, source: Memory, a: MatrixView, dtype: DType) -> tuple[TemplateKernel, int, MatrixView]:
    """The setup kernel that copies a constant a, one grid index a row; its bytes, and the view of the copy."""
    view = _without_broadcasts(a)
    rows, depth = view.rows.count, view.columns.count
    stride = padded_stride(depth, dtype)
    destination = Memory("packed", dtype, (1,), writable=True)

    def emit(e: FunctionEmitter) -> None:
        with e.loop(e.begin, e.end, I64(1)) as index:
            matrix, row = split_index(e, index, (view.matrices, rows))
            to = e.element_pointer(e.args["packed"], dtype, e.integer_mul(index, I64(stride)))
            copy_rows(e, view, dtype, stride, matrix, row, I64(1), to)

    nbytes = view.matrices * rows * stride * dtype.itemsize
    kernel = TemplateKernel(
        label="pack_rows",
        args=(source, destination),
        grid=view.matrices * rows,
        identity=f"pack_rows {target.name} {view.unnamed} {dtype}",
        emit=emit,
        cost=Cost(bytes=2.0 * nbytes),
    )
    steps, step = [0] * len(a.batch.sizes), rows * stride
    for axis in reversed(range(len(steps))):
        if a.batch.strides[axis]:
            steps[axis], step = step, step * a.batch.sizes[axis]
    copied = MatrixView(
        a.name,
        dtype,
        Dims(a.batch.sizes, tuple(steps)),
        Dims((rows,), (stride,)) if rows > 1 else Dims((), ()),
        Dims((depth,), (1,)) if depth > 1 else Dims((), ()),
    )
    return kernel, nbytes, copied
