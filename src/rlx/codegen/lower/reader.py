"""Reads any value at any index, as an expression: what makes fusion work.

A value that lies in memory is loaded. Any other value is computed on the spot from its producer: pointwise ops apply to
their operands at the same index, shape ops only change the index, gathers and dynamic slices turn loaded integers into
index terms, padding becomes a mask. Which values lie in memory is fusion's decision, taken before; the reader never
materialises. A value read twice at one index is one expression.

A mask travels down to the loads: where it is false the value is never used, but loads must not touch memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from rlx.codegen.kernel import Apply, Const, Expr, Load
from rlx.codegen.lower.affine import ZERO, Affine, Index, as_dtype
from rlx.codegen.lower.kernel_builder import KernelBuilder
from rlx.codegen.lower.random_bits import threefry_bits
from rlx.codegen.lower.view import View, row_major
from rlx.codegen.lower.window import window_terms
from rlx.errors import LoweringError
from rlx.ir.dtypes import DType, bool_, i64
from rlx.ir.graph import Node, Value
from rlx.ir.op import get

#: Reads an in-kernel value (an accumulator, a row statistic) at an index.
ReadHere = Callable[[Index], Expr | None]


class Values(Protocol):
    """What the reader must know of the graph: producers, and views of values that lie in memory."""

    @property
    def producers(self) -> Mapping[Value, Node]: ...

    def view_of(self, value: Value) -> View | None: ...


class Reader:
    """Reads values for one kernel."""

    def __init__(self, values: Values, builder: KernelBuilder) -> None:
        self.values = values
        self.builder = builder
        self.space = builder.space
        self.here: dict[Value, ReadHere] = {}
        self._memo: dict[tuple[Value, Index, Expr | None], Expr] = {}
        self._atoms: dict[tuple[Any, ...], Affine] = {}

    def read(self, value: Value, index: Index, mask: Expr | None = None) -> Expr:
        """The element of `value` at `index`."""
        here = self.here.get(value)
        if here is not None:
            found = here(index)
            if found is not None:
                return found
        key = (value, index, mask)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._read(value, index, mask)
        return found

    def _read(self, value: Value, index: Index, mask: Expr | None) -> Expr:
        view = self.values.view_of(value)
        if view is not None:
            return self.builder.load(view, index, mask)
        node = self.values.producers.get(value)
        if node is None:
            raise LoweringError(f"{value} has neither memory nor a producer")
        rule = _RULES.get(node.op)
        if rule is not None:
            return rule(self, node, index, mask)
        if get(node.op).pointwise:
            return Apply(node.op, tuple(self.read(v, index, mask) for v in node.inputs), value.type.dtype)
        raise LoweringError(f"{node.op} at {node.location} cannot be computed inside another kernel")

    # -- index terms that come from data ---------------------------------------------------------------------------

    def clamped(self, value: Value, index: Index, hi: int, mask: Expr | None = None) -> Affine:
        """The integer `value[index]` clamped to [0, hi], as an index term."""
        key = ("clamp", value, index, hi, mask)
        found = self._atoms.get(key)
        if found is None:
            raw = as_dtype(_signed(self.read(value, index, mask)), i64)
            term = Apply("clamp", (Const(0, i64), raw, Const(hi, i64)), i64)
            found = self._atoms[key] = self.space.atom(term, 0, hi)
        return found


def _signed(expression: Expr) -> Expr:
    """u64 indices beyond i64 would turn negative: saturate them first."""
    if expression.dtype.name == "u64":
        top = Const((1 << 63) - 1, expression.dtype)
        return Apply("min", (expression, top), expression.dtype)
    return expression


# -- one rule an op ------------------------------------------------------------------------------------------------


def _constant(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    array: Any = node.attrs["value"]
    if array.size != 1:
        raise LoweringError(f"a constant of shape {array.shape} was not given memory")
    return scalar(array.reshape(-1)[0], node.output.type.dtype)


def scalar(value: np.generic, dtype: DType) -> Const:
    """A literal."""
    if dtype.kind == "bool":
        return Const(bool(value), dtype)
    if dtype.is_integer:
        return Const(int(value), dtype)
    return Const(complex(value) if dtype.is_complex else float(value), dtype)  # type: ignore[arg-type]  # NumPy scalars


def _iota(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    dimension: Any = node.attrs["dimension"]
    return as_dtype(reader.space.expression(index[dimension]), node.output.type.dtype)


def _broadcast(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    (x,) = node.inputs
    dims: Any = node.attrs["broadcast_dims"]
    inner = tuple(ZERO if n == 1 else index[d] for n, d in zip(x.type.shape, dims, strict=True))
    return reader.read(x, inner, mask)


def _reshape(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    (x,) = node.inputs
    return reader.read(x, reshaped(reader, index, node.output.type.sizes, x.type.sizes), mask)


def reshaped(reader: Reader, index: Index, shape: tuple[int, ...], to: tuple[int, ...]) -> Index:
    """The index in `to` of the element that lies at `index` in `shape`, both row-major over the same elements."""
    if shape == to:
        return index
    # Leading and trailing dimensions that both shapes share need no arithmetic.
    head = 0
    while head < min(len(shape), len(to)) and shape[head] == to[head]:
        head += 1
    tail = 0
    while tail < min(len(shape), len(to)) - head and shape[-1 - tail] == to[-1 - tail]:
        tail += 1
    middle, target = shape[head : len(shape) - tail], to[head : len(to) - tail]
    linear = reader.space.dot(index[head : len(shape) - tail], row_major(middle))
    return index[:head] + reader.space.delinearize(linear, target) + index[len(shape) - tail :]


def _transpose(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    permutation: Any = node.attrs["permutation"]
    inner: list[Affine] = [ZERO] * len(index)
    for place, source in enumerate(permutation):
        inner[source] = index[place]
    return reader.read(node.inputs[0], tuple(inner), mask)


def _rev(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    (x,) = node.inputs
    dimensions: Any = node.attrs["dimensions"]
    space = reader.space
    inner = tuple(
        space.shift(space.scale(a, -1), x.type.sizes[d] - 1) if d in dimensions else a for d, a in enumerate(index)
    )
    return reader.read(x, inner, mask)


def _slice(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    attrs: Any = node.attrs
    space = reader.space
    places = zip(index, attrs["starts"], attrs["strides"], strict=True)
    inner = tuple(space.shift(space.scale(a, s), b) for a, b, s in places)
    return reader.read(node.inputs[0], inner, mask)


def _pad(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    x, fill = node.inputs
    attrs: Any = node.attrs
    space = reader.space
    inner: list[Affine] = []
    inside: Expr | None = None
    for a, low, interior, n in zip(index, attrs["low"], attrs["interior"], x.type.sizes, strict=True):
        moved = space.shift(a, -low)
        step = interior + 1
        place = space.floordiv(moved, step)
        tests = [space.within(place, 0, n)]
        if step > 1 and not (rest := space.add(moved, space.scale(place, -step))).is_const:
            tests.append(Apply("eq", (space.expression(rest), Const(0, i64)), bool_))
        elif step > 1 and space.add(moved, space.scale(place, -step)).const != 0:
            tests.append(False)
        for test in tests:
            if test is False:
                return reader.read(fill, (), None)
            if test is not True:
                inside = both(inside, test)
        inner.append(place)
    if inside is None:
        return reader.read(x, tuple(inner), mask)
    other = reader.read(fill, (), None)
    value = reader.read(x, tuple(inner), both(mask, inside))
    if isinstance(value, Load) and value.mask is not None and value.other is None and mask is None:
        view = reader.values.view_of(x)
        if view is not None:
            return reader.builder.load(view, tuple(inner), value.mask, other)
    return Apply("select", (inside, value, other), node.output.type.dtype)


def both(a: Expr | None, b: Expr | None) -> Expr | None:
    """The conjunction of two masks, None being true."""
    if a is None or b is None:
        return b if a is None else a
    return Apply("and", (a, b), bool_)


def _concatenate(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    dimension: Any = node.attrs["dimension"]
    space = reader.space
    start = sum(v.type.sizes[dimension] for v in node.inputs)
    result: Expr | None = None
    for x in reversed(node.inputs):
        start -= x.type.sizes[dimension]
        place = space.shift(index[dimension], -start)
        inside = space.within(place, 0, x.type.sizes[dimension])
        if inside is False:
            continue
        inner = index[:dimension] + (place,) + index[dimension + 1 :]
        if inside is True:
            return reader.read(x, inner, mask)
        value = reader.read(x, inner, both(mask, inside))
        result = value if result is None else Apply("select", (inside, value, result), value.dtype)
    if result is None:
        raise LoweringError(f"concatenate at {node.location} has no operand at the index asked for")
    return result


def _dynamic_slice(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    x, *starts = node.inputs
    space = reader.space
    inner = tuple(
        space.add(a, reader.clamped(start, (), n - size))
        for a, start, n, size in zip(index, starts, x.type.sizes, node.output.type.sizes, strict=True)
    )
    return reader.read(x, inner, mask)


def _gather(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    x, indices = node.inputs
    attrs: Any = node.attrs
    space = reader.space
    offset_dims, collapsed = attrs["offset_dims"], attrs["collapsed_slice_dims"]
    batching, indices_batching = attrs["operand_batching_dims"], attrs["start_indices_batching_dims"]
    sizes = attrs["slice_sizes"]
    batch = tuple(a for d, a in enumerate(index) if d not in offset_dims)
    window = [index[d] for d in offset_dims]
    inner: list[Affine] = []
    for d in range(x.type.rank):
        inner.append(ZERO if d in collapsed or d in batching else window.pop(0))
    valid: Expr | None = None
    for place, d in enumerate(attrs["start_index_map"]):
        last = x.type.sizes[d] - sizes[d]
        at = (*batch, Affine(place))
        if attrs["mode"] == "fill":
            raw = reader.read(indices, at, mask)
            valid = both(valid, in_range(raw, last))
        inner[d] = space.add(inner[d], reader.clamped(indices, at, last, mask))
    for d, source in zip(batching, indices_batching, strict=True):
        inner[d] = batch[source]
    if valid is None:
        return reader.read(x, tuple(inner), mask)
    value = reader.read(x, tuple(inner), both(mask, valid))
    return Apply("select", (valid, value, fill_value(x.type.dtype)), x.type.dtype)


def in_range(raw: Expr, last: int) -> Expr:
    """Whether 0 <= raw <= last, for an integer of any dtype."""
    wide = as_dtype(_signed(raw), i64)
    upper = Apply("le", (wide, Const(last, i64)), bool_)
    if raw.dtype.kind == "uint":
        return upper
    return Apply("and", (Apply("ge", (wide, Const(0, i64)), bool_), upper), bool_)


def fill_value(dtype: DType) -> Const:
    """What a gather in mode "fill" gives out of bounds: NaN, the least signed, the greatest unsigned, False."""
    if dtype.kind == "bool":
        return Const(False, dtype)
    if dtype.kind == "int":
        return Const(-(1 << (dtype.bits - 1)), dtype)
    if dtype.kind == "uint":
        return Const((1 << dtype.bits) - 1, dtype)
    return Const(complex(math.nan, math.nan) if dtype.is_complex else math.nan, dtype)


def _reduce_window(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    total: Expr | None = None
    op = {"reduce_window_sum": "add", "reduce_window_max": "max", "reduce_window_min": "min"}[node.op]
    for term in window_terms(reader, node, index, mask):
        total = term if total is None else Apply(op, (total, term), term.dtype)
    assert total is not None
    return as_dtype(total, node.output.type.dtype)


def _rng_bits(reader: Reader, node: Node, index: Index, mask: Expr | None) -> Expr:
    (key,) = node.inputs
    words = tuple(reader.read(key, (Affine(i),), None) for i in range(2))
    shape = node.output.type.sizes
    position = reader.space.dot(index, row_major(shape))
    return threefry_bits(words, reader.space.expression(position), math.prod(shape), node.output.type.dtype)


_RULES: dict[str, Callable[[Reader, Node, Index, Expr | None], Expr]] = {
    "constant": _constant,
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "rev": _rev,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "reduce_window_sum": _reduce_window,
    "reduce_window_max": _reduce_window,
    "reduce_window_min": _reduce_window,
    "rng_bits": _rng_bits,
}
