"""Simplification removes what changes nothing, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import ALL, DType, bool_, f16, f32, i8, i32, i64, u8
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.ir.verify import verify
from rlx.passes.algebra import holds_all
from rlx.passes.dead import eliminate_dead
from rlx.passes.simplify import simplify


def one(make, *types: TensorType) -> Graph:
    b = GraphBuilder()
    return b.build([make(b, *(b.input(f"x{i}", t) for i, t in enumerate(types)))])


def simplified(graph: Graph) -> Graph:
    while True:
        after = eliminate_dead(simplify(graph))
        verify(after)
        if after is graph:
            return graph
        graph = after


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


EDGES = np.array([0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-45, 3e38, 7e-39], np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(np.signbit(a), np.signbit(b)) and np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize(
    ("op", "scalar", "goes"),
    [
        ("add", 0.0, False),
        ("add", -0.0, True),
        ("sub", 0.0, True),
        ("sub", -0.0, False),
        ("mul", 1.0, True),
        ("div", 1.0, True),
        ("pow", 1.0, True),
        ("mul", 0.0, False),
    ],
)
def test_a_float_identity_goes_only_where_every_bit_stays(op: str, scalar: float, goes: bool) -> None:
    graph = one(lambda b, x: b.binary(op, x, scalar), TensorType((10,), f32))
    after = simplified(graph)
    assert (ops(after) == []) == goes
    before = interpret(graph, {"x0": EDGES})["out0"]
    assert same_bits(interpret(after, {"x0": EDGES})["out0"], before)


@pytest.mark.parametrize("divisor", [2.0, 8.0, 0.25, -4.0, 2.0**100, 2.0**-100])
def test_division_by_a_power_of_two_becomes_an_exact_product(divisor: float) -> None:
    graph = one(lambda b, x: b.binary("div", x, divisor), TensorType((10,), f32))
    after = simplified(graph)
    assert "div" not in ops(after)
    before = interpret(graph, {"x0": EDGES})["out0"]
    assert same_bits(interpret(after, {"x0": EDGES})["out0"], before)


@pytest.mark.parametrize("divisor", [3.0, 0.0, np.inf, 2.0**127, 2.0**-149])
def test_division_by_anything_else_stays(divisor: float) -> None:
    assert "div" in ops(simplified(one(lambda b, x: b.binary("div", x, divisor), TensorType((10,), f32))))


def test_a_cube_is_two_products_in_f32_but_stays_a_power_in_f16() -> None:
    for dtype, expected in ((f32, ["mul", "mul"]), (f16, ["constant", "broadcast_in_dim", "pow"])):
        assert ops(simplified(one(lambda b, x: b.binary("pow", x, 3.0), TensorType((4,), dtype)))) == expected


def test_an_integer_identity_goes() -> None:
    type = TensorType((4,), i32)
    for op, scalar in (("add", 0), ("sub", 0), ("mul", 1), ("or", 0), ("and", -1), ("xor", 0), ("shift_left", 0)):
        assert ops(simplified(one(lambda b, x, op=op, s=scalar: b.binary(op, x, s), type))) == [], op


def test_no_quotient_or_difference_of_a_value_with_itself_is_taken_for_known() -> None:
    for op in ("sub", "div"):
        assert ops(simplified(one(lambda b, x, op=op: b.emit(op, x, x), TensorType((4,), f32)))) == [op]


def test_shape_ops_that_cancel_disappear() -> None:
    def chain(b: GraphBuilder, x: Value) -> Value:
        y = b.emit("transpose", b.emit("transpose", x, permutation=(1, 0)), permutation=(1, 0))
        y = b.emit("reshape", b.emit("reshape", y, shape=(6,)), shape=(2, 3))
        y = b.emit("slice", y, starts=(0, 0), limits=(2, 3), strides=(1, 1))
        y = b.emit("pad", y, b.constant(0.0, f32), low=(0, 0), high=(0, 0), interior=(0, 0))
        return b.emit("concatenate", b.emit("rev", y, dimensions=()), dimension=0)

    assert ops(simplified(one(chain, TensorType((2, 3), f32)))) == []


def test_slices_of_slices_and_of_concatenations_become_one_slice() -> None:
    def chain(b: GraphBuilder, x: Value, y: Value) -> Value:
        z = b.emit("concatenate", x, y, dimension=0)
        z = b.emit("slice", z, starts=(6, 0), limits=(10, 5), strides=(1, 2))
        return b.emit("slice", z, starts=(1, 1), limits=(4, 3), strides=(2, 1))

    graph = one(chain, TensorType((5, 5), f32), TensorType((6, 5), f32))
    after = simplified(graph)
    assert ops(after) == ["slice"]
    rng = np.random.default_rng(0)
    inputs = {f"x{i}": rng.normal(size=v.type.sizes).astype(np.float32) for i, v in enumerate(graph.inputs)}
    np.testing.assert_array_equal(interpret(after, inputs)["out0"], interpret(graph, inputs)["out0"])


def test_a_gather_of_one_known_window_becomes_a_slice() -> None:
    def make(b: GraphBuilder, x: Value) -> Value:
        return b.emit(
            "gather", x, b.constant(np.array([-3], np.int64)),
            offset_dims=(0,), collapsed_slice_dims=(0,), start_index_map=(0,), slice_sizes=(1, 5),
        )  # fmt: skip

    graph = one(make, TensorType((4, 5), f32))
    after = simplified(graph)
    assert ops(after) == ["slice", "reshape"]
    x = np.arange(20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_array_equal(interpret(after, {"x0": x})["out0"], x[0])


def test_a_branch_that_is_decided_is_inlined() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((3,), f32))
    arms = []
    for op in ("exp", "neg"):
        arm = GraphBuilder()
        arms.append(arm.build([arm.emit(op, arm.input("x", x.type))]))
    graph = b.build(b.emit_many("cond", b.constant(False, bool_), x, regions=arms))
    assert ops(simplified(graph)) == ["neg"]


def test_conversions_join_only_where_the_middle_holds_every_value() -> None:
    def chain(b: GraphBuilder, x: Value, middle: DType, end: DType) -> Value:
        return b.convert(b.convert(x, middle), end)

    for source, middle, end, expected in (
        (f16, f32, f16, []),
        (i8, i64, i8, []),
        (bool_, i32, f32, ["convert"]),
        (f32, f16, f32, ["convert", "convert"]),
        (i64, f32, i64, ["convert", "convert"]),
        (i8, u8, i32, ["convert", "convert"]),
    ):
        graph = one(lambda b, x, m=middle, e=end: chain(b, x, m, e), TensorType((3,), source))
        assert ops(simplified(graph)) == expected, (source, middle, end)


@pytest.mark.parametrize("narrow", [d for d in ALL if d.bits <= 16 and not d.is_complex], ids=str)
def test_a_dtype_holds_another_exactly_when_every_value_survives_the_way_there_and_back(narrow: DType) -> None:
    if narrow.bits <= 8:
        count = 2 if narrow is bool_ else 1 << narrow.bits
        raw = np.arange(count, dtype=np.uint8)
    else:
        raw = np.arange(1 << 16, dtype=np.uint16)
    values = raw.astype(narrow.numpy) if narrow.is_integer or narrow is bool_ else raw.view(narrow.numpy)
    with np.errstate(invalid="ignore"):
        exact = values.astype(np.float64)
    for wide in ALL:
        if wide.is_complex or wide is bool_:
            continue
        graph = one(lambda b, x, w=wide: b.convert(x, w), TensorType(values.shape, narrow))
        with np.errstate(invalid="ignore"):
            there = interpret(graph, {"x0": values})["out0"].astype(np.float64)
        assert holds_all(wide, narrow) == bool(np.array_equal(there, exact, equal_nan=True)), wide
