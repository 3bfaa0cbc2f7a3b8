"""Make tests/ir/data/ops.npz: what outside references answer for each primitive.

    PYTHONPATH=src:tests/ir python tests/ir/make_op_goldens.py

Floating-point functions and arithmetic are PyTorch's, which the tests themselves do without; integers are Python's own;
everything that moves, selects or counts is written out here as plain loops over the definitions of StableHLO, with no
NumPy arithmetic. Samples are those of the records, from another seed than the op tests use.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from op_goldens import PATH, Golden, save

from rlx.ir import all_ops
from rlx.ir.dtypes import DType, bool_, by_name, from_numpy
from rlx.ir.op import complete_attrs

SEED = 20
#: Arrays that would make the file large say nothing that smaller ones do not.
MOST_BYTES = 12_000

Attrs = Mapping[str, Any]
Arrays = Sequence[np.ndarray]

TORCH = {
    "bool": torch.bool,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "c64": torch.complex64,
    "c128": torch.complex128,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
}


def dtype_of(x: np.ndarray) -> DType:
    return from_numpy(x.dtype)


def tensor(x: np.ndarray) -> torch.Tensor:
    name = dtype_of(x).name
    x = np.array(x, order="C")
    if name in ("bf16", "f8e4m3", "f8e5m2"):
        return torch.from_numpy(x.view(f"i{x.itemsize}")).view(TORCH[name])
    return torch.from_numpy(x)


def array(t: torch.Tensor, dtype: DType) -> np.ndarray:
    assert t.dtype == TORCH[dtype.name], (t.dtype, dtype)
    if dtype.name in ("bf16", "f8e4m3", "f8e5m2"):
        return t.contiguous().view({1: torch.int8, 2: torch.int16}[dtype.itemsize]).numpy().view(dtype.numpy)
    return t.resolve_conj().contiguous().numpy()


# -- numbers, one at a time ----------------------------------------------------------------------------------------


def scalars(x: np.ndarray) -> list[Any]:
    """The elements as Python numbers, exactly."""
    dtype = dtype_of(x)
    flat = x.reshape(-1)
    if dtype is bool_:
        return [bool(v) for v in flat]
    if dtype.is_integer:
        return [int(v) for v in flat]
    return [complex(v) if dtype.is_complex else float(v) for v in flat]


def wrap(value: int, dtype: DType) -> int:
    if dtype is bool_:
        return bool(value)
    value &= (1 << dtype.bits) - 1
    return value - (1 << dtype.bits) if dtype.kind == "int" and value >> (dtype.bits - 1) else value


def from_scalars(values: Sequence[Any], shape: Sequence[int], dtype: DType) -> np.ndarray:
    """Values that `dtype` holds exactly, as an array."""
    if dtype.is_integer and dtype.bits == 4:
        return np.array(values, np.int8).astype(dtype.numpy).reshape(shape)
    if dtype.is_float and dtype.bits < 32:
        return np.array(values, np.float32).astype(dtype.numpy).reshape(shape)
    return np.array(values, dtype.numpy).reshape(shape)


#: precision in bits, least normal exponent, largest finite value, what lies above it.
FORMATS = {
    "f16": (11, -14, Fraction(65504), math.inf),
    "bf16": (8, -126, Fraction((2**8 - 1) * 2**120), math.inf),
    "f32": (24, -126, Fraction((2**24 - 1) * 2**104), math.inf),
    "f64": (53, -1022, Fraction((2**53 - 1) * 2**971), math.inf),
    "f8e4m3": (4, -6, Fraction(448), math.nan),
    "f8e5m2": (3, -14, Fraction(57344), math.inf),
}


def round_to(value: float | int, dtype: DType) -> float:
    """`value` rounded once to the nearest float of `dtype`, ties to even, by exact fractions."""
    precision, least, largest, above = FORMATS[dtype.name]
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return math.nan if math.isnan(value) or math.isnan(above) else value
    if value == 0:
        return float(value)
    exact = Fraction(value)
    exponent = max(exact.numerator.bit_length() - exact.denominator.bit_length(), -5000)
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, least) - precision + 1)
    rounded = round(exact / quantum) * quantum
    if abs(rounded) > largest:
        return math.copysign(above, value)
    return math.copysign(float(rounded), value)


def integers(function: Callable[..., int]) -> Callable[[Arrays], np.ndarray]:
    """Elementwise by Python's own integers, then wrapped."""

    def run(arrays: Arrays) -> np.ndarray:
        dtype = dtype_of(arrays[0])
        values = [wrap(function(*v, dtype), dtype) for v in zip(*map(scalars, arrays), strict=True)]
        return from_scalars(values, arrays[0].shape, dtype)

    return run


