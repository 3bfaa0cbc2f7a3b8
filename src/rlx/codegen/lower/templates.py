"""What a backend offers beyond loops: matrix products, convolutions and attention as templates.

The lowering describes a product, a convolution or an attention as a spec (sizes and strided views of its operands) and
an `Epilogue` (what to do with each finished accumulator), and asks the backend's `Templates` for kernels. A template
that does not take a spec (a dtype, a dilation, a shape it would be slow for) returns None: the lowering then writes
plain loops, and lowers attention as two products and a softmax.

Views. Operands are `Memory` views whose strides count elements, 0 where the operand is broadcast along a dimension;
nothing is promised about order or contiguity: a transposed or sliced operand arrives as it lies in memory. A group of
dimensions (batch, m, n, k) is a tuple of sizes because a view may not collapse to one stride; the lowering has already
collapsed neighbours wherever every view that sees them allows it, so that one dimension a group is the common case, and
the empty tuple means a single row, column or matrix. Memory offsets are 0: offsets travel in the launch's operands.

Arguments. `compute.args` is (a, b, *epilogue.args), with the packed operand in the place of the one that was packed;
`pack.args` is (the operand, the packed buffer); attention's are (q, k, v, *scores.args, *epilogue.args). Names of
memories in the spec and the epilogue are distinct.
A packed buffer is made once, in setup, and only read afterwards; its layout is the template's own affair.

Order of sums is the template's choice but fixed: equal specs give equal bits, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlx.codegen.kernel import Expr, Memory, Store, TemplateKernel, Var
from rlx.ir.dtypes import DType


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What becomes of each finished accumulator.

    acc: the accumulator as the stores' expressions read it; its dtype is the spec's `acc_dtype`.
    index: one i64 variable an output dimension, in the spec's order of output dimensions; the last one runs over the
        dimension along which a template should vectorise. Loads and stores are affine or computed in these.
    stores: run in order for each output element; values may share subexpressions. The stores of one element read no
        memory that another element's stores write.
    args: every memory that the stores load from or store to.
    flops: operations one element's stores take, for the cost.
    second: the other product's accumulator at the same place, for the one epilogue of a pair (see `Templates.joined`).
    """

    acc: Var
    index: tuple[Var, ...]
    stores: tuple[Store, ...]
    args: tuple[Memory, ...]
    flops: float = 0.0
    second: Var | None = None


@dataclass(frozen=True, eq=False)
class MatmulSpec:
    """acc[batch..., m..., n...] = sum over k... of a[batch..., m..., k...] * b[batch..., k..., n...].

    a_dtype, b_dtype: of the operands in memory (equal today); acc_dtype: f32 for f16, bf16 and f32; f64; the result's
        dtype for integers: operands are converted to it before they are multiplied.
    batch, m, n, k: sizes of each group of dimensions. Output dimensions are (*batch, *m, *n).
    a: strides over (*batch, *m, *k). b: strides over (*batch, *k, *n).
    a_constant, b_constant: the operand is known at setup and worth packing then; at most one is True.
    """

    a_dtype: DType
    b_dtype: DType
    acc_dtype: DType
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    a: Memory
    b: Memory
    a_constant: bool = False
    b_constant: bool = False


@dataclass(frozen=True, eq=False)
class MatmulKernels:
    """pack: runs in setup and fills `packed_nbytes` bytes from the constant operand; None where nothing is packed.

    in_place: the epilogue runs once an element, on a finished sum, and its argument for the result may have the memory
    of one that it reads at the same address.
    """

    pack: TemplateKernel | None
    packed_nbytes: int
    compute: TemplateKernel
    in_place: bool = False


@dataclass(frozen=True, eq=False)
class JoinedKernels:
    """Products with one left operand as one kernel.

    packs: one a product; each runs in setup and fills its place, from byte `offsets[i]` on, of one buffer of
        `packed_nbytes` bytes. compute: its args are (a, the packed buffer, *args), args those of every epilogue.
    """

    packs: tuple[TemplateKernel, ...]
    offsets: tuple[int, ...]
    packed_nbytes: int
    compute: TemplateKernel


