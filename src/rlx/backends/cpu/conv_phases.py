"""Transposed convolutions without the zeros between their pixels, where channels come first.

Those that lie channels last and have no zeros in their kernels' phases never come here (passes/transposed_conv.py).

An image spread out by s = lhs_dilation is zero everywhere but at every s-th position, so an output position meets
only those kernel positions t for which out - low padding + t is a multiple of s. Which those are depends on the phase
out mod s alone. So one output pixel a phase, for all phases together, is an ordinary convolution of the image itself,
with as many features a phase: out = s * pixel + phase reads image[pixel + lowest + j] for j in range(reach), with the
kernel position t = s * (lowest + j) + low padding - phase, or with zero where the kernel has none.

The weights are brought into that form in setup; the epilogue's indices are rewritten from out to pixel and phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from llvmlite import ir

from rlx.backends.cpu.gemm_operand import RowsOperand
from rlx.backends.cpu.gemm_pack import padded_stride
from rlx.backends.cpu.gemm_view import Dims, MatrixView, convert, dims, split_index
from rlx.codegen.kernel import Apply, Const, Cost, Expr, Load, Memory, Store, TemplateKernel, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I1, I64
from rlx.codegen.lower.templates import ConvSpec, Epilogue
from rlx.codegen.target import Target
from rlx.ir.dtypes import i64


def splits_into_phases(spec: ConvSpec) -> bool:
    """Whether a spec is a transposed convolution that this module rewrites."""
    return (
        spec.w_constant
        and any(s > 1 for s in spec.lhs_dilation)
        and all(s == 1 for s in (*spec.strides, *spec.rhs_dilation))
        and all(n % s == 0 for n, s in zip(spec.out, spec.lhs_dilation, strict=True))
    )


@dataclass(frozen=True, eq=False)
class Phases:
    """The rewriting of one spec."""

    whole: ConvSpec

    @property
    def counts(self) -> tuple[int, ...]:
        """Phases of each spatial dimension."""
        return self.whole.lhs_dilation

    def _shifts(self, axis: int) -> tuple[int, int]:
        """The lowest and the highest image position, from the pixel's, that any phase reads."""
        spec, s = self.whole, self.counts[axis]
        met = [
            (phase + tap - spec.padding[axis][0]) // s
            for phase in range(s)
            for tap in range(spec.kernel[axis])
            if (phase + tap - spec.padding[axis][0]) % s == 0
        ]
        return min(met), max(met)

    @property
    def spec(self) -> ConvSpec:
        """The ordinary convolution: features are (feature, phase...) in row-major order."""
        whole, axes = self.whole, range(len(self.counts))
        shifts = [self._shifts(axis) for axis in axes]
        return replace(
            whole,
            features=whole.features * prod(self.counts),
            kernel=tuple(high - low + 1 for low, high in shifts),
            out=tuple(n // s for n, s in zip(whole.out, self.counts, strict=True)),
            padding=tuple((-low, 0) for low, _ in shifts),
            lhs_dilation=(1,) * len(self.counts),
        )

    def epilogue(self, epilogue: Epilogue) -> Epilogue:
        """The epilogue with index (image, feature, phase..., pixel...)."""
        rank = len(self.counts)
        phases, pixels = (tuple(Var(f"{name}{d}") for d in range(rank)) for name in ("phase", "pixel"))
        outs: dict[str, Expr] = {}
        for var, phase, pixel, s in zip(epilogue.index[2:], phases, pixels, self.counts, strict=True):
            outs[var.name] = Apply("add", (Apply("mul", (pixel, Const(s, i64)), i64), phase), i64)
        stores = _substituted(epilogue.stores, outs)
        return replace(epilogue, index=(*epilogue.index[:2], *phases, *pixels), stores=stores)

    def weights(self, target: Target) -> RowsOperand:
        """The rearranged weights, and the setup kernel that makes them: one grid index a row."""
        spec, whole = self.spec, self.whole
        dtype, channels = spec.acc_dtype, spec.channels // spec.groups
        rows, depth = spec.features // spec.groups, channels * prod(spec.kernel)
        stride = padded_stride(depth, dtype)
        strides = [s for s in whole.w.strides if isinstance(s, int)]

        def emit(e: FunctionEmitter) -> None:
            with e.loop(e.begin, e.end) as index:
                feature, *phases = split_index(e, index, (whole.features, *self.counts))
                row = e.element_pointer(e.args["packed"], dtype, e.integer_mul(index, I64(stride)))
                with e.loop(I64(0), I64(depth)) as k:
                    channel, *taps = split_index(e, k, (channels, *spec.kernel))
                    offset = e.integer_mul(feature, I64(strides[0]))
                    offset = e.integer_add(offset, e.integer_mul(channel, I64(strides[1])))
                    inside: ir.Value = I1(1)
                    for axis, (tap, phase) in enumerate(zip(taps, phases, strict=True)):
                        at = e.integer_mul(tap, I64(self.counts[axis]))
                        first = self._shifts(axis)[0] * self.counts[axis] + whole.padding[axis][0]
                        at = e.builder.sub(e.integer_add(at, I64(first)), phase)
                        fits = e.builder.icmp_unsigned("<", at, I64(whole.kernel[axis]))
                        inside = e.builder.and_(inside, fits)
                        offset = e.integer_add(offset, e.integer_mul(at, I64(strides[2 + axis])))
                    pointer = e.element_pointer(e.args[whole.w.name], whole.w_dtype, offset)
                    value = convert(e, e.load_one(pointer, whole.w_dtype, inside), whole.w_dtype, dtype, 1)
                    e.store_one(e.element_pointer(row, dtype, k), dtype, value)

        nbytes = spec.features * stride * dtype.itemsize
        pack = TemplateKernel(
            label="pack_phases",
            args=(whole.w, Memory("packed", dtype, (1,), writable=True)),
            grid=spec.features,
            identity=f"pack_phases {target.name} {whole.w_dtype}->{dtype} {whole.features}x{channels}x{whole.kernel} "
            f"{self.counts} {whole.padding} {spec.kernel} {strides}",
            emit=emit,
            cost=Cost(bytes=2.0 * nbytes),
        )
        view = MatrixView(
            whole.w.name,
            dtype,
            Dims((spec.batch, spec.groups), (0, rows * stride)),
            dims((rows,), (stride,)),
            dims((depth,), (1,)),
        )
        return RowsOperand(Memory(whole.w.name, dtype, (1,)), view, dtype, True, pack, nbytes)


def _substituted(stores: Sequence[Store], outs: dict[str, Expr]) -> tuple[Store, ...]:
    """The stores with variables replaced; what they share stays shared."""
    known: dict[int, Expr] = {}

    def of(expr: Expr) -> Expr:
        found = known.get(id(expr))
        if found is None:
            found = known[id(expr)] = rewritten(expr)
        return found

    def maybe(expr: Expr | None) -> Expr | None:
        return None if expr is None else of(expr)

    def rewritten(expr: Expr) -> Expr:
        match expr:
            case Const():
                return expr
            case Var():
                return outs.get(expr.name, expr)
            case Apply():
                return Apply(expr.op, tuple(of(a) for a in expr.args), expr.dtype)
            case Load():
                return Load(expr.memory, tuple(of(i) for i in expr.index), maybe(expr.mask), maybe(expr.other))

    return tuple(Store(s.memory, tuple(of(i) for i in s.index), of(s.value), maybe(s.mask)) for s in stores)