def floats(function: Callable[..., torch.Tensor], exact: bool) -> Callable[[Arrays], np.ndarray]:
    """Elementwise by PyTorch: in f32 for what is exact or rounded once there, else in f64; then rounded."""

    def run(arrays: Arrays) -> np.ndarray:
        dtype = dtype_of(arrays[0])
        narrow = dtype.is_float and dtype.bits < 32
        inputs = [tensor(x) for x in arrays]
        if exact:
            out = function(*(t.float() if narrow else t for t in inputs))
        else:
            out = function(*(t.to(torch.complex128 if dtype.is_complex else torch.float64) for t in inputs))
        if out.dtype == torch.bool:
            return out.numpy()
        real = dtype.is_complex and not out.is_complex()
        to = {"c64": by_name("f32"), "c128": by_name("f64")}[dtype.name] if real else dtype
        # Narrow floats go through f32, as the rule says; PyTorch's own step to 8 bits saturates.
        if to.bits == 8:
            return from_scalars([round_to(v, to) for v in out.float().reshape(-1).tolist()], arrays[0].shape, to)
        return array((out.float() if narrow else out).to(TORCH[to.name]), to)

    return run


# -- pointwise -----------------------------------------------------------------------------------------------------


def one_by_one(function: Callable[..., float], *operands: torch.Tensor) -> torch.Tensor:
    """Elementwise by Python's floats, which are f64."""
    values = [function(*v) for v in zip(*(t.reshape(-1).tolist() for t in operands), strict=True)]
    return torch.tensor(values, dtype=torch.float64).to(operands[0].dtype).reshape(operands[0].shape)


def c_fmod(x: float, y: float) -> float:
    return math.nan if math.isinf(x) or y == 0 else math.fmod(x, y)


def c_sqrt(x: float) -> float:
    return math.nan if x < 0 else math.sqrt(x)


