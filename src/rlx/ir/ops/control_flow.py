"""Branches and loops. Regions are closed graphs: whatever a body reads comes in as an operand.

The branch that is not taken never runs, and neither does the body of a loop whose test is false at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlx.ir.builder import GraphBuilder
from rlx.ir.dtypes import bool_, f32, i32, i64
from rlx.ir.graph import Graph
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, Tolerance, define
from rlx.ir.ops import sampling
from rlx.ir.ops.signature import at_least, flag, require, require_dtype, require_scalar, whole
from rlx.ir.types import TensorType


def _operands(op: str, call: Call, least: int, regions: int) -> tuple[TensorType, ...]:
    require(len(call.regions) == regions, f"{op} takes {regions} regions, got {len(call.regions)}")
    return at_least(op, Call(call.inputs, call.attrs), least)


def _types(values: Sequence[object]) -> str:
    return ", ".join(str(v) for v in values) or "nothing"


def _outputs(op: str, role: str, region: Graph, given: Sequence[TensorType]) -> tuple[TensorType, ...]:
    """What `region` returns; refuses operands that are not what it takes."""
    takes = tuple(v.type for v in region.inputs)
    require(takes == tuple(given), f"{op}: the {role} takes {_types(takes)}, the operands give {_types(given)}")
    return tuple(v.type for v in region.outputs)


# -- cond ----------------------------------------------------------------------------------------------------------


def _cond_infer(call: Call) -> tuple[TensorType, ...]:
    predicate, *rest = _operands("cond", call, 1, 2)
    require_dtype("cond", 0, predicate, (bool_,))
    require_scalar("cond", 0, predicate)
    on_true = _outputs("cond", "true region", call.regions[0], rest)
    on_false = _outputs("cond", "false region", call.regions[1], rest)
    require(
        on_true == on_false, f"cond: the true region gives {_types(on_true)}, the false region gives {_types(on_false)}"
    )
    return on_true


def _cond(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    return run_region(0 if arrays[0] else 1, arrays[1:])


def _cond_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((3, 5), (), (1,), (0, 2)):
        x = TensorType(shape, f32)
        branches = []
        for op in ("add", "mul"):
            b = GraphBuilder()
            left, right = b.input("x", x), b.input("y", x)
            branches.append(b.build([b.emit(op, left, right), left]))
        for predicate in (True, False):
            arrays = (np.array(predicate), *(sampling.random(rng, shape, f32) for _ in range(2)))
            yield Sample(arrays, {}, tuple(branches))


define(
    Op(
        "cond",
        "The outputs of one of two regions on the operands: cond(pred, operands...), the first where pred is true.",
        _cond_infer,
        evaluate=_cond,
        samples=_cond_samples,
    )
)

# -- while_loop ----------------------------------------------------------------------------------------------------


def _while_infer(call: Call) -> tuple[TensorType, ...]:
    types = _operands("while_loop", call, 0, 2)
    count = whole("while_loop", call.attrs, "num_carry", 0)
    require(count <= len(types), f"while_loop: num_carry is {count}, there are {len(types)} operands")
    test = _outputs("while_loop", "test", call.regions[0], types)
    require(test == (TensorType((), bool_),), f"while_loop: the test gives {_types(test)}, it must give bool[]")
    carry = _outputs("while_loop", "body", call.regions[1], types)
    require(carry == types[:count], f"while_loop: the body gives {_types(carry)}, the carry is {_types(types[:count])}")
    return carry


def _while(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    count = attrs["num_carry"]
    carry, consts = tuple(arrays[:count]), tuple(arrays[count:])
    while run_region(0, carry + consts)[0]:
        carry = run_region(1, carry + consts)
    return carry


def _while_samples(rng: np.random.Generator) -> Iterator[Sample]:
    scalar = TensorType((), i64)
    for shape, steps in (((3, 5), 4), ((), 1), ((7,), 0), ((0, 2), 2)):
        x = TensorType(shape, f32)
        test = GraphBuilder()
        i, _, limit, _ = (test.input(n, t) for n, t in (("i", scalar), ("x", x), ("limit", scalar), ("step", x)))
        body = GraphBuilder()
        j, y, _, step = (body.input(n, t) for n, t in (("i", scalar), ("x", x), ("limit", scalar), ("step", x)))
        regions = (
            test.build([test.emit("lt", i, limit)]),
            body.build([body.binary("add", j, 1), body.emit("add", y, step)]),
        )
        begin, end = np.array(0, np.int64), np.array(steps, np.int64)
        arrays = (begin, sampling.random(rng, shape, f32), end, sampling.random(rng, shape, f32))
        yield Sample(arrays, {"num_carry": 2}, regions)


define(
    Op(
        "while_loop",
        "The carry after the body has run for as long as the test held: while_loop(carry..., consts...), regions test"
        " and body, both of (carry..., consts...).",
        _while_infer,
        attrs={"num_carry": REQUIRED},
        evaluate=_while,
        samples=_while_samples,
    )
)

# -- scan ----------------------------------------------------------------------------------------------------------


def _scan_infer(call: Call) -> tuple[TensorType, ...]:
    types = _operands("scan", call, 0, 1)
    attrs = call.attrs
    num_carry, num_xs = (whole("scan", attrs, name, 0) for name in ("num_carry", "num_xs"))
    flag("scan", attrs, "reverse")
    length = attrs["length"]
    require(not isinstance(length, int) or length >= 0, f"scan: length is {length}")
    require(
        num_carry + num_xs <= len(types),
        f"scan: num_carry {num_carry} and num_xs {num_xs} are more than the {len(types)} operands",
    )
    carry, xs, consts = types[:num_carry], types[num_carry : num_carry + num_xs], types[num_carry + num_xs :]
    for i, t in enumerate(xs):
        leads = t.rank >= 1 and t.shape[0] == length
        require(leads, f"scan: operand {num_carry + i} is {t}, its first dimension must be the length {length}")
    slices = tuple(TensorType(t.shape[1:], t.dtype) for t in xs)
    out = _outputs("scan", "body", call.regions[0], (*carry, *slices, *consts))
    require(
        out[:num_carry] == carry, f"scan: the body gives the carry {_types(out[:num_carry])}, it takes {_types(carry)}"
    )
    return (*carry, *(TensorType((length, *t.shape), t.dtype) for t in out[num_carry:]))


def _scan(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    num_carry, num_xs, length = attrs["num_carry"], attrs["num_xs"], attrs["length"]
    carry, xs = tuple(arrays[:num_carry]), arrays[num_carry : num_carry + num_xs]
    consts = tuple(arrays[num_carry + num_xs :])
    collected: list[np.ndarray] = []
    if length == 0:
        stacked = run_region.graphs[0].outputs[num_carry:]
        collected = [np.zeros((0, *v.type.sizes), v.type.dtype.numpy) for v in stacked]
    for step in range(length):
        at = length - 1 - step if attrs["reverse"] else step
        out = run_region(0, (*carry, *(np.asarray(x[at]) for x in xs), *consts))
        carry = out[:num_carry]
        if not collected:
            collected = [np.empty((length, *y.shape), y.dtype) for y in out[num_carry:]]
        for ys, y in zip(collected, out[num_carry:], strict=True):
            ys[at] = y
    return (*carry, *collected)


def _scan_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, length, reverse in (
        ((3, 5), 4, False),
        ((3, 5), 4, True),
        ((), 7, False),
        ((2,), 0, False),
        ((1,), 1, True),
    ):
        b = GraphBuilder()
        state, x, scale = (b.input(n, TensorType(shape, f32)) for n in ("state", "x", "scale"))
        total = b.emit("add", b.emit("mul", state, scale), x)
        region = b.build([total, total, b.emit("ge", total, x)])
        arrays = tuple(sampling.random(rng, s, f32, 0.25, 1) for s in (shape, (length, *shape), shape))
        yield Sample(arrays, {"num_carry": 1, "num_xs": 1, "length": length, "reverse": reverse}, (region,))
    b = GraphBuilder()
    count = b.input("count", TensorType((), i32))
    following = b.binary("add", count, 1)
    region = b.build([following, b.emit("mul", count, count)])
    yield Sample((np.array(3, np.int32),), {"num_carry": 1, "num_xs": 0, "length": 5, "reverse": False}, (region,))


define(
    Op(
        "scan",
        "A loop of `length` steps over slices of xs: scan(carry..., xs..., consts...) with the region body of"
        " (carry..., x slices..., consts...) -> (carry..., ys...) gives the last carry and the ys stacked on a new"
        " first dimension; reversed, steps run from the last slice to the first.",
        _scan_infer,
        attrs={"num_carry": REQUIRED, "num_xs": REQUIRED, "length": REQUIRED, "reverse": False},
        evaluate=_scan,
        samples=_scan_samples,
        tolerance=Tolerance(ulps=4),
    )
)
