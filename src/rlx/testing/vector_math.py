"""How far the CPU's elementary functions are from the truth, in units of the last place, over all arguments.

An ulp of a number y is the distance between neighbours in y's binade, that of denormals below the least normal number;
0.5 is the best that rounding can do. A result beyond the largest number counts as 2**128 (for f32), where infinity
begins: infinity is right there, and one ulp from the largest number. NaN that was missed or invented is an infinite
error. `wrong` counts those, and results whose sign differs, zeros included.

References are NumPy's functions in a wider format, whose own errors are far below what is measured; erf's is the C
library's. Functions are measured as programs compute them: one op, compiled by a session for the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import DType, bf16, f16, f32, f64
from rlx.options import Options
from rlx.runtime import Session

#: Arguments that are computed at once, and how many such chunks all f32 numbers make.
CHUNK = 1 << 15
CHUNKS = (1 << 32) // CHUNK
#: dtype -> (bits of the mantissa, exponent of the least normal number, exponent from which on numbers are infinite)
_FORMATS = {f16: (10, -14, 16), bf16: (7, -126, 128), f32: (23, -126, 128), f64: (52, -1022, 1024)}

Chunks = Iterator[tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Function:
    """A function and what its f32 results are held to.

    reference: the function on arrays of a wider format.
    bound: ulps that no f32 result is further off, whatever the target.
    own: its f32 code is our own; elsewhere the C library's double function is rounded to f32.
    op, attrs: of the op, where its name is another.
    of_argument: errors are counted in ulps of the argument where that is larger than the result, since the op's
        meaning adds numbers of that size.
    """

    reference: Callable[..., np.ndarray]
    bound: float
    own: bool = False
    op: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)
    of_argument: bool = False


def _logistic(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _erf(x: np.ndarray) -> np.ndarray:
    return program(("erf",), "native", f64, x.size)(x0=x)["erf"]


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


UNARY: dict[str, Function] = {
    "exp": Function(np.exp, 1.25, own=True),
    "expm1": Function(np.expm1, 1.5, own=True),
    "log": Function(np.log, 1.0, own=True),
    "log1p": Function(np.log1p, 1.5, own=True),
    "tanh": Function(np.tanh, 2.5, own=True),
    "logistic": Function(_logistic, 2.5, own=True),
    "erf": Function(_erf, 1.75, own=True),
    "sin": Function(np.sin, 1.5, own=True),
    "cos": Function(np.cos, 1.5, own=True),
    "tan": Function(np.tan, 3.5, own=True),
    "sqrt": Function(np.sqrt, 0.5, own=True),
    "rsqrt": Function(lambda x: 1 / np.sqrt(x), 1.5, own=True),
    "softplus": Function(_softplus, 2.0, own=True),
    "gelu": Function(lambda x: 0.5 * x * (1 + _erf(x * np.sqrt(0.5))), 2.0, own=True, of_argument=True),
    "gelu_tanh": Function(_gelu_tanh, 2.0, own=True, op="gelu", attrs={"approximate": "tanh"}, of_argument=True),
    "asin": Function(np.arcsin, 0.51),
    "acos": Function(np.arccos, 0.51),
    "atan": Function(np.arctan, 0.51),
    "sinh": Function(np.sinh, 0.51),
    "cosh": Function(np.cosh, 0.51),
    "asinh": Function(np.arcsinh, 0.51),
    "acosh": Function(np.arccosh, 0.51),
    "atanh": Function(np.arctanh, 0.51),
    "cbrt": Function(np.cbrt, 0.51),
}
BINARY: dict[str, Function] = {
    "pow": Function(np.power, 0.51, own=True),
    "atan2": Function(np.arctan2, 0.51),
}


@dataclass
class Score:
    """What was found over some arguments.

    worst: the largest error in ulps, at the arguments `where`. total: the sum of errors over the `count` arguments
    whose exact result is a number. wrong: results that are NaN where they should not be, or not where they should, or
    of the wrong sign.
    """

    worst: float = -1.0
    where: tuple[float, ...] = ()
    total: float = 0.0
    count: int = 0
    wrong: int = 0

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)

    def add(self, other: Score) -> None:
        if other.worst > self.worst:
            self.worst, self.where = other.worst, other.where
        self.total += other.total
        self.count += other.count
        self.wrong += other.wrong


Compute = Callable[..., Mapping[str, np.ndarray]]


@cache
def program(names: tuple[str, ...], target: str, dtype: DType, elements: int) -> Compute:
    """Functions of the same operands x0, ... (by keyword) over `elements` elements: name -> result."""
    options = Options(target=target, threads=1, cache=False)
    return Session("cpu", options).compile(graph(names, dtype, elements))


def graph(names: Sequence[str], dtype: DType, elements: int) -> Graph:
    """The functions as a graph: inputs x0, ..., an output a name."""
    b = GraphBuilder("functions")
    operands = 2 if names[0] in BINARY else 1
    inputs = [b.input(f"x{i}", TensorType((elements,), dtype)) for i in range(operands)]
    found = {name: (UNARY | BINARY)[name] for name in names}
    return b.build({name: b.emit(function.op or name, *inputs, **function.attrs) for name, function in found.items()})


def measure(
    names: Sequence[str],
    targets: Sequence[str],
    chunks: Chunks,
    dtype: DType = f32,
    *,
    programs: Callable[[tuple[str, ...], str, DType, int], Compute] = program,
) -> dict[tuple[str, str], Score]:
    """(function, target) -> its score over all chunks: tuples of arrays of `dtype`, of one size.

    programs: what computes the functions, called as `program` is.
    """
    wide = np.longdouble if dtype is f64 else np.float64
    scores = {(name, target): Score() for name in names for target in targets}
    for arguments in chunks:
        with np.errstate(all="ignore"):
            operands = [x.astype(wide) for x in arguments]
            exact = {name: (UNARY | BINARY)[name].reference(*operands) for name in names}
        seen: dict[str, list[tuple[np.ndarray, Score]]] = {name: [] for name in names}
        for target in targets:
            compute = programs(tuple(names), target, dtype, operands[0].size)
            for name, got in compute(**{f"x{i}": x for i, x in enumerate(arguments)}).items():
                bits = got.view(f"u{dtype.bits // 8}")
                found = next((score for other, score in seen[name] if np.array_equal(other, bits)), None)
                if found is None:
                    scale = operands[0] if (UNARY | BINARY)[name].of_argument else None
                    found = _score(got, exact[name], scale, dtype, arguments)
                    seen[name].append((bits, found))
                scores[name, target].add(found)
    return scores


def _score(
    got: np.ndarray, exact: np.ndarray, scale: np.ndarray | None, dtype: DType, arguments: tuple[np.ndarray, ...]
) -> Score:
    error = ulps(got, exact, dtype, scale)
    at = int(np.argmax(error))
    signs = np.signbit(got) != np.signbit(exact)
    number = ~np.isnan(exact)
    wrong = np.count_nonzero(np.isinf(error) | (signs & number))
    where = tuple(float(x[at]) for x in arguments)
    return Score(float(error[at]), where, float(error.sum()), int(np.count_nonzero(number)), int(wrong))


def ulps(got: np.ndarray, exact: np.ndarray, dtype: DType, scale: np.ndarray | None = None) -> np.ndarray:
    """The distance of each element from `exact`, an array of a wider format, in ulps of `dtype` at `exact`.

    scale: ulps are those at `scale` where that is larger in magnitude.
    """
    mantissa, least, infinite = _FORMATS[dtype]
    limit = exact.dtype.type(2) ** infinite
    with np.errstate(all="ignore"):
        ideal = np.clip(exact, -limit, limit)
        value = np.clip(got.astype(exact.dtype), -limit, limit)
        step = _binade(ideal if scale is None else np.fmax(np.abs(ideal), np.abs(scale)))
        step = np.clip(step, exact.dtype.type(2) ** least, limit / 2)
        error = np.abs(value - ideal) / step * 2.0**mantissa
    unknown = np.isnan(error)
    if unknown.any():
        same = np.isnan(got[unknown]) & np.isnan(exact[unknown])
        error[unknown] = np.where(same, 0.0, np.inf)
    return error


def _binade(y: np.ndarray) -> np.ndarray:
    """The power of two at or below |y|."""
    if y.dtype == np.float64:
        return (y.view(np.uint64) & np.uint64(0x7FF0000000000000)).view(np.float64)
    return np.ldexp(y.dtype.type(1), np.frexp(y)[1] - 1)


# -- arguments -----------------------------------------------------------------------------------------------------


def all_floats(chunks: range = range(CHUNKS)) -> Chunks:
    """f32 numbers by their bits, denormals, infinities and NaN among them: each chunk is a sample of the whole range,
    one number of every 2**32 / CHUNK neighbours; all chunks together have every number once.
    """
    high = np.arange(CHUNK, dtype=np.uint32) * np.uint32(CHUNKS)
    low = np.arange(CHUNK, dtype=np.uint32) * np.uint32(40_503)
    for k in chunks:
        yield ((high | (low + np.uint32(k * 48_271 % CHUNKS) & np.uint32(CHUNKS - 1))).view(np.float32),)


def all_narrow(dtype: DType) -> Chunks:
    """Every number of a 16-bit format."""
    yield (np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy),)


def pairs(name: str, chunks: int, seed: int = 0) -> Chunks:
    """Arguments for a binary function: alternately any two f32 numbers, and two whose result is usual."""
    for k in range(chunks):
        rng = np.random.default_rng([seed, k])
        x, y = rng.integers(0, 1 << 32, (2, CHUNK), np.uint32).view(np.float32)
        if k % 2:
            spread = rng.uniform(-1, 1, CHUNK)
            with np.errstate(all="ignore"):
                if name == "pow":  # results from 2**-150 to 2**150; half of the bases are near 1
                    exponents = rng.uniform(-1, 1, CHUNK)
                    exponents[::2] **= 9
                    exponents[1::2] *= 149
                    x = np.exp2(exponents).astype(np.float32)
                    y = (spread * 150 / np.log2(x.astype(np.float64))).astype(np.float32)
                else:
                    y = (x * np.exp2(30 * spread)).astype(np.float32)
        yield x, y


def wide_samples(chunks: int, seed: int = 0) -> Chunks:
    """f64 numbers: alternately any, and such as models have."""
    for k in range(chunks):
        rng = np.random.default_rng([seed, k])
        if k % 2:
            yield (rng.normal(0, 4, CHUNK),)
        else:
            yield (rng.integers(0, 1 << 64, CHUNK, np.uint64).view(np.float64),)
