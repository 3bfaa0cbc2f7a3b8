"""Graphs that several tests of the IR read: they hold every construct that the text form knows."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from rlx.ir import Dim, Graph, GraphBuilder, Location, Node, TensorType, Value, dtypes

F32 = dtypes.f32
SCALAR_BOOL = TensorType((), dtypes.bool_)

#: A NaN whose bits are not those of float("nan").
ODD_NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]

CONSTANTS = [
    np.array([1.5, -0.0, 0.0, np.inf, -np.inf, np.nan, 0.1, 3e38, 1e-45], np.float32),
    np.array([0.1, -0.0, 1e300, 5e-324, np.nan]),
    np.array(ODD_NAN),
    np.array([1.1, 65504, -0.0, np.inf], np.float16),
    np.array([1.1, 3e38, np.nan], ml_dtypes.bfloat16),
    np.array([0.3, 448, np.nan], ml_dtypes.float8_e4m3fn),
    np.array([0.3, np.inf], ml_dtypes.float8_e5m2),
    np.array([[-8, 7]], ml_dtypes.int4),
    np.array([15, 0], ml_dtypes.uint4),
    np.array([-(2**63), 2**63 - 1]),
    np.array([2**64 - 1], np.uint64),
    np.array([True, False]),
    np.array([1 - 0.5j, complex(-0.0, math.inf)], np.complex64),
    np.array(2j),
    np.zeros((2, 0, 3), np.int8),
    np.arange(40, dtype=np.int16).reshape(5, 8),
    np.full(17, np.nan, np.float32),
]


def control_flow() -> Graph:
    """A cond in the body of a while_loop, and a scan; every region reads its operands alone."""
    x_type = TensorType((3,), F32)

    def branch(name: str, op: str) -> Graph:
        b = GraphBuilder(name)
        x = b.input("x", x_type)
        return b.build([b.emit(op, x)])

    test = GraphBuilder("test")
    count, _, limit = (test.input(n, t) for n, t in _loop_types(x_type))
    test_graph = test.build([test.emit("lt", count, limit)])
    body = GraphBuilder("body")
    count, x, limit = (body.input(n, t) for n, t in _loop_types(x_type))
    even = body.emit("eq", body.emit("rem", count, body.constant(2, dtypes.i32)), body.constant(0, dtypes.i32))
    regions = (branch("then", "neg"), branch("else", "exp"))
    x = body.emit("cond", even, x, regions=regions)
    body_graph = body.build([body.binary("add", count, 1), x])

    b = GraphBuilder("loops")
    x = b.input("x", x_type)
    limit = b.input("limit", TensorType((), dtypes.i32))
    zero = b.constant(0, dtypes.i32)
    loop_regions = (test_graph, body_graph)
    with b.at(Location("loops.onnx", "Loop_1", 0)):
        _, last = b.emit_many("while_loop", zero, x, limit, regions=loop_regions, num_carry=2)
    step = GraphBuilder("step")
    total, slice_ = step.input("total", TensorType((), F32)), step.input("slice", TensorType((), F32))
    total = step.emit("add", total, slice_)
    scan_regions = (step.build([total, total]),)
    start = b.constant(-0.0, F32)
    _, sums = b.emit_many("scan", start, last, regions=scan_regions, num_carry=1, num_xs=1, length=3)
    return b.build({"sums": sums, "a name/with:signs": last})


def _loop_types(x: TensorType) -> list[tuple[str, TensorType]]:
    return [("count", TensorType((), dtypes.i32)), ("x", x), ("limit", TensorType((), dtypes.i32))]


def symbolic() -> Graph:
    """Open dimensions in inputs, results and attributes, parameters, names that need quotes, locations."""
    batch, seq = Dim("batch", 1, 8), Dim("seq length", 2)
    b = GraphBuilder("encoder", source="encoder.onnx")
    x = b.input("x:0", TensorType((batch, seq, 4), F32))
    w = b.parameter("layer.0/weight", np.arange(12, dtype=np.float32).reshape(4, 3))
    s = b.parameter("scale", np.array(0.5, ml_dtypes.bfloat16))
    with b.at(Location("encoder.onnx", 'MatMul "0"')):
        y = b.emit("dot_general", x, w, lhs_contract=(2,), rhs_contract=(0,))
    with b.at(Location("train.py", "", 12)):
        y = b.binary("mul", y, b.convert(s, F32))
        y = b.emit("reshape", y, shape=(batch * seq, 3))
    y = b.emit("softmax", y, axis=-1)
    y = b.emit("slice", y, starts=(0, 0), limits=(batch * seq, 3), strides=(2, 1))
    return b.build({"y": y, "again": y})


def constants() -> Graph:
    """A constant of every dtype, with bits that are easily lost."""
    b = GraphBuilder("constants")
    return b.build({f"c{i}": b.constant(c) for i, c in enumerate(CONSTANTS)})


def attributes() -> Graph:
    """Attribute values of every kind, as a custom call may carry them, and values whose names collide."""
    t = TensorType((2,), F32)
    b = GraphBuilder("attributes")
    x = b.input("x", t)
    values = (1, -2, True, False, None, 'text "quoted"\n\u00e9', F32, 0.1, -0.0, math.inf, -math.inf, math.nan, ODD_NAN)
    values = (*values, (), (1,), ((1, 2), ("a", (None,))), 2**70, 1e-300)
    pairs = tuple((f"a{i}", value) for i, value in enumerate(values))
    y = b.emit("custom_call", x, target="test.mystery", result_shapes=((2,),), result_dtypes=(F32,), attributes=pairs)
    named = [Value(t, name) for name in ("x", "x", "0", 'with "quotes"#1', "\u00e9")]
    for value in named:
        b.append(Node("neg", (y,), (value,), {}))
    return b.build([*named, y])


MAKERS: dict[str, Callable[[], Graph]] = {
    make.__name__: make for make in (control_flow, symbolic, constants, attributes)
}


@pytest.fixture(params=MAKERS)
def make_graph(request: pytest.FixtureRequest) -> Callable[[], Graph]:
    """Builds one of the graphs, anew at each call."""
    return MAKERS[request.param]


@pytest.fixture
def makers() -> dict[str, Callable[[], Graph]]:
    """Name -> what builds that graph."""
    return MAKERS
