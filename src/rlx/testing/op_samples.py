"""Samples and tolerances of op records, so that a backend's op tests are one loop.

    for id, sample, expected in iter_samples("add"):
        assert_close("add", sample, run_on_my_backend("add", sample), expected)

Samples come from the record, with a seed of their own for each op, so they are the same in every process. Expected
values are those of the record's `evaluate`, or of the body of a composite. Tolerances come from the record as well:

ulps    each element may be that many steps of the output's dtype away; -0 and +0 are one step apart at most, NaN is
        equal to NaN. With 0 the bits must be equal, but for NaN. A complex number is compared by its distance in the
        plane, against ulps of its magnitude.
terms   an element may differ by eps * (2 + sqrt(n)) * S plus one step of the output's dtype. S is the op done on
        absolute values in f64, eps belongs to the dtype that the op accumulates in (f32 for narrow floats), n is how
        many terms an element has at most. Integers must be equal. A composite is no single sum: there S is the
        result's largest magnitude, and `ulps` are added, to 2 + sqrt(n) and to the steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import ml_dtypes
import numpy as np

from rlx.ir import op as ops
from rlx.ir.dtypes import f64, from_numpy
from rlx.ir.graph import Node, Value
from rlx.ir.interpret import evaluate_node
from rlx.ir.op import Op, Sample
from rlx.ir.types import type_of

Arrays = tuple[np.ndarray, ...]


def iter_samples(op: str | Op, seed: int = 0) -> Iterator[tuple[str, Sample, Arrays]]:
    """(id, sample, expected) for every sample of `op`; the sample's attributes are complete.

    id is short, unique within the op, and tells the operands' types: "12-f32[3, 37]-f32[3, 37]".
    """
    record = ops.get(op) if isinstance(op, str) else op
    if record.samples is None:
        return
    rng = np.random.default_rng([zlib.crc32(record.name.encode()), seed])
    for i, drawn in enumerate(record.samples(rng)):
        sample = Sample(drawn.arrays, ops.complete_attrs(record, drawn.attrs), drawn.regions)
        types = "-".join(str(type_of(x)) for x in sample.arrays)
        yield f"{i}-{types}" if types else str(i), sample, evaluate_sample(record, sample)


def sample_node(op: str | Op, sample: Sample) -> Node:
    """The sample as a node, whose inputs and outputs are typed values: for building graphs from samples."""
    record = ops.get(op) if isinstance(op, str) else op
    attrs = ops.complete_attrs(record, sample.attrs)
    inputs = tuple(Value(type_of(x), f"x{i}") for i, x in enumerate(sample.arrays))
    types = record.infer(ops.Call(tuple(v.type for v in inputs), attrs, sample.regions))
    return Node(record.name, inputs, tuple(Value(t) for t in types), attrs, sample.regions)


def evaluate_sample(op: str | Op, sample: Sample) -> Arrays:
    """What the record says that the sample gives; contiguous arrays, nobody else's memory."""
    return tuple(x.copy(order="C") for x in evaluate_node(sample_node(op, sample), sample.arrays))


