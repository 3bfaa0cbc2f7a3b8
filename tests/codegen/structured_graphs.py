"""Random graphs of the ops that move and control: products, windows, updates, scatters, sorts, branches and loops.

Everything is a whole number small enough for f32 to be exact, so results must agree bit for bit. Weights make some of
a graph static, and concatenations, shared values and several outputs make fusion choose.
"""

from __future__ import annotations

import math

import numpy as np

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import bool_, f32, i32, i64
from rlx.ir.graph import Graph, Value


class Maker:
    """One random graph; `seed` decides all."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = GraphBuilder(f"seed{seed}")
        self.count = 0

    def pick(self, *options):
        return options[int(self.rng.integers(len(options)))]

    def size(self) -> int:
        return self.pick(1, 2, 3, 4, 5, 8, 17)

    def whole(self, *shape: int) -> np.ndarray:
        return self.rng.integers(-3, 4, shape).astype(np.float32)

    def small(self, b: GraphBuilder, x: Value) -> Value:
        """x clamped to [-4, 4], so that nothing grows."""
        bound = b.full(x.type.shape, 4.0, f32)
        return b.emit("clamp", b.emit("neg", bound), x, bound)

    def graph(self, ops: int) -> Graph:
        rank = self.pick(2, 3, 4)
        values = [self.b.input(f"x{i}", TensorType(tuple(self.size() for _ in range(rank)), f32)) for i in range(2)]
        values.append(self.b.parameter("w", self.whole(*(self.size() for _ in range(rank)))))
        for _ in range(ops):
            x = values[-1 - int(self.rng.integers(min(len(values), 4)))]
            values.append(self.step(self.b, x))
        # Operands of one concatenation that others read as well.
        y = values[-1]
        if y.type.rank:
            turned = self.b.emit("rev", self.b.emit("neg", y), dimensions=(0,))
            values.append(self.b.emit("concatenate", y, turned, y, dimension=self.pick(0, y.type.rank - 1)))
        kept = [v for v in values[3:] if self.rng.random() < 0.3] + values[-1:]
        return self.b.build({f"y{i}": v for i, v in enumerate(kept)})

    def name(self) -> str:
        self.count += 1
        return f"p{self.count}"

    def like(self, b: GraphBuilder, x: Value) -> Value:
        """A weight that x's shape broadcasts with, or x itself."""
        if b is not self.b or self.pick(True, False):
            return x
        shape = tuple(self.pick(1, n) for n in x.type.sizes)
        return b.broadcast(b.parameter(self.name(), self.whole(*shape)), x.type.shape)

    def step(self, b: GraphBuilder, x: Value, depth: int = 0) -> Value:
        rules = [self.pointwise, self.reshape, self.turn, self.reduce, self.softened, self.running]
        if x.type.rank:
            rules += [self.product, self.joined, self.update, self.scatter, self.sort, self.window, self.take]
        if x.type.rank == 4:
            rules += [self.convolve] * 2
        if depth < 2:
            rules += [self.branch, self.loop, self.scan]
        if x.type.elements > 600:
            rules = [self.reduce]
        if x.type.elements == 0:
            rules = [self.pointwise, self.reduce, self.turn]
        return self.pick(*rules)(b, x, depth)

    # -- rules -----------------------------------------------------------------------------------------------------

    def pointwise(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        y = b.emit(self.pick("add", "mul", "max", "sub"), x, self.like(b, x))
        return self.small(b, b.emit("neg", y) if self.pick(True, False) else y)

    def reshape(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        flat = x.type.elements
        factors = [d for d in range(1, flat + 1) if flat % d == 0] if flat else [1]
        d = self.pick(*factors)
        return b.emit("reshape", x, shape=self.pick((flat,), (d, flat // d), (1, flat // d, d), (d, 1, 1, flat // d)))

    def turn(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        return b.emit("transpose", x, permutation=tuple(int(d) for d in self.rng.permutation(x.type.rank)))

    def reduce(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        dims = tuple(d for d in range(x.type.rank) if self.pick(True, False))
        return self.small(b, b.emit(self.pick("reduce_sum", "reduce_max", "reduce_min"), x, dimensions=dims))

    def softened(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        """A statistic of each row, read by the row again, twice."""
        dims = tuple(d for d in range(x.type.rank) if self.pick(True, False))
        kept = tuple(d for d in range(x.type.rank) if d not in dims)
        for op in ("reduce_max", "reduce_sum"):
            row = self.small(b, b.emit(op, x, dimensions=dims))
            x = b.emit("sub", x, b.emit("broadcast_in_dim", row, shape=x.type.shape, broadcast_dims=kept))
        return self.small(b, x)

    def running(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        if not x.type.rank:
            return b.emit("abs", x)
        axis = self.pick(*range(x.type.rank))
        op = self.pick("cumsum", "cummax", "cummin")
        return self.small(b, b.emit(op, x, dimension=axis, reverse=self.pick(True, False)))

    def product(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        order = [int(d) for d in self.rng.permutation(x.type.rank)]
        batch = tuple(order[: self.pick(0, 1)])
        contract = tuple(order[len(batch) :][: self.pick(1, 2)])
        y = b.emit("rev", x, dimensions=(0,)) if self.pick(True, False) else x
        names = {"lhs_contract": contract, "rhs_contract": contract, "lhs_batch": batch, "rhs_batch": batch}
        if b is self.b and not batch and self.pick(True, False):
            w = b.parameter(self.name(), self.whole(*(x.type.sizes[d] for d in contract), self.size()))
            y, names["rhs_contract"] = w, tuple(range(len(contract)))
        return self.small(b, b.emit("dot_general", x, y, **names))

    def joined(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        axis = self.pick(*range(x.type.rank))
        other = b.emit("cumsum", x, dimension=axis) if self.pick(True, False) else b.emit("neg", x)
        return self.small(
            b, b.emit("concatenate", *self.pick((x, other), (other, x), (other, x, other)), dimension=axis)
        )

    def index(self, b: GraphBuilder, limit: int) -> Value:
        return b.constant(np.array(self.rng.integers(-1, limit + 1), np.int32))

    def update(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        starts = [self.index(b, n) for n in x.type.sizes]
        # Starts that are known only at run time: their constants pass through something that is not folded.
        zero = b.convert(b.emit("reduce_min", b.emit("abs", x), dimensions=tuple(range(x.type.rank))), i32)
        starts = [b.emit("add", s, b.emit("mul", zero, b.constant(0, i32))) for s in starts]
        sizes = tuple(self.pick(n, max(1, n // 2)) for n in x.type.sizes)
        window = b.emit("dynamic_slice", x, *starts, sizes=sizes)
        target = self.pick(x, b.emit("cumsum", x, dimension=0))
        return self.small(
            b, b.emit("dynamic_update_slice", target, b.emit("neg", window), *reversed(starts[:0]), *starts)
        )

    def take(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        axis = self.pick(*range(x.type.rank))
        n, count = x.type.sizes[axis], self.size()
        indices = b.constant(self.rng.integers(-1, n + 1, (count, 1)).astype(np.int64))
        sizes = tuple(1 if d == axis else m for d, m in enumerate(x.type.sizes))
        offset = tuple(d for d in range(x.type.rank) if d != axis)
        return b.emit(
            "gather", x, indices, offset_dims=offset, collapsed_slice_dims=(axis,), start_index_map=(axis,),
            slice_sizes=sizes, mode="clip",
        )  # fmt: skip

    def scatter(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        axis = self.pick(*range(x.type.rank))
        count = self.size()
        indices = b.constant(self.rng.integers(-1, x.type.sizes[axis] + 1, (count, 1)).astype(np.int64))
        shape = tuple(count if d == axis else m for d, m in enumerate(x.type.sizes))
        updates = b.iota(shape, self.pick(*range(x.type.rank)), f32)
        window = tuple(d for d in range(x.type.rank) if d != axis)
        y = b.emit(
            "scatter", self.pick(x, b.emit("neg", x)), indices, updates, update_window_dims=window,
            inserted_window_dims=(axis,), scatter_dims_to_operand_dims=(axis,), combiner=self.pick("set", "add", "max"),
        )  # fmt: skip
        return self.small(b, y)

    def sort(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        axis = self.pick(*range(x.type.rank))
        keys, moved = b.emit_many("sort", x, b.emit("rev", x, dimensions=(axis,)), dimension=axis)
        return b.emit("sub", keys, moved) if self.pick(True, False) else self.small(b, keys)

    def window(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        rank = x.type.rank
        window = tuple(self.pick(1, 2, min(3, n), min(7, n)) for n in x.type.sizes)
        padding = tuple((self.pick(0, w - 1), self.pick(0, w - 1)) for w in window)
        y = b.emit(
            self.pick("reduce_window_sum", "reduce_window_max"), x, window=window,
            strides=tuple(self.pick(1, 2) for _ in range(rank)), padding=padding,
            base_dilation=(1,) * rank, window_dilation=(1,) * rank,
        )  # fmt: skip
        bound = b.full(y.type.shape, 4.0, f32)
        return b.emit("clamp", b.emit("neg", bound), y, bound)

    def convolve(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        c = x.type.sizes[1]
        groups = self.pick(1, c)
        shape = (groups * self.pick(1, 2, 3), c // groups, self.pick(1, 3), self.pick(1, 2))
        weight = b.constant(self.whole(*shape)) if b is not self.b else b.parameter(self.name(), self.whole(*shape))
        y = b.emit(
            "conv_general", x, weight, strides=(self.pick(1, 2), 1), padding=((1, 1), (self.pick(0, 1), 1)),
            lhs_dilation=(1, self.pick(1, 2)), rhs_dilation=(1, 1), groups=groups,
        )  # fmt: skip
        return self.small(b, y)

    # -- control flow ----------------------------------------------------------------------------------------------

    def branch(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        total = b.emit("reduce_sum", x, dimensions=tuple(range(x.type.rank)))
        arms = []
        shape = x.type
        for turned in (False, True):
            arm = GraphBuilder()
            given = arm.input("x", shape), arm.input("unused", TensorType((), f32))
            y = self.step(arm, given[0], depth + 1)
            flat = arm.emit("reduce_sum", y, dimensions=tuple(range(y.type.rank)))
            spread = arm.broadcast(self.small(arm, flat), shape.shape)
            arms.append(arm.build([arm.emit("sub", spread, given[0]) if turned else given[0], given[1]]))
        return b.emit_many("cond", b.binary("gt", total, 0.0), x, total, regions=arms)[0]

    def loop(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        counter = TensorType((), i64)
        test, body = GraphBuilder(), GraphBuilder()
        i = test.input("i", counter)
        for name in ("x", "y", "k"):
            test.input(name, x.type)
        j, u, v, k = (body.input(n, t) for n, t in (("i", counter), ("x", x.type), ("y", x.type), ("k", x.type)))
        nexts = self.small(body, body.emit("add", u, k)), self.pick(u, v, body.emit("neg", v))
        regions = test.build([test.binary("lt", i, self.pick(0, 1, 3))]), body.build([body.binary("add", j, 1), *nexts])
        results = b.emit_many("while_loop", b.constant(0, i64), x, x, self.like(b, x), num_carry=3, regions=regions)
        return self.small(b, b.emit("sub", results[1], results[2]))

    def scan(self, b: GraphBuilder, x: Value, depth: int) -> Value:
        if not x.type.rank:
            return b.emit("neg", x)
        row = TensorType(x.type.shape[1:], f32)
        body = GraphBuilder()
        carry, part = body.input("c", row), body.input("x", row)
        total = self.small(body, body.emit("add", carry, part))
        extra = body.emit("eq", total, carry)
        region = body.build([total, self.pick(total, part, body.emit("neg", total)), extra])
        start = b.full(row.shape, 1.0, f32)
        outputs = b.emit_many(
            "scan", start, x, num_carry=1, num_xs=1, length=x.type.sizes[0], reverse=self.pick(True, False),
            regions=(region,),
        )  # fmt: skip
        flags = b.convert(outputs[2], f32)
        assert outputs[2].type.dtype is bool_
        return self.small(b, b.emit("add", outputs[1], flags))


def inputs_of(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Whole numbers for each input."""
    rng = np.random.default_rng(seed)
    return {v.name: rng.integers(-3, 4, v.type.sizes).astype(np.float32) for v in graph.inputs}


def cells(graph: Graph) -> int:
    """Elements that a run computes, roughly: to keep slow interpreters from large graphs."""
    return sum(math.prod(v.type.sizes) for _, node in graph.walk() for v in node.outputs)
