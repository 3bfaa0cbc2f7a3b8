"""Activations: pointwise functions of one tensor, named as in PyTorch and ONNX.

Each computes narrow floats in f32 and rounds once. NaN in gives NaN out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from rlx.errors import IRError
from rlx.ir.builder import GraphBuilder, broadcast_shapes
from rlx.ir.composites.numerics import widen
from rlx.ir.dtypes import DType, bf16, f16, f32, f64, i8, i32
from rlx.ir.graph import Attribute, Value
from rlx.ir.op import Attrs, Call, Op, Sample, Tolerance, define
from rlx.ir.ops.signature import FLOATS, INTEGERS, choice, operands, require, require_dtype, require_same_dtype
from rlx.ir.types import TensorType

Body = Callable[[GraphBuilder, Value, Attrs], Value]

_EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, -3.0, 3.0, 6.0, -20.0, 20.0, 88.0, -88.0, math.inf, -math.inf, math.nan)


def _unary(
    name: str,
    summary: str,
    body: Body,
    *,
    attrs: Mapping[str, Attribute] | None = None,
    variants: tuple[Attrs, ...] = (),
    accepted: tuple[DType, ...] = FLOATS,
    ulps: float = 4.0,
    cancels: bool = False,
) -> Op:
    """Register an activation. variants: attributes that samples use besides the defaults.

    cancels: small results are differences of larger numbers, so the error goes by the largest result.
    """

    def infer(call: Call) -> tuple[TensorType, ...]:
        (x,) = operands(name, call, 1)
        require_dtype(name, 0, x, accepted)
        for key, default in (attrs or {}).items():
            if isinstance(default, float):
                number = isinstance(call.attrs[key], float | int) and not isinstance(call.attrs[key], bool)
                require(number, f"{name}: {key} must be a number, got {call.attrs[key]!r}")
        if "approximate" in call.attrs:
            choice(name, call.attrs, "approximate", ("none", "tanh"))
        return (x,)

    def expand(b: GraphBuilder, values: tuple[Value, ...], given: Attrs) -> tuple[Value, ...]:
        (x,) = values
        return (b.convert(body(b, widen(b, x), given), x.type.dtype),)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        dtypes = [d for d in (f32, f64, f16, bf16, i32, i8) if d in accepted]
        for given in ({}, *variants):
            for dtype in dtypes:
                yield Sample((_numbers(rng, (3, 17), dtype),), given)
        if f32 in accepted:
            yield Sample((np.array(_EDGES, np.float32),))
        yield Sample((np.zeros((0, 3), dtypes[0].numpy),))
        yield Sample((_numbers(rng, (), dtypes[0]),))

    return define(
        Op(
            name=name,
            summary=summary,
            infer=infer,
            attrs=dict(attrs or {}),
            expand=expand,
            pointwise=True,
            samples=samples,
            tolerance=Tolerance(ulps=ulps, terms=cancels),
        )
    )


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    return np.asarray(rng.normal(size=shape) * 4).astype(dtype.numpy)


def _where_positive(b: GraphBuilder, x: Value, on_true: Value, on_false: Value) -> Value:
    return b.emit("select", b.binary("gt", x, 0), on_true, on_false)


def _relu(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    return b.binary("max", x, 0)


def _leaky_relu(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    return b.emit("select", b.binary("lt", x, 0), b.binary("mul", x, attrs["alpha"]), x)


def _elu(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    return _where_positive(b, x, x, b.binary("mul", b.emit("expm1", x), attrs["alpha"]))


def _selu(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    return b.binary("mul", _elu(b, x, attrs), attrs["gamma"])


def _celu(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    alpha = attrs["alpha"]
    return _where_positive(b, x, x, b.binary("mul", b.emit("expm1", b.binary("div", x, alpha)), alpha))


def softplus(b: GraphBuilder, x: Value) -> Value:
    """log(1 + exp(x)) as max(x, 0) + log1p(exp(-|x|)): nothing overflows, and small results keep their digits."""
    tail = b.emit("log1p", b.emit("exp", b.emit("neg", b.emit("abs", x))))
    return b.binary("add", b.binary("max", x, 0), tail)


def _softsign(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    return b.binary("div", x, b.binary("add", b.emit("abs", x), 1))


def _mish(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    return b.binary("mul", x, b.emit("tanh", softplus(b, x)))


def _silu(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    return b.binary("mul", x, b.emit("logistic", x))


def _hard_sigmoid(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    line = b.binary("add", b.binary("mul", x, attrs["alpha"]), attrs["beta"])
    return b.binary("min", b.binary("max", line, 0), 1)


def _hard_swish(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    six = b.binary("min", b.binary("max", b.binary("add", x, 3), 0), 6)
    return b.binary("mul", x, b.binary("div", six, 6))  # six times a large x would overflow


def _gelu(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    half = b.binary("mul", x, 0.5)
    if attrs["approximate"] == "tanh":
        cube = b.binary("mul", b.binary("mul", x, x), x)
        inner = b.binary("mul", b.binary("add", x, b.binary("mul", cube, 0.044715)), math.sqrt(2 / math.pi))
        share = b.emit("tanh", inner)
    else:
        share = b.emit("erf", b.binary("mul", x, math.sqrt(0.5)))
    return b.binary("mul", half, b.binary("add", share, 1))


def _thresholded_relu(b: GraphBuilder, x: Value, attrs: Attrs) -> Value:
    # Written with <= so that NaN, which compares false, stays.
    return b.emit("select", b.binary("le", x, attrs["alpha"]), b.full(x.type.shape, 0, x.type.dtype), x)


_unary("relu", "max(x, 0), elementwise.", _relu, accepted=FLOATS + INTEGERS, ulps=0)
_unary("leaky_relu", "x where x >= 0, else alpha * x.", _leaky_relu, attrs={"alpha": 0.01}, variants=({"alpha": 0.3},))
_unary("elu", "x where x > 0, else alpha * expm1(x).", _elu, attrs={"alpha": 1.0}, variants=({"alpha": 1.7},))
_unary(
    "selu",
    "gamma * elu(x, alpha).",
    _selu,
    attrs={"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
    variants=({"alpha": 2.0, "gamma": 3.0},),
)
_unary("celu", "x where x > 0, else alpha * expm1(x / alpha).", _celu, attrs={"alpha": 1.0}, variants=({"alpha": 2.5},))
_unary("softplus", "log(1 + exp(x)), without overflow.", lambda b, x, attrs: softplus(b, x))
_unary("softsign", "x / (1 + |x|).", _softsign)
_unary("mish", "x * tanh(softplus(x)).", _mish, ulps=8)
_unary("silu", "x * logistic(x).", _silu)
_unary(
    "hard_sigmoid",
    "alpha * x + beta, held between 0 and 1.",
    _hard_sigmoid,
    attrs={"alpha": 0.2, "beta": 0.5},
    variants=({"alpha": 1 / 6, "beta": 0.4},),
)
_unary("hard_swish", "x * (relu6(x + 3) / 6).", _hard_swish)
_unary(
    "gelu",
    'x times the normal distribution function of x; approximate="tanh" for the formula with tanh.',
    _gelu,
    attrs={"approximate": "none"},
    variants=({"approximate": "tanh"},),
    ulps=8,
    cancels=True,
)
_unary(
    "thresholded_relu",
    "x where x > alpha, else 0.",
    _thresholded_relu,
    attrs={"alpha": 1.0},
    variants=({"alpha": -0.5},),
    ulps=0,
)


def _infer_prelu(call: Call) -> tuple[TensorType, ...]:
    x, slope = operands("prelu", call, 2)
    require_dtype("prelu", 0, x, FLOATS + INTEGERS)
    require_same_dtype("prelu", (x, slope))
    try:
        fits = broadcast_shapes(x.shape, slope.shape) == x.shape
    except IRError:
        fits = False
    require(fits, f"prelu: slope is {slope}, it must broadcast to x, which is {x}")
    return (x,)


def _expand_prelu(b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    x, slope = (widen(b, v) for v in values)
    scaled = b.binary("mul", x, slope)
    return (b.convert(b.emit("select", b.binary("lt", x, 0), scaled, x), values[0].type.dtype),)


def _sample_prelu(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in (f32, f64, f16, bf16, i32):
        for shape in ((), (7,), (5, 1), (2, 5, 7)):
            yield Sample((_numbers(rng, (2, 5, 7), dtype), _numbers(rng, shape, dtype)))


define(
    Op(
        name="prelu",
        summary="x where x >= 0, else slope * x; the slope broadcasts to x's shape.",
        infer=_infer_prelu,
        expand=_expand_prelu,
        samples=_sample_prelu,
        tolerance=Tolerance(ulps=1),
    )
)
