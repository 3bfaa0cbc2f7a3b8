"""Attention as one streaming kernel: softmax(f(q k^T)) v without ever writing the scores to memory.

    for each block of queries of each matrix              (a grid index)
        for each block of keys
            bring the block's keys and values into place
            for each tile of queries
                scores = f(q times the keys)              (gemm_tile)
                weights = exp(scores - largest so far)    (attention_softmax)
                sums = sums * exp(largest before - largest now) + weights times the values
        results = sums / totals, through the epilogue     (gemm_epilogue)

The largest score and the total so far make the softmax one that needs no second look at a key (Milakov & Gimelshein
2018; FlashAttention-2, Dao 2023). Where one block holds all keys, nothing is ever rescaled.

Order of sums: keys ascending within a block, blocks ascending. It depends on sizes and target alone: any split of the
grid gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from llvmlite import ir

from rlx.backends.cpu.attention_few import MOST, FewQueriesKernel, few_queries_kernel
from rlx.backends.cpu.attention_item import AttentionItem
from rlx.backends.cpu.attention_layout import AttentionLayout
from rlx.backends.cpu.attention_plan import plan_attention
from rlx.backends.cpu.attention_scratch import scratch_places
from rlx.backends.cpu.gemm_view import matrix_view, split_index
from rlx.backends.cpu.matmul import epilogue_identity
from rlx.codegen.kernel import Cost, Memory, Store, TemplateKernel
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I1, I64
from rlx.codegen.lower.templates import AttentionSpec, Epilogue
from rlx.codegen.target import Target
from rlx.ir.dtypes import f32

#: Operations that one weight takes beside its score: a subtraction, exp, a sum, a comparison.
_FLOPS_A_WEIGHT = 18.0


def attention_kernel(target: Target, spec: AttentionSpec, epilogue: Epilogue) -> TemplateKernel | None:
    """The kernel for a spec; None where products and a softmax should do it."""
    if spec.dtype is not f32 or len(spec.n) != 1 or 0 in (*spec.batch, *spec.m, *spec.n, *spec.d, *spec.e):
        return None
    q = matrix_view(spec.q, spec.batch, spec.m, spec.d)
    k = matrix_view(spec.k, spec.batch, spec.n, spec.d)
    v = matrix_view(spec.v, spec.batch, spec.n, spec.e)
    if q is None or k is None or v is None:
        return None
    kernel: AttentionKernel | FewQueriesKernel | None
    if q.rows.count <= MOST:
        kernel = few_queries_kernel(target, spec, epilogue)
    else:
        sizes = (prod(spec.batch), q.rows.count, k.rows.count, v.columns.count)
        plan = plan_attention(target, f32, *sizes, causal=spec.causal is not None)
        kernel = AttentionKernel(target, spec, plan, q, k, v, epilogue)
    if kernel is None:
        return None
    scores = Epilogue(
        spec.scores.acc,
        spec.scores.index,
        (Store(Memory("none", f32, ()), (), spec.scores.value),),
        spec.scores.args,
    )
    identity = (
        f"attention {target.name} {spec.batch}x{spec.m}x{spec.n}x{spec.d}x{spec.e} {kernel.identity} "
        f"{spec.blind} {spec.cleared} {spec.causal} {epilogue_identity(scores)} {epilogue_identity(epilogue)}"
    )
    return TemplateKernel(
        label="attention",
        args=(spec.q, spec.k, spec.v, *spec.scores.args, *epilogue.args),
        grid=kernel.grid,
        identity=identity,
        emit=kernel.emit,
        cost=_cost(kernel),
        scratch_bytes=kernel.scratch_bytes,
    )


@dataclass(frozen=True, eq=False)
class AttentionKernel(AttentionLayout):
    """The code of every grid index of one attention."""

    def emit(self, e: FunctionEmitter) -> None:
        places = scratch_places(e, self.scratch())
        total = self.q.rows.count
        finite = e.cell(I1(0))
        with e.loop(e.begin, e.end) as index:
            matrix, block = split_index(e, index, (self.matrices, self.query_blocks))
            first = e.integer_mul(block, I64(self.plan.queries))
            count: ir.Value = I64(total)
            fresh: ir.Value = I1(1)
            if self.query_blocks > 1:
                count = e.intrinsic("smin", e.builder.sub(I64(total), first), I64(self.plan.queries))
                if not self.streams:  # the block before may have brought this matrix's keys already
                    b = e.builder
                    fresh = b.or_(b.icmp_signed("==", index, e.begin), b.icmp_signed("==", block, I64(0)))
            ahead = self._ahead(e, index) if self.brings_near else None
            AttentionItem(self, e, places, matrix, first, count, fresh, finite, ahead).emit()

    def _ahead(self, e: FunctionEmitter, index: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The matrix and the first query of the grid index that follows, of this one at the end."""
        following = e.intrinsic("smin", e.integer_add(index, I64(1)), e.builder.sub(e.end, I64(1)))
        matrix, block = split_index(e, following, (self.matrices, self.query_blocks))
        return matrix, e.integer_mul(block, I64(self.plan.queries))


def _cost(kernel: AttentionKernel | FewQueriesKernel) -> Cost:
    """What an attention must do at least."""
    queries, keys = kernel.q.rows.count, kernel.k.rows.count
    depth, width = kernel.q.columns.count, kernel.v.columns.count
    weights = kernel.matrices * queries * keys
    results = kernel.matrices * queries * width
    flops = weights * (2.0 * (depth + width) + kernel.spec.scores.flops + _FLOPS_A_WEIGHT)
    read = sum(
        view.matrices * view.rows.count * view.columns.count * view.dtype.itemsize
        for view in (kernel.q, kernel.k, kernel.v)
    )
    written = results * sum(s.memory.dtype.itemsize for s in kernel.epilogue.stores)
    return Cost(flops + results * kernel.epilogue.flops, float(read + written))
