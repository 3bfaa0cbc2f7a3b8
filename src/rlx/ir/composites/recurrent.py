"""lstm, gru and rnn, with the meaning and the layouts of ONNX, as scans over time.

Operands are x [T, N, I], w [D, G*H, I] and r [D, G*H, H], where D is 2 for direction "bidirectional" and else 1, and G
counts the gates: lstm 4 (input, output, forget, cell), gru 3 (update, reset, hidden), rnn 1. Behind them come those
named in the attribute `optional`, in this order:

    b [D, 2*G*H]   sequence_lens [N] int   initial_h [D, N, H]   initial_c [D, N, H] (lstm)   p [D, 3*H] (lstm)

Results are y [T, D, N, H], y_h [D, N, H] and, of lstm, y_c [D, N, H]. Direction "reverse" reads each sequence from its
own end. Past the end of a sequence y is 0 and the state stays. Narrow floats carry their state in f32.

The product of x with w is taken once for all steps; only the product of the state with r stays inside the scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rlx.ir.builder import GraphBuilder
from rlx.ir.composites.cell_activation import CellActivation, cell_activations
from rlx.ir.composites.numerics import require_float, widen
from rlx.ir.dtypes import DType, f16, f32, f64, i32, i64
from rlx.ir.graph import Attribute, Value
from rlx.ir.op import Attrs, Call, Op, Sample, Tolerance, define
from rlx.ir.ops.signature import at_least, choice, flag, require
from rlx.ir.types import Shape, Size, TensorType

_DIRECTIONS = ("forward", "reverse", "bidirectional")


@dataclass(frozen=True)
class _Weights:
    """What one step of one direction reads besides its slices: values of the body."""

    r: Value
    recurrent_bias: Value | None
    peepholes: Value | None


#: (builder, this step's x w^T + bias [N, G*H], states [N, H]..., weights, activations, attrs) -> new states.
Step = Callable[
    [GraphBuilder, Value, tuple[Value, ...], _Weights, list[CellActivation], Attrs],
    tuple[Value, ...],
]


@dataclass(frozen=True)
class _Cell:
    """One kind of recurrent layer."""

    name: str
    gates: int
    states: int
    activations: tuple[str, ...]
    optional: tuple[str, ...]
    step: Step

    def operands(self, inputs: tuple, attrs: Attrs) -> dict:
        """Operand name -> operand."""
        return dict(zip(("x", "w", "r", *attrs["optional"]), inputs, strict=True))

    def bias_stays_inside(self, attrs: Attrs) -> bool:
        """Whether the step needs the recurrent bias by itself, so that it cannot be added to x w^T beforehand."""
        return bool(attrs.get("linear_before_reset", False))


# -- types ---------------------------------------------------------------------------------------------------------


def _infer(cell: _Cell, call: Call) -> tuple[TensorType, ...]:
    name, attrs = cell.name, call.attrs
    at_least(name, call, 3)
    optional = attrs["optional"]
    known = isinstance(optional, tuple) and optional == tuple(o for o in cell.optional if o in optional)
    require(known, f"{name}: optional is {optional!r}, it must name some of {cell.optional}, in this order")
    require(
        len(call.inputs) == 3 + len(optional),
        f"{name} takes x, w, r{''.join(', ' + o for o in optional)}; got {len(call.inputs)} operands",
    )
    choice(name, attrs, "direction", _DIRECTIONS)
    for key in ("linear_before_reset", "input_forget"):
        if key in attrs:
            flag(name, attrs, key)
    require(attrs["clip"] is None, f"{name}: clip is {attrs['clip']!r}, clipping is not supported; it must be None")
    operands: dict[str, TensorType] = cell.operands(call.inputs, attrs)
    x, r = operands["x"], operands["r"]
    require_float(name, x, "x")
    require(
        x.rank == 3 and r.rank == 3, f"{name}: x is {x}, r is {r}: they must be [T, N, I] and [D, {cell.gates}*H, H]"
    )
    directions = 2 if attrs["direction"] == "bidirectional" else 1
    cell_activations(name, attrs, cell.activations, directions)
    (steps, batch, width), hidden = x.shape, r.shape[2]
    require(isinstance(hidden, int), f"{name}: r is {r}, its last dimension must be a known number")
    expected: dict[str, Shape] = {
        "x": x.shape,
        "w": (directions, cell.gates * hidden, width),
        "r": (directions, cell.gates * hidden, hidden),
        "b": (directions, 2 * cell.gates * hidden),
        "sequence_lens": (batch,),
        "initial_h": (directions, batch, hidden),
        "initial_c": (directions, batch, hidden),
        "p": (directions, 3 * hidden),
    }
    for operand, type in operands.items():
        want = TensorType(expected[operand], x.dtype)
        if operand == "sequence_lens":
            fits = type.shape == want.shape and type.dtype in (i32, i64)
            require(fits, f"{name}: sequence_lens is {type}, it must be i32 or i64 of shape {want.shape}")
        else:
            require(type == want, f"{name}: {operand} is {type}, it must be {want}")
    state = TensorType((directions, batch, hidden), x.dtype)
    return (TensorType((steps, directions, batch, hidden), x.dtype), *[state] * cell.states)


# -- bodies --------------------------------------------------------------------------------------------------------


def _expand(cell: _Cell, b: GraphBuilder, values: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    operands: dict[str, Value] = cell.operands(values, attrs)
    dtype = values[0].type.dtype
    lens = operands.pop("sequence_lens", None)
    operands = {name: widen(b, v) for name, v in operands.items()}
    reverses = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[attrs["direction"]]
    activations = cell_activations(cell.name, attrs, cell.activations, len(reverses))
    each = len(cell.activations)
    sequences: list[Value] = []
    finals: list[list[Value]] = [[] for _ in range(cell.states)]
    for d, reverse in enumerate(reverses):
        parts = {name: v if name == "x" else _part(b, v, d) for name, v in operands.items()}
        chosen = activations[each * d : each * (d + 1)]
        *states, y = _run_direction(cell, b, parts, lens, chosen, reverse, attrs)
        sequences.append(_with_axis(b, y, 1))
        for final, state in zip(finals, states, strict=True):
            final.append(_with_axis(b, state, 0))
    results = [_joined(b, sequences, 1), *(_joined(b, final, 0) for final in finals)]
    return tuple(b.convert(v, dtype) for v in results)


def _run_direction(
    cell: _Cell,
    b: GraphBuilder,
    parts: Mapping[str, Value],
    lens: Value | None,
    activations: list[CellActivation],
    reverse: bool,
    attrs: Attrs,
) -> tuple[Value, ...]:
    """Final states [N, H] and y [T, N, H] of one direction, whose weights are without the dimension D."""
    x, r = parts["x"], parts["r"]
    steps, batch, _ = x.type.shape
    wide, hidden = r.type.shape
    dtype = x.type.dtype
    projected = b.emit("dot_general", x, parts["w"], lhs_contract=(2,), rhs_contract=(1,))
    recurrent_bias = None
    if "b" in parts:
        bias, recurrent_bias = (_columns(b, parts["b"], i * wide, wide) for i in range(2))
        if not cell.bias_stays_inside(attrs):
            bias, recurrent_bias = b.emit("add", bias, recurrent_bias), None
        projected = b.binary("add", projected, bias)
    zero = b.full((batch, hidden), 0, dtype)
    initial = [parts.get(name, zero) for name in ("initial_h", "initial_c")[: cell.states]]
    slices = [projected] if lens is None else [projected, b.iota((steps,), 0, i64)]
    consts = {"r": r, "recurrent_bias": recurrent_bias, "p": parts.get("p")}
    consts["lens"] = None if lens is None else b.convert(lens, i64)
    present = {name: v for name, v in consts.items() if v is not None}

    body = GraphBuilder(f"{cell.name}_step")
    states = tuple(body.input(f"state{i}", v.type) for i, v in enumerate(initial))
    step_slices = [body.input(f"slice{i}", TensorType(v.type.shape[1:], v.type.dtype)) for i, v in enumerate(slices)]
    inside = {name: body.input(name, v.type) for name, v in present.items()}
    weights = _Weights(inside["r"], inside.get("recurrent_bias"), inside.get("p"))
    new = cell.step(body, step_slices[0], states, weights, activations, attrs)
    y = new[0]
    if lens is not None:
        alive = body.binary("lt", body.broadcast(step_slices[1], lens.type.shape), inside["lens"])
        alive = body.emit("broadcast_in_dim", alive, shape=(batch, hidden), broadcast_dims=(0,))
        new = tuple(body.emit("select", alive, s, old) for s, old in zip(new, states, strict=True))
        y = body.emit("select", alive, y, body.full((batch, hidden), 0, dtype))
    return b.emit_many(
        "scan",
        *initial,
        *slices,
        *present.values(),
        regions=(body.build((*new, y)),),
        num_carry=cell.states,
        num_xs=len(slices),
        length=steps,
        reverse=reverse,
    )


def _recurrent(b: GraphBuilder, state: Value, r: Value) -> Value:
    """state [N, H] times r [G*H, H], transposed: [N, G*H]."""
    return b.emit("dot_general", state, r, lhs_contract=(1,), rhs_contract=(1,))


def _lstm_step(
    b: GraphBuilder,
    projected: Value,
    states: tuple[Value, ...],
    weights: _Weights,
    activations: list[CellActivation],
    attrs: Attrs,
) -> tuple[Value, ...]:
    h, c = states
    f, g, out = activations
    size = h.type.shape[1]
    gates = b.emit("add", projected, _recurrent(b, h, weights.r))
    i, o, forget, cell = (_columns(b, gates, k * size, size) for k in range(4))

    def peek(gate: Value, k: int, state: Value) -> Value:
        if weights.peepholes is None:
            return gate
        return b.emit("add", gate, b.binary("mul", state, _columns(b, weights.peepholes, k * size, size)))

    i = f(b, peek(i, 0, c))
    forget = (
        b.emit("sub", b.full(i.type.shape, 1, i.type.dtype), i) if attrs["input_forget"] else f(b, peek(forget, 2, c))
    )
    new_c = b.emit("add", b.emit("mul", forget, c), b.emit("mul", i, g(b, cell)))
    o = f(b, peek(o, 1, new_c))
    return b.emit("mul", o, out(b, new_c)), new_c


def _gru_step(
    b: GraphBuilder,
    projected: Value,
    states: tuple[Value, ...],
    weights: _Weights,
    activations: list[CellActivation],
    attrs: Attrs,
) -> tuple[Value, ...]:
    (h,) = states
    f, g = activations
    size = h.type.shape[1]
    linear = attrs["linear_before_reset"]
    hidden = _columns(b, projected, 2 * size, size)
    if linear:
        recurrent = _recurrent(b, h, weights.r)
        if weights.recurrent_bias is not None:
            recurrent = b.binary("add", recurrent, weights.recurrent_bias)
        update, reset = (
            f(b, b.emit("add", _columns(b, projected, k * size, size), _columns(b, recurrent, k * size, size)))
            for k in range(2)
        )
        candidate = b.emit("add", hidden, b.emit("mul", reset, _columns(b, recurrent, 2 * size, size)))
    else:
        both = b.emit("slice", weights.r, starts=(0, 0), limits=(2 * size, size), strides=(1, 1))
        last = b.emit("slice", weights.r, starts=(2 * size, 0), limits=(3 * size, size), strides=(1, 1))
        gates = f(b, b.emit("add", _columns(b, projected, 0, 2 * size), _recurrent(b, h, both)))
        update, reset = (_columns(b, gates, k * size, size) for k in range(2))
        candidate = b.emit("add", hidden, _recurrent(b, b.emit("mul", reset, h), last))
    rest = b.emit("sub", b.full(update.type.shape, 1, update.type.dtype), update)
    return (b.emit("add", b.emit("mul", rest, g(b, candidate)), b.emit("mul", update, h)),)


def _rnn_step(
    b: GraphBuilder,
    projected: Value,
    states: tuple[Value, ...],
    weights: _Weights,
    activations: list[CellActivation],
    attrs: Attrs,
) -> tuple[Value, ...]:
    return (activations[0](b, b.emit("add", projected, _recurrent(b, states[0], weights.r))),)


def _part(b: GraphBuilder, x: Value, index: int) -> Value:
    """x[index], without that dimension."""
    shape = x.type.shape
    one = b.emit(
        "slice", x, starts=(index,) + (0,) * (len(shape) - 1), limits=(index + 1, *shape[1:]), strides=(1,) * len(shape)
    )
    return b.emit("reshape", one, shape=shape[1:])


def _columns(b: GraphBuilder, x: Value, start: Size, size: Size) -> Value:
    """`size` elements of the last dimension, from `start` on."""
    lead = x.type.shape[:-1]
    return b.emit(
        "slice", x, starts=(0,) * len(lead) + (start,), limits=(*lead, start + size), strides=(1,) * x.type.rank
    )


def _with_axis(b: GraphBuilder, x: Value, axis: int) -> Value:
    return b.emit("reshape", x, shape=(*x.type.shape[:axis], 1, *x.type.shape[axis:]))


def _joined(b: GraphBuilder, parts: list[Value], dimension: int) -> Value:
    return parts[0] if len(parts) == 1 else b.emit("concatenate", *parts, dimension=dimension)


# -- records -------------------------------------------------------------------------------------------------------


def _sample(cell: _Cell, variants: tuple[Attrs, ...]) -> Callable[[np.random.Generator], Iterator[Sample]]:
    def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
        return (rng.normal(size=shape) * 0.5).astype(dtype.numpy)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        steps, batch, width, hidden = 5, 3, 4, 2
        for given in ({}, *variants):
            for dtype in (f32, f64, f16) if not given else (f32,):
                directions = 2 if given.get("direction") == "bidirectional" else 1
                shapes = {
                    "b": (directions, 2 * cell.gates * hidden),
                    "initial_h": (directions, batch, hidden),
                    "initial_c": (directions, batch, hidden),
                    "p": (directions, 3 * hidden),
                }
                arrays = [
                    draw(rng, (steps, batch, width), dtype),
                    draw(rng, (directions, cell.gates * hidden, width), dtype),
                    draw(rng, (directions, cell.gates * hidden, hidden), dtype),
                ]
                for name in given.get("optional", ()):
                    lens = name == "sequence_lens"
                    arrays.append(np.array([5, 1, 3], np.int32) if lens else draw(rng, shapes[name], dtype))
                yield Sample(tuple(arrays), given)

    return samples


def _register(cell: _Cell, summary: str, attrs: Mapping[str, Attribute], variants: tuple[Attrs, ...]) -> Op:
    every = tuple(o for o in cell.optional if o != "p")
    shared: tuple[Attrs, ...] = (
        {"optional": ("b",), "direction": "reverse"},
        {"optional": every, "direction": "forward"},
        {"optional": every, "direction": "reverse"},
        {"optional": every, "direction": "bidirectional"},
    )
    return define(
        Op(
            name=cell.name,
            summary=summary,
            infer=lambda call: _infer(cell, call),
            attrs={
                "optional": (),
                "direction": "forward",
                "activations": (),
                "activation_alpha": (),
                "activation_beta": (),
                "clip": None,
                **attrs,
            },
            expand=lambda b, values, given: _expand(cell, b, values, given),
            samples=_sample(cell, (*shared, *variants)),
            tolerance=Tolerance(ulps=64, terms=True),
        )
    )


_register(
    _Cell("lstm", 4, 2, ("sigmoid", "tanh", "tanh"), ("b", "sequence_lens", "initial_h", "initial_c", "p"), _lstm_step),
    "A long short-term memory layer over x [T, N, I] -> y [T, D, N, H], y_h, y_c [D, N, H]; `optional` names operands.",
    {"input_forget": False},
    (
        {"optional": ("b", "p")},
        {"optional": ("p",), "input_forget": True},
        {"activations": ("HardSigmoid", "Elu", "Softsign"), "activation_alpha": (0.3, 1.5), "activation_beta": (0.4,)},
    ),
)
_register(
    _Cell("gru", 3, 1, ("sigmoid", "tanh"), ("b", "sequence_lens", "initial_h"), _gru_step),
    "A gated recurrent layer over x [T, N, I] -> y [T, D, N, H], y_h [D, N, H]; `optional` names operands.",
    {"linear_before_reset": False},
    (
        {"linear_before_reset": True},
        {"optional": ("b", "sequence_lens", "initial_h"), "direction": "bidirectional", "linear_before_reset": True},
    ),
)
_register(
    _Cell("rnn", 1, 1, ("tanh",), ("b", "sequence_lens", "initial_h"), _rnn_step),
    "A simple recurrent layer over x [T, N, I] -> y [T, D, N, H], y_h [D, N, H]; `optional` names operands.",
    {},
    ({"activations": ("Relu",)}, {"activations": ("Affine",), "activation_alpha": (0.5,), "activation_beta": (0.1,)}),
)