@dataclass(frozen=True, eq=False)
class ConvSpec:
    """The convolution of conv_general: x [N, C, *S] with w [O, C / groups, *K] gives acc [N, O, *S'].

    batch, channels, features: N, C, O. size, kernel, out: S, K, S'.
    x: strides over (N, C, *S). w: strides over (O, C / groups, *K). Output dimensions are (N, O, *S').
    padding: (low, high) a spatial dimension, may be negative. lhs_dilation, rhs_dilation: of the image, of the kernel.
    w_constant: the weights are known at setup and worth packing then.
    """

    x_dtype: DType
    w_dtype: DType
    acc_dtype: DType
    batch: int
    channels: int
    features: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    x: Memory
    w: Memory
    w_constant: bool = False


@dataclass(frozen=True, eq=False)
class ConvKernels:
    """pack: runs in setup and fills `packed_nbytes` bytes from the weights; None where nothing is packed.

    in_place: as in `MatmulKernels`.
    """

    pack: TemplateKernel | None
    packed_nbytes: int
    compute: TemplateKernel
    in_place: bool = False


@dataclass(frozen=True, eq=False)
class Scores:
    """How a product of a query and a key becomes their score: scale, soft cap, mask, bias, in any order.

    acc: the product as `value` reads it. value: the score; both have the spec's dtype.
    index: one i64 variable a dimension of (*batch, *m, *n); templates vectorise along the last. Loads are affine or
        computed in these, and may be broadcast.
    args: every memory that `value` loads from. flops: operations one score takes, for the cost.
    """

    acc: Var
    index: tuple[Var, ...]
    value: Expr
    args: tuple[Memory, ...]
    flops: float = 0.0


@dataclass(frozen=True, eq=False)
class AttentionSpec:
    """acc[batch..., m..., e...] = sum over n... of w * v[batch..., n..., e...] / sum over n... of w, where

    w[batch..., m..., n...] = exp(s - max over n... of s), s = scores.value of sum over d... of
    q[batch..., m..., d...] * k[batch..., n..., d...].

    dtype: of q, k and v in memory, and of products, scores, weights and sums.
    batch, m, n, d, e: sizes of each group. Output dimensions are (*batch, *m, *e).
    q, k, v: strides over (*batch, *m, *d), (*batch, *n, *d), (*batch, *n, *e); 0 in k and v where queries share heads.
    blind: what becomes of a query whose every score is -inf: True: its weights are 0, False: NaN.
    cleared: whether the weights of a query that come out as NaN are 0 instead: one score NaN or +inf, or all -inf.
    causal: where not None, n is a single dimension with index j, m ends in one with index i, and every score with
        j > i + causal is -inf, whatever the operands hold: it need not be computed. Its weight 0 still multiplies v,
        which matters where v is not finite.

    Unless cleared, NaN in a score gives NaN for its query, +inf too, as the formula says.
    """

    dtype: DType
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    d: tuple[int, ...]
    e: tuple[int, ...]
    q: Memory
    k: Memory
    v: Memory
    scores: Scores
    blind: bool
    causal: int | None = None
    cleared: bool = False


class Templates(Protocol):
    """A backend's templates; each method returns None where it does not take the spec."""

    def matmul(self, spec: MatmulSpec, epilogue: Epilogue) -> MatmulKernels | None: ...

    def joined(self, specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue]) -> JoinedKernels | None:
        """Products that share a, with a constant b each and no batch; every epilogue has the args of all.

        Two specs of equal sizes and one epilogue are a pair: the epilogue's `second` is the second product's sum.
        """
        ...

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels | None: ...

    def attention(self, spec: AttentionSpec, epilogue: Epilogue) -> TemplateKernel | None: ...


class NoTemplates:
    """Everything in plain loops: for tests and for backends without templates."""

    def matmul(self, spec: MatmulSpec, epilogue: Epilogue) -> MatmulKernels | None:
        return None

    def joined(self, specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue]) -> JoinedKernels | None:
        return None

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels | None:
        return None

    def attention(self, spec: AttentionSpec, epilogue: Epilogue) -> TemplateKernel | None:
        return None