def truncated(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def int_pow(x: int, y: int, dtype: DType) -> int:
    if y >= 0:
        return pow(x, y, 1 << dtype.bits)
    return truncated(1, x ** min(-y, 2 + y % 2)) if x else 0


def bits(x: int, dtype: DType) -> int:
    return x & ((1 << dtype.bits) - 1)


def shift(x: int, y: int, dtype: DType, kind: str) -> int:
    amount = bits(y, dtype)
    if kind == "arithmetic":
        return x >> min(amount, dtype.bits)
    return 0 if amount >= dtype.bits else x << amount if kind == "left" else bits(x, dtype) >> amount


INTEGER_OPS: dict[str, Callable[..., int]] = {
    "neg": lambda x, d: -x,
    "abs": lambda x, d: abs(x),
    "sign": lambda x, d: (x > 0) - (x < 0),
    "not": lambda x, d: not x if d is bool_ else ~x,
    "popcnt": lambda x, d: bits(x, d).bit_count(),
    "clz": lambda x, d: d.bits - bits(x, d).bit_length(),
    "add": lambda x, y, d: x + y,
    "sub": lambda x, y, d: x - y,
    "mul": lambda x, y, d: x * y,
    "div": lambda x, y, d: truncated(x, y) if y else -1,
    "rem": lambda x, y, d: x - truncated(x, y) * y if y else x,
    "pow": int_pow,
    "max": lambda x, y, d: max(x, y),
    "min": lambda x, y, d: min(x, y),
    "and": lambda x, y, d: x & y,
    "or": lambda x, y, d: x | y,
    "xor": lambda x, y, d: x ^ y,
    "shift_left": lambda x, y, d: shift(x, y, d, "left"),
    "shift_right_logical": lambda x, y, d: shift(x, y, d, "logical"),
    "shift_right_arithmetic": lambda x, y, d: shift(x, y, d, "arithmetic"),
    "clamp": lambda low, x, high, d: min(max(x, low), high),
}
EXACT_FLOATS: dict[str, Callable[..., torch.Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": lambda x: torch.sgn(x) if x.is_complex() else torch.where((x == 0) | x.isnan(), x, torch.sign(x)),
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "is_finite": torch.isfinite,
    "conj": torch.conj,
    "real": torch.real,
    "imag": torch.imag,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    # PyTorch's fmod loses denormal divisors.
    "rem": lambda x, y: one_by_one(c_fmod, x, y),
    "clamp": lambda low, x, high: torch.minimum(torch.maximum(x, low), high),
}
WIDE_FLOATS: dict[str, Callable[..., torch.Tensor]] = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    # PyTorch's f32 square root is not correctly rounded everywhere.
    "sqrt": lambda x: torch.sqrt(x) if x.is_complex() else one_by_one(c_sqrt, x),
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "logistic": torch.sigmoid,
    "erf": torch.erf,
    "pow": torch.pow,
    "atan2": torch.atan2,
    "cbrt": lambda x: one_by_one(math.cbrt, x),
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}


def ieee_max(x: float, y: float) -> float:
    if math.isnan(x) or math.isnan(y):
        return math.nan
    return max((x, math.copysign(1, x)), (y, math.copysign(1, y)))[0]


def ieee_min(x: float, y: float) -> float:
    return -ieee_max(-x, -y)


def extreme(op: str, dtype: DType) -> Callable[[Any, Any], Any]:
    if dtype.is_float:
        return ieee_max if "max" in op else ieee_min
    return max if "max" in op else min


@functools.cache
def all_floats(name: str) -> list[float]:
    """Every number of a float of 16 bits or fewer, in order, with one zero."""
    dtype = by_name(name)
    every = np.arange(1 << dtype.bits, dtype=f"u{dtype.itemsize}").view(dtype.numpy).astype(np.float64)
    return sorted({float(v) for v in every if not math.isnan(v)})


def next_after(x: float, y: float, dtype: DType) -> float:
    if math.isnan(x) or math.isnan(y):
        return math.nan
    if x == y:
        return y
    if dtype.name == "f64":
        return math.nextafter(x, y)
    if dtype.name == "f32":
        return torch.nextafter(torch.tensor(x), torch.tensor(y)).item()
    numbers = all_floats(dtype.name)
    at = numbers.index(x) + (1 if y > x else -1)
    # A step onto zero keeps the sign that it came from.
    return math.copysign(numbers[at], x if numbers[at] == 0 else numbers[at])


def pointwise(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray | None:
    dtype, shape = dtype_of(arrays[-1]), arrays[0].shape
    if op in COMPARISONS:
        values = [COMPARISONS[op](x, y) for x, y in zip(*map(scalars, arrays), strict=True)]
        return from_scalars(values, shape, bool_)
    if op == "select":
        chosen = [a if p else b for p, a, b in zip(*(x.reshape(-1) for x in arrays), strict=True)]
        return np.array(chosen, dtype.numpy).reshape(shape)
    if op == "complex":
        pairs = np.stack([x.reshape(-1) for x in arrays], -1)
        return np.ascontiguousarray(pairs).view(f"c{2 * arrays[0].itemsize}").reshape(shape)
    if op == "nextafter":
        return from_scalars([next_after(*v, dtype) for v in zip(*map(scalars, arrays), strict=True)], shape, dtype)
    if op in ("max", "min") and dtype.is_float:
        pick = extreme(op, dtype)
        return from_scalars([pick(*v) for v in zip(*map(scalars, arrays), strict=True)], shape, dtype)
    if op == "clamp" and dtype.is_float:
        found = [ieee_min(ieee_max(x, low), high) for low, x, high in zip(*map(scalars, arrays), strict=True)]
        return from_scalars(found, shape, dtype)
    if not (dtype.is_float or dtype.is_complex):
        return integers(INTEGER_OPS[op])(arrays) if op in INTEGER_OPS else None
    if op in EXACT_FLOATS:
        return floats(EXACT_FLOATS[op], exact=True)(arrays)
    return floats(WIDE_FLOATS[op], exact=False)(arrays) if op in WIDE_FLOATS else None


def convert_one(value: Any, source: DType, to: DType) -> Any:
    if to is bool_:
        return value != 0
    if to.is_complex:
        part = by_name({"c64": "f32", "c128": "f64"}[to.name])
        whole = complex(value)
        return (
            complex(round_to(whole.real, part), round_to(whole.imag, part))
            if source.is_complex
            else complex(round_to(value, part), 0.0)
        )
    if source.is_complex:
        return convert_one(value.real, by_name("f64"), to)
    if to.is_float:
        return round_to(value if source.is_float else int(value), to)
    if source.is_float:
        if math.isnan(value):
            return 0
        low = -(1 << (to.bits - 1)) if to.kind == "int" else 0
        high = low + (1 << to.bits) - 1
        return high if value > high else low if value < low else int(value)
    return wrap(int(value), to)


def convert(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    values = [convert_one(v, dtype_of(x), attrs["dtype"]) for v in scalars(x)]
    return from_scalars(values, x.shape, attrs["dtype"])


def bitcast(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    if attrs["dtype"].bits == 4:
        return from_scalars([wrap(v, attrs["dtype"]) for v in scalars(x)], x.shape, attrs["dtype"])
    return np.frombuffer(x.tobytes(), attrs["dtype"].numpy).reshape(x.shape)


# -- shape and indexing: where each element of the result comes from -----------------------------------------------


def collect(shape: Sequence[int], dtype: DType, element: Callable[[tuple[int, ...]], Any]) -> np.ndarray:
    """The array whose element at each index is `element(index)`."""
    out = np.zeros(shape, dtype.numpy)
    for index in np.ndindex(*shape):
        out[index] = element(index)
    return out


def iota(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    to, axis = attrs["dtype"], attrs["dimension"]
    return collect(attrs["shape"], to, lambda i: to.numpy.type(convert_one(i[axis], by_name("i64"), to)))


def broadcast(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    dims = attrs["broadcast_dims"]

    def element(index: tuple[int, ...]) -> Any:
        return x[tuple(0 if x.shape[i] == 1 else index[d] for i, d in enumerate(dims))]

    return collect(attrs["shape"], dtype_of(x), element)


def reshape(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    return np.frombuffer(arrays[0].tobytes(), arrays[0].dtype).reshape(attrs["shape"])


def transpose(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    order = attrs["permutation"]
    shape = [x.shape[d] for d in order]
    return collect(shape, dtype_of(x), lambda i: x[tuple(i[order.index(d)] for d in range(x.ndim))])


def rev(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    flipped = attrs["dimensions"]
    return collect(
        x.shape, dtype_of(x), lambda i: x[tuple(x.shape[d] - 1 - p if d in flipped else p for d, p in enumerate(i))]
    )


def slice_(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    triples = list(zip(attrs["starts"], attrs["limits"], attrs["strides"], strict=True))
    shape = [len(range(*t)) for t in triples]
    return collect(shape, dtype_of(x), lambda i: x[tuple(t[0] + p * t[2] for p, t in zip(i, triples, strict=True))])


def pad(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, value = arrays
    low, high, interior = attrs["low"], attrs["high"], attrs["interior"]
    shape = [d + max(d - 1, 0) * n + lo + hi for d, n, lo, hi in zip(x.shape, interior, low, high, strict=True)]

    def element(index: tuple[int, ...]) -> Any:
        at = [divmod(p - lo, n + 1) for p, lo, n in zip(index, low, interior, strict=True)]
        inside = all(rest == 0 and 0 <= place < d for (place, rest), d in zip(at, x.shape, strict=True))
        return x[tuple(place for place, _ in at)] if inside else value[()]

    return collect(shape, dtype_of(x), element)


def concatenate(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    axis = attrs["dimension"]
    sources = [(x, i) for x in arrays for i in range(x.shape[axis])]
    shape = list(arrays[0].shape)
    shape[axis] = len(sources)

    def element(index: tuple[int, ...]) -> Any:
        x, at = sources[index[axis]]
        return x[index[:axis] + (at,) + index[axis + 1 :]]

    return collect(shape, dtype_of(arrays[0]), element)


def clamped(start: int, size: int, window: int) -> int:
    return min(max(int(start), 0), size - window)


def dynamic_slice(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, *starts = arrays
    window = attrs["sizes"]
    begin = [clamped(s, d, n) for s, d, n in zip(starts, x.shape, window, strict=True)]
    return collect(window, dtype_of(x), lambda i: x[tuple(b + p for b, p in zip(begin, i, strict=True))])


def dynamic_update_slice(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, update, *starts = arrays
    begin = [clamped(s, d, n) for s, d, n in zip(starts, x.shape, update.shape, strict=True)]

    def element(index: tuple[int, ...]) -> Any:
        at = tuple(p - b for p, b in zip(index, begin, strict=True))
        inside = all(0 <= p < n for p, n in zip(at, update.shape, strict=True))
        return update[at] if inside else x[index]

    return collect(x.shape, dtype_of(x), element)


def window_start(
    x: np.ndarray,
    indices: np.ndarray,
    batch: tuple[int, ...],
    starts: Sequence[int],
    batching: Sequence[int],
    index_batching: Sequence[int],
) -> list[int]:
    begin = [0] * x.ndim
    for k, d in enumerate(starts):
        begin[d] = int(indices[(*batch, k)])
    for d, b in zip(batching, index_batching, strict=True):
        begin[d] = batch[b]
    return begin


def fill_value(dtype: DType) -> Any:
    if dtype is bool_:
        return False
    if dtype.is_integer:
        return dtype.numpy.type(-(1 << (dtype.bits - 1)) if dtype.kind == "int" else (1 << dtype.bits) - 1)
    return dtype.numpy.type(math.nan)


def gather(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, indices = arrays
    offset, window = attrs["offset_dims"], attrs["slice_sizes"]
    removed = {*attrs["collapsed_slice_dims"], *attrs["operand_batching_dims"]}
    kept = [d for d in range(x.ndim) if d not in removed]
    rank = indices.ndim - 1 + len(kept)
    batch_dims = [d for d in range(rank) if d not in offset]
    shape = [0] * rank
    for d, size in (
        *zip(batch_dims, indices.shape[:-1], strict=True),
        *zip(offset, (window[k] for k in kept), strict=True),
    ):
        shape[d] = size
    maps = (attrs["start_index_map"], attrs["operand_batching_dims"], attrs["start_indices_batching_dims"])

    def element(index: tuple[int, ...]) -> Any:
        begin = window_start(x, indices, tuple(index[d] for d in batch_dims), *maps)
        if attrs["mode"] == "fill" and any(not 0 <= b <= d - n for b, d, n in zip(begin, x.shape, window, strict=True)):
            return fill_value(dtype_of(x))
        at = [clamped(b, d, n) for b, d, n in zip(begin, x.shape, window, strict=True)]
        for place, d in zip(offset, kept, strict=True):
            at[d] += index[place]
        return x[tuple(at)]

    return collect(shape, dtype_of(x), element)


def scatter(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, indices, updates = arrays
    dtype = dtype_of(x)
    window_dims, combiner = attrs["update_window_dims"], attrs["combiner"]
    removed = {*attrs["inserted_window_dims"], *attrs["operand_batching_dims"]}
    kept = [d for d in range(x.ndim) if d not in removed]
    batch_dims = [d for d in range(updates.ndim) if d not in window_dims]
    maps = (
        attrs["scatter_dims_to_operand_dims"],
        attrs["operand_batching_dims"],
        attrs["scatter_indices_batching_dims"],
    )
    window = [1] * x.ndim
    for d, k in zip(window_dims, kept, strict=True):
        window[k] = updates.shape[d]
    # Sums and products of floats in f64, rounded once at the end.
    exact = combiner in ("set", "min", "max")
    out = dict(zip(np.ndindex(*x.shape), x.reshape(-1) if combiner == "set" else scalars(x), strict=True))
    for index in sorted(np.ndindex(*updates.shape), key=lambda i: [i[d] for d in batch_dims]):
        begin = window_start(x, indices, tuple(index[d] for d in batch_dims), *maps)
        if any(not 0 <= b <= d - n for b, d, n in zip(begin, x.shape, window, strict=True)):
            continue
        for d, k in zip(window_dims, kept, strict=True):
            begin[k] += index[d]
        place = tuple(begin)
        update = updates[index] if combiner == "set" else scalars(updates[index])[0]
        if combiner in ("min", "max"):
            out[place] = extreme(combiner, dtype)(out[place], update)
        else:
            out[place] = (
                update if combiner == "set" else out[place] + update if combiner == "add" else out[place] * update
            )
    if combiner == "set":
        return collect(x.shape, dtype, lambda i: out[i])
    values = list(out.values())
    if dtype.is_integer:
        values = [wrap(v, dtype) for v in values]
    elif not exact and dtype.is_float:
        values = [round_to(v, dtype) for v in values]
    return from_scalars(values, x.shape, dtype)


# -- reductions ----------------------------------------------------------------------------------------------------


def combine(op: str, values: list[Any], dtype: DType) -> Any:
    """One result of a reduction named in `op`, of the dtype's own kind, rounded or wrapped."""
    if "max" in op or "min" in op:
        if values:
            return functools.reduce(extreme(op, dtype), values)
        sign = -1 if "max" in op else 1
        if dtype is bool_:
            return sign > 0
        if dtype.is_integer:
            return limit(dtype, sign)
        return math.copysign(448.0 if dtype.name == "f8e4m3" else math.inf, sign)
    if "and" in op:
        return wrap(functools.reduce(lambda a, b: a & b, values, -1), dtype)
    if "or" in op:
        return wrap(functools.reduce(lambda a, b: a | b, values, 0), dtype)
    if dtype.is_complex:
        return sum(values) if "sum" in op else math.prod(values, start=complex(1))
    if dtype.is_float:
        return round_to(math.fsum(values) if "sum" in op else math.prod(values), dtype)
    return wrap(sum(values) if "sum" in op else math.prod(values), dtype)


def limit(dtype: DType, sign: int) -> int:
    if dtype.kind == "uint":
        return (1 << dtype.bits) - 1 if sign > 0 else 0
    return (1 << (dtype.bits - 1)) - 1 if sign > 0 else -(1 << (dtype.bits - 1))


def assemble(shape: Sequence[int], dtype: DType, element: Callable[[tuple[int, ...]], Any]) -> np.ndarray:
    return from_scalars([element(i) for i in np.ndindex(*shape)], shape, dtype)


def reduce(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    axes = attrs["dimensions"]
    kept = [d for d in range(x.ndim) if d not in axes]

    def element(index: tuple[int, ...]) -> Any:
        places = dict(zip(kept, index, strict=True))
        ranges = [[places[d]] if d in places else range(x.shape[d]) for d in range(x.ndim)]
        return combine(op, [scalars(x[i])[0] for i in itertools.product(*ranges)], dtype_of(x))

    return assemble([x.shape[d] for d in kept], dtype_of(x), element)


def rank_key(v: Any, nan_high: bool = True) -> tuple[bool, Any]:
    nan = isinstance(v, float) and math.isnan(v)
    return nan if nan_high else not nan, 0 if nan else v


def lines(x: np.ndarray, axis: int) -> Iterator[tuple[tuple[Any, ...], list[Any]]]:
    """(index with a slice along `axis`, the elements there as Python numbers)."""
    for index in np.ndindex(*x.shape[:axis], *x.shape[axis + 1 :]):
        place = (*index[:axis], slice(None), *index[axis:])
        yield place, scalars(x[place])


def arg_extreme(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    axis, high = attrs["dimension"], op == "argmax"
    out = np.zeros(x.shape[:axis] + x.shape[axis + 1 :], attrs["dtype"].numpy)
    for place, values in lines(x, axis):
        keys = [rank_key(v, high) for v in values]
        best = keys.index(max(keys) if high else min(keys))
        out[tuple(p for d, p in enumerate(place) if d != axis)] = best
    return out


def cumulative(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    dtype = dtype_of(x)
    out = np.zeros(x.shape, dtype.numpy)
    for place, values in lines(x, attrs["dimension"]):
        ordered = values[::-1] if attrs["reverse"] else values
        name = op.replace("cum", "reduce_")
        found = [combine(name, ordered[: i + 1], dtype) for i in range(len(ordered))]
        out[place] = from_scalars(found[::-1] if attrs["reverse"] else found, (len(found),), dtype)
    return out


def sort(arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
    axis = attrs["dimension"]
    out = tuple(x.copy() for x in arrays)
    for place, _ in lines(arrays[0], axis):
        keys = [scalars(x[place]) for x in arrays[: attrs["num_keys"]]]
        order = sorted(
            range(arrays[0].shape[axis]), key=lambda i: [rank_key(k[i]) for k in keys], reverse=attrs["descending"]
        )
        for x, sorted_ in zip(arrays, out, strict=True):
            sorted_[place] = x[place][np.array(order, np.int64)]
    return out


def top_k(arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
    (x,) = arrays
    axis, k = attrs["dimension"] % x.ndim, attrs["k"]
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    values, found = np.zeros(shape, x.dtype), np.zeros(shape, np.int32)
    for place, line in lines(x, axis):
        order = sorted(range(len(line)), key=lambda i: rank_key(line[i]), reverse=attrs["largest"])[:k]
        found[place] = order
        values[place] = x[place][np.array(order, np.int64)]
    return values, found


def reduce_window(op: str, arrays: Arrays, attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    names = ("window", "strides", "padding", "base_dilation", "window_dilation")
    dims = list(zip(x.shape, *(attrs[n] for n in names), strict=True))
    shape = []
    for d, w, s, (lo, hi), b, wd in dims:
        room = (0 if d == 0 else (d - 1) * b + 1) + lo + hi - ((w - 1) * wd + 1)
        shape.append(room // s + 1 if room >= 0 else 0)

    def element(index: tuple[int, ...]) -> Any:
        found = []
        for inner in itertools.product(*(range(w) for w in attrs["window"])):
            at = [
                divmod(i * s + k * wd - lo, b)
                for i, k, (_, _, s, (lo, _), b, wd) in zip(index, inner, dims, strict=True)
            ]
            if all(rest == 0 and 0 <= place < d for (place, rest), d in zip(at, x.shape, strict=True)):
                found.append(scalars(x[tuple(place for place, _ in at)])[0])
        return combine(op, found, dtype_of(x))

    return assemble(shape, dtype_of(x), element)


# -- contractions --------------------------------------------------------------------------------------------------


def dot_general(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    x, y = arrays
    result = attrs["preferred_dtype"] or dtype_of(x)
    lhs_free = [d for d in range(x.ndim) if d not in attrs["lhs_contract"] + attrs["lhs_batch"]]
    rhs_free = [d for d in range(y.ndim) if d not in attrs["rhs_contract"] + attrs["rhs_batch"]]
    split = len(attrs["lhs_batch"]), len(attrs["lhs_batch"]) + len(lhs_free)
    xs, ys = (np.array(scalars(a), object).reshape(a.shape) for a in (x, y))

    def element(index: tuple[int, ...]) -> Any:
        left = dict(zip(attrs["lhs_batch"], index[: split[0]], strict=True)) | dict(
            zip(lhs_free, index[split[0] : split[1]], strict=True)
        )
        right = dict(zip(attrs["rhs_batch"], index[: split[0]], strict=True)) | dict(
            zip(rhs_free, index[split[1] :], strict=True)
        )
        terms = []
        for inner in itertools.product(*(range(x.shape[d]) for d in attrs["lhs_contract"])):
            left.update(zip(attrs["lhs_contract"], inner, strict=True))
            right.update(zip(attrs["rhs_contract"], inner, strict=True))
            terms.append(xs[tuple(left[d] for d in range(x.ndim))] * ys[tuple(right[d] for d in range(y.ndim))])
        return combine("sum", terms, result)

    shape = [x.shape[d] for d in (*attrs["lhs_batch"], *lhs_free)] + [y.shape[d] for d in rhs_free]
    return assemble(shape, result, element)


def conv(arrays: Arrays, attrs: Attrs) -> np.ndarray | None:
    x, w = arrays
    dtype, spatial = dtype_of(x), x.ndim - 2
    if 0 in x.shape:
        return None
    wide = np.complex128 if dtype.is_complex else np.float64
    inputs = [torch.from_numpy(np.array(scalars(a), wide).reshape(a.shape)) for a in (x, w)]
    spread = inputs[0].new_zeros(
        *x.shape[:2], *((d - 1) * n + 1 for d, n in zip(x.shape[2:], attrs["lhs_dilation"], strict=True))
    )
    spread[(..., *(slice(None, None, n) for n in attrs["lhs_dilation"]))] = inputs[0]
    padded = F.pad(spread, [p for pair in reversed(attrs["padding"]) for p in pair])
    if spatial == 0:
        out = padded @ inputs[1].T
    elif any(d < (k - 1) * n + 1 for d, k, n in zip(padded.shape[2:], w.shape[2:], attrs["rhs_dilation"], strict=True)):
        return None
    else:
        function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial]
        out = function(padded, inputs[1], None, attrs["strides"], 0, attrs["rhs_dilation"], attrs["groups"])
    values = [
        combine("sum", [v if dtype.is_float or dtype.is_complex else int(v)], dtype) for v in out.reshape(-1).tolist()
    ]
    return from_scalars(values, out.shape, dtype)


# -- random bits ---------------------------------------------------------------------------------------------------


def threefry(key: Sequence[int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32-20 on Python integers, as Random123's documentation describes it."""
    mask = 0xFFFFFFFF
    keys = [int(key[0]), int(key[1]), int(key[0]) ^ int(key[1]) ^ 0x1BD11BDA]
    a, b = (counter[0] + keys[0]) & mask, (counter[1] + keys[1]) & mask
    for i in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        a = (a + b) & mask
        b = ((b << turn | b >> (32 - turn)) & mask) ^ a
        if i % 4 == 3:
            step = i // 4 + 1
            a, b = (a + keys[step % 3]) & mask, (b + keys[(step + 1) % 3] + step) & mask
    return a, b


def rng_bits(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    wide = attrs["dtype"].name == "u64"
    count = math.prod(attrs["shape"])
    words = 2 * count if wide else count
    counter = [*range(words), *([0] if words % 2 else [])]
    half = len(counter) // 2
    blocks = [threefry(scalars(arrays[0]), pair) for pair in zip(counter[:half], counter[half:], strict=True)]
    found = [a for a, _ in blocks] + [b for _, b in blocks]
    values = [found[i] << 32 | found[i + count] for i in range(count)] if wide else found[:count]
    return from_scalars(values, attrs["shape"], attrs["dtype"])


# -- all of them ---------------------------------------------------------------------------------------------------

WHOLE: dict[str, Callable[[Arrays, Attrs], Any]] = {
    "convert": convert,
    "bitcast_convert": bitcast,
    "iota": iota,
    "broadcast_in_dim": broadcast,
    "reshape": reshape,
    "transpose": transpose,
    "rev": rev,
    "slice": slice_,
    "pad": pad,
    "concatenate": concatenate,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "scatter": scatter,
    "sort": sort,
    "top_k": top_k,
    "dot_general": dot_general,
    "conv_general": conv,
    "rng_bits": rng_bits,
    "constant": lambda arrays, attrs: attrs["value"],
}


def reference(op: str, arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...] | None:
    """What the outside reference of `op` answers; None where it cannot."""
    if op in WHOLE:
        found = WHOLE[op](arrays, attrs)
    elif op.startswith("reduce_window"):
        found = reduce_window(op, arrays, attrs)
    elif op.startswith("reduce_"):
        found = reduce(op, arrays, attrs)
    elif op in ("argmax", "argmin"):
        found = arg_extreme(op, arrays, attrs)
    elif op.startswith("cum"):
        found = cumulative(op, arrays, attrs)
    else:
        found = pointwise(op, arrays, attrs)
    return found if found is None or isinstance(found, tuple) else (found,)


def main() -> None:
    cases: list[Golden] = []
    for name, record in all_ops().items():
        if record.is_composite or record.samples is None:
            continue
        before = len(cases)
        # One seed for all ops: equal inputs are stored once.
        for sample in record.samples(np.random.default_rng(SEED)):
            if sample.regions or sum(x.nbytes for x in sample.arrays) > MOST_BYTES:
                continue
            attrs = complete_attrs(record, sample.attrs)
            expected = reference(name, sample.arrays, attrs)
            if expected is not None:
                cases.append(Golden(name, sample.arrays, attrs, tuple(np.asarray(e) for e in expected)))
        print(f"{name}: {len(cases) - before} cases")
    save(cases)
    print(f"{len(cases)} cases, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