def assert_close(op: str | Op, sample: Sample, got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    """Fail where `got` is further from `expected` than the record of `op` allows, or of another type.

    Raises AssertionError that names the op, the attributes, the worst element and both of its values.
    """
    record = ops.get(op) if isinstance(op, str) else op
    assert len(got) == len(expected), f"{record.name} gave {len(got)} results, expected {len(expected)}"
    bounds = _term_bounds(record, sample, tuple(expected)) if record.tolerance.terms else (None,) * len(expected)
    for i, (g, e, bound) in enumerate(zip(got, expected, bounds, strict=True)):
        where = f"{record.name}{_shown(sample)}, result {i}"
        assert type_of(g) == type_of(e), f"{where}: got {type_of(g)}, expected {type_of(e)}"
        excess = _terms_excess(g, e, bound) if bound is not None else _ulps_excess(g, e, record.tolerance.ulps)
        if np.any(excess > 0):
            at = np.unravel_index(int(np.argmax(excess)), excess.shape)
            place = [int(a) for a in at]
            operands = ", ".join(str(x[at]) for x in sample.arrays if record.pointwise and x.shape == g.shape)
            raise AssertionError(
                f"{where}: {int(np.sum(excess > 0))} of {excess.size} elements are too far; at {place} got {g[at]!s},"
                f" expected {e[at]!s}{f' of {operands}' if operands else ''},"
                f" {float(excess[at]):.3g} beyond the tolerance"
            )


def ulp_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Steps of the dtype between floats x and y, in f64; NaN to NaN is 0, to a number infinite; -0 to +0 is 0."""
    nan_x, nan_y = np.isnan(x), np.isnan(y)
    steps = np.abs(_position(x).astype(np.float64) - _position(y).astype(np.float64))
    exact = np.abs(_position(x) - _position(y))
    steps = np.where(steps < 2**40, exact.astype(np.float64), steps)
    return np.where(nan_x & nan_y, 0.0, np.where(nan_x | nan_y, np.inf, steps))


def _position(x: np.ndarray) -> np.ndarray:
    """Integers that count the floats from zero: neighbours differ by one, both zeros are 0."""
    bits = x.view(np.dtype(f"i{x.itemsize}")).astype(np.int64)
    return np.where(bits < 0, np.int64(-(1 << (8 * x.itemsize - 1))) - bits, bits)


def _shown(sample: Sample) -> str:
    attrs = ", ".join(f"{k}={v}" for k, v in sample.attrs.items() if not isinstance(v, np.ndarray))
    return f"({', '.join(str(type_of(x)) for x in sample.arrays)}; {attrs})"


def _ulps_excess(got: np.ndarray, expected: np.ndarray, ulps: float) -> np.ndarray:
    """How far each element is beyond the tolerance; 0 or less is within."""
    if np.iscomplexobj(expected):
        return _complex_excess(got, expected, ulps)
    if not _is_inexact(expected):
        return (np.asarray(got) != np.asarray(expected)).astype(np.float64)
    distance = ulp_distance(got, expected)
    if ulps == 0:
        signs = np.signbit(got.astype(np.float64)) != np.signbit(expected.astype(np.float64))
        distance = np.where(signs & ~np.isnan(expected.astype(np.float64)), np.maximum(distance, 1.0), distance)
    return distance - ulps


def _complex_excess(got: np.ndarray, expected: np.ndarray, ulps: float) -> np.ndarray:
    eps = float(np.finfo(expected.dtype).eps)
    wide, target = got.astype(np.complex128), expected.astype(np.complex128)
    with np.errstate(all="ignore"):
        far = np.abs(wide - target) - max(ulps, 4) * eps * np.abs(target)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isfinite(far), far, np.inf))


def _terms_excess(got: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> np.ndarray:
    if not _is_inexact(expected):
        return (np.asarray(got) != np.asarray(expected)).astype(np.float64)
    g, e = _wide(got), _wide(expected)
    with np.errstate(all="ignore"):
        far = np.abs(g - e) - bound - _step(expected)
    same = (g == e) | (np.isnan(g) & np.isnan(e))
    return np.where(same, 0.0, np.where(np.isfinite(far), far, np.inf))


def _step(x: np.ndarray) -> np.ndarray:
    """The distance from |x| to the next number of its dtype, in f64."""
    info = ml_dtypes.finfo(x.dtype)
    magnitude = np.abs(_wide(x))
    with np.errstate(all="ignore"):
        return np.maximum(magnitude * float(info.eps), float(info.smallest_subnormal))


def _term_bounds(record: Op, sample: Sample, expected: Arrays) -> Arrays:
    """The tolerated error of each result's elements, without the step of its own dtype."""
    with np.errstate(all="ignore"):
        eps = max((_accumulation_eps(x) for x in (*sample.arrays, *expected)), default=0.0)
        size = max((x.size for x in sample.arrays), default=1)
        if record.is_composite:
            ulps, roots = record.tolerance.ulps, 2 + np.sqrt(size)
            moves = _sensitivity(record, sample, eps)
            return tuple(
                _largest(e) * (eps * (roots + ulps) + _eps(e) * ulps) + roots * move
                for e, move in zip(expected, moves, strict=True)
            )
        magnitudes = _redo(record, sample, np.abs)
        # Done on ones, a sum counts its terms; a product does not, and may have as many as there are elements.
        counts = _redo(record, sample, np.ones_like)
        terms = (float(np.max(c, initial=0)) for c in counts)
        return tuple(eps * (2 + np.sqrt(n if n > 1 else size)) * m for m, n in zip(magnitudes, terms, strict=True))


def _redo(record: Op, sample: Sample, change: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    """The op in f64 on floating operands that were changed; indices and integers stay."""
    attrs = dict(sample.attrs)
    if attrs.get("preferred_dtype") is not None and any(_is_inexact(x) for x in sample.arrays):
        attrs["preferred_dtype"] = f64
    arrays = tuple(np.real(change(_wide(x))) if _is_inexact(x) else x for x in sample.arrays)
    return evaluate_sample(record, Sample(arrays, attrs, sample.regions))


def _sensitivity(record: Op, sample: Sample, eps: float) -> Arrays:
    """How far each result moves, in f64, when operands move by eps of their size, each element by itself."""
    rng = np.random.default_rng(0)
    exact = _redo(record, sample, np.asarray)
    moved = [_redo(record, sample, lambda x: x * (1 + eps * rng.choice((-1.0, 1.0), x.shape))) for _ in range(3)]
    moves = [np.max([np.abs(m[i] - e) for m in moved], axis=0) for i, e in enumerate(exact)]
    return tuple(np.where(np.isfinite(move), move, 0.0) for move in moves)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _is_inexact(x: np.ndarray) -> bool:
    dtype = from_numpy(x.dtype)
    return dtype.is_float or dtype.is_complex


def _eps(x: np.ndarray) -> float:
    return float(ml_dtypes.finfo(x.dtype).eps) if _is_inexact(x) else 0.0


def _accumulation_eps(x: np.ndarray) -> float:
    return min(_eps(x), float(np.finfo(np.float32).eps))


def _largest(x: np.ndarray) -> np.ndarray:
    """The largest finite magnitude in `x`."""
    magnitudes = np.abs(_wide(x)) if _is_inexact(x) else np.zeros(1)
    return np.asarray(np.max(magnitudes, initial=0.0, where=np.isfinite(magnitudes)))
