"""Random graphs for comparing what must agree: backends, and optimised with unoptimised programs.

`exact_graph` holds ops whose results are exact in every order (integers, and f32 values that stay small integers), so
answers must be equal to the bit. `smooth_graph` holds continuous ops on values of about 1, so answers may differ by
rounding alone, and rounding is not magnified. Both draw every choice from `choose`, a function from a number of
options to one of them; a test gives one that its shrinker understands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlx.ir import Graph, GraphBuilder, TensorType, Value, dtypes
from rlx.ir.dtypes import DType

#: choose(n) picks one of range(n).
Choose = Callable[[int], int]

SIZES = (1, 2, 3, 5, 8, 17, 33)
MAX_ELEMENTS = 1500
#: What keeps whole numbers small: |x| <= 64 in, so that products and sums of 1500 terms stay below 2**24.
BOUND = 64


class _Maker:
    def __init__(self, choose: Choose, name: str) -> None:
        self.choose = choose
        self.b = GraphBuilder(name)
        self.values: list[Value] = []

    def pick(self, options: Sequence[object]) -> object:
        return options[self.choose(len(options))]

    def shape(self) -> tuple[int, ...]:
        sizes: list[int] = []
        for _ in range(self.choose(4)):
            room = MAX_ELEMENTS // max(1, int(np.prod(sizes)))
            sizes.append([s for s in SIZES if s <= room][self.choose(sum(s <= room for s in SIZES))])
        return tuple(sizes)

    def any_value(self, *kinds: DType, rank: int = 0) -> Value | None:
        fit = [v for v in self.values if (not kinds or v.type.dtype in kinds) and v.type.rank >= rank]
        return fit[self.choose(len(fit))] if fit else None

    def partner(self, x: Value) -> Value:
        """A value of x's type: another one, a broadcast one, or a constant."""
        same = [v for v in self.values if v.type == x.type]
        vectors = [v for v in self.values if v.type.rank == 1 and x.type.rank > 1]
        rows = [v for v in vectors if v.type.dtype is x.type.dtype and v.type.shape[0] == x.type.shape[-1]]
        way = self.choose(3)
        if way == 0 and rows:
            row = rows[self.choose(len(rows))]
            return self.b.emit("broadcast_in_dim", row, shape=x.type.shape, broadcast_dims=(x.type.rank - 1,))
        if way == 1:
            return self.b.full(x.type.shape, [1, 2, 3][self.choose(3)], x.type.dtype)
        return same[self.choose(len(same))]

    # -- ops that only move data ------------------------------------------------------------------------------------

    def move(self) -> Value | None:
        x = self.any_value(rank=1)
        if x is None:
            return None
        b, shape, axis = self.b, x.type.sizes, self.choose(x.type.rank)
        way = self.choose(9)
        if way == 0:
            order = list(range(x.type.rank))
            order = order[self.choose(len(order)) :] + order[:0]
            order += [d for d in range(x.type.rank) if d not in order]
            return b.emit("transpose", x, permutation=tuple(order))
        if way == 1:
            flat = int(np.prod(shape))
            divisors = [d for d in range(1, flat + 1) if flat % d == 0]
            d = divisors[self.choose(len(divisors))]
            return b.emit("reshape", x, shape=(d, flat // d) if self.choose(2) else (flat,))
        if way == 2:
            start = self.choose(shape[axis])
            limit = start + 1 + self.choose(shape[axis] - start)
            starts = tuple(start if d == axis else 0 for d in range(len(shape)))
            limits = tuple(limit if d == axis else s for d, s in enumerate(shape))
            strides = tuple(1 + self.choose(2) if d == axis else 1 for d in range(len(shape)))
            return b.emit("slice", x, starts=starts, limits=limits, strides=strides)
        if way == 3:
            low = tuple(self.choose(3) - (1 if s > 2 else 0) for s in shape)
            interior = tuple(self.choose(2) for _ in shape)
            value = b.constant(self.choose(3), x.type.dtype)
            return b.emit("pad", x, value, low=low, high=tuple(self.choose(2) for _ in shape), interior=interior)
        if way == 4:
            return b.emit("concatenate", x, self.partner(x), dimension=axis)
        if way == 5:
            return b.emit("rev", x, dimensions=(axis,))
        if way == 6:
            return b.emit("broadcast_in_dim", x, shape=(2, *shape), broadcast_dims=tuple(range(1, len(shape) + 1)))
        if way == 7:
            start = b.constant(self.choose(shape[axis] + 3) - 1, dtypes.i32)
            zero = b.constant(0, dtypes.i32)
            size = 1 + self.choose(shape[axis])
            starts = [start if d == axis else zero for d in range(len(shape))]
            sizes = tuple(size if d == axis else s for d, s in enumerate(shape))
            return b.emit("dynamic_slice", x, *starts, sizes=sizes)
        indices = b.constant(np.array([[self.choose(shape[axis] + 2)] for _ in range(4)], np.int32))
        slice_sizes = tuple(1 if d == axis else s for d, s in enumerate(shape))
        offset_dims = tuple(range(1, len(shape)))
        return b.emit(
            "gather", x, indices, offset_dims=offset_dims, collapsed_slice_dims=(axis,), start_index_map=(axis,),
            slice_sizes=slice_sizes, mode="clip",
        )  # fmt: skip

    def keep(self, value: Value | None) -> None:
        if value is not None and value.type.elements <= 4 * MAX_ELEMENTS and value.type.rank <= 5:
            self.values.append(value)

    def finish(self) -> Graph:
        produced = {f"y{i}": v for i, v in enumerate(self.values[-1 - self.choose(3) :])}
        return self.b.build(produced)


def exact_graph(choose: Choose, ops: int = 12) -> Graph:
    """A graph of `ops` exact ops over f32, i32, i64 and bool; feed it with `exact_inputs`."""
    make = _Maker(choose, "exact")
    b = make.b
    for i in range(1 + choose(3)):
        dtype = (dtypes.f32, dtypes.i32, dtypes.f32, dtypes.i64)[choose(4)]
        make.values.append(b.input(f"x{i}", TensorType(make.shape(), dtype)))

    def small(x: Value) -> Value:
        bound = b.full(x.type.shape, BOUND, x.type.dtype)
        return b.emit("clamp", b.emit("neg", bound), x, bound)

    def step() -> Value | None:
        way = choose(8)
        x = make.any_value(dtypes.f32, dtypes.i32, dtypes.i64)
        if way <= 2 or x is None:
            return make.move()
        if way == 3:
            return small(b.emit(("add", "sub", "mul", "max", "min")[choose(5)], x, make.partner(x)))
        if way == 4:
            flag = b.emit(("lt", "ge", "eq", "ne")[choose(4)], x, make.partner(x))
            return b.emit("select", flag, x, make.partner(x))
        if way == 5:
            return b.emit(("neg", "abs", "sign")[choose(3)], x)
        if way == 6:
            return b.emit("convert", x, dtype=(dtypes.f32, dtypes.i32, dtypes.i64)[choose(3)])
        if x.type.rank == 0:
            return None
        axis = choose(x.type.rank)
        kind = choose(6)
        if kind <= 2:
            return small(b.emit(("reduce_sum", "reduce_max", "reduce_min")[kind], x, dimensions=(axis,)))
        if kind == 3:
            return small(b.emit("cumsum", x, dimension=axis))
        if kind == 4:
            return b.emit("argmax", x, dimension=axis, dtype=dtypes.i32)
        if x.type.rank < 2:
            return None
        return small(b.emit("dot_general", x, x, lhs_contract=(axis,), rhs_contract=(axis,)))

    for _ in range(ops):
        make.keep(step())
    return make.finish()


def exact_inputs(graph: Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Whole numbers from -4 to 4 for each input."""
    return {n: rng.integers(-4, 5, t.sizes).astype(t.dtype.numpy) for n, t in graph.input_types.items()}


def smooth_graph(choose: Choose, ops: int = 12) -> Graph:
    """A graph of `ops` continuous f32 ops that keep values of about 1; feed it with `smooth_inputs`."""
    make = _Maker(choose, "smooth")
    b = make.b
    for i in range(1 + choose(3)):
        make.values.append(b.input(f"x{i}", TensorType(make.shape(), dtypes.f32)))

    def step() -> Value | None:
        way = choose(8)
        x = make.any_value(dtypes.f32)
        if way <= 1 or x is None:
            return make.move()
        if way == 2:
            return b.emit("tanh", b.emit(("add", "sub", "mul", "max", "min")[choose(5)], x, make.partner(x)))
        if way == 3:
            return b.emit(("tanh", "logistic", "sin", "cos", "erf", "abs", "neg")[choose(7)], x)
        if way == 4:
            return b.emit(("relu", "silu", "gelu", "softplus")[choose(4)], x)
        if x.type.rank == 0:
            return None
        axis = choose(x.type.rank)
        if way == 5:
            return b.emit(("softmax", "log_softmax")[choose(2)], b.emit("tanh", x), axis=axis)
        if way == 6:
            scale = 1.0 / x.type.sizes[axis]
            return b.binary("mul", b.emit("reduce_sum", x, dimensions=(axis,)), scale)
        if x.type.rank < 2:
            return None
        product = b.emit("dot_general", x, x, lhs_contract=(axis,), rhs_contract=(axis,))
        return b.emit("tanh", b.binary("mul", product, 1.0 / x.type.sizes[axis]))

    for _ in range(ops):
        make.keep(step())
    return make.finish()


def smooth_inputs(graph: Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Normal values for each input, at most 2 in magnitude."""
    return {n: np.clip(rng.normal(size=t.sizes), -2, 2).astype(np.float32) for n, t in graph.input_types.items()}


def side_by_side(graphs: Mapping[str, Graph]) -> Graph:
    """One graph of several that share nothing; inputs and outputs are named `<key>.<name>`."""
    b = GraphBuilder("together")
    outputs: dict[str, Value] = {}
    for key, graph in graphs.items():
        values = {v: b.input(f"{key}.{v.name}", v.type) for v in graph.inputs}
        for node in graph.nodes:
            made = b.emit_many(node.op, *(values[v] for v in node.inputs), regions=node.regions, **node.attrs)
            values.update(zip(node.outputs, made, strict=True))
        outputs |= {f"{key}.{name}": values[v] for name, v in zip(graph.output_names, graph.outputs, strict=True)}
    return b.build(outputs)
