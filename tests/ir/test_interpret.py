"""The interpreter: names, types, ownership, lifetimes, control flow, and errors that name where they come from."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from rlx.errors import InterpretError, IRError
from rlx.ir import Dim, GraphBuilder, Location, Op, TensorType, dtypes, interpret
from rlx.ir import op as op_registry
from rlx.ir.custom import register_custom_call
from rlx.ir.dtypes import bool_, f32, i32, i64
from rlx.ir.graph import Graph, Node, Value
from rlx.ir.interpret import evaluate_node

F23 = TensorType((2, 3), f32)
CALLS: list[str] = []


def _fail(arrays: object, attributes: object) -> list[np.ndarray]:
    CALLS.append("fail")
    raise ValueError("the stranger's own words")


def _count(arrays: list[np.ndarray], attributes: dict) -> list[np.ndarray]:
    CALLS.append(str(attributes["tag"]))
    return [arrays[0]]


def _wrong(arrays: list[np.ndarray], attributes: object) -> list[np.ndarray]:
    return [arrays[0].astype(np.float64)]


register_custom_call("tests.fail", _fail)
register_custom_call("tests.count", _count)
register_custom_call("tests.wrong", _wrong)


@pytest.fixture(autouse=True)
def fresh_calls() -> None:
    CALLS.clear()


def custom(b: GraphBuilder, target: str, x: Value, **attributes: str) -> Value:
    return b.emit(
        "custom_call",
        x,
        target=target,
        result_shapes=(x.type.shape,),
        result_dtypes=(x.type.dtype,),
        attributes=tuple(attributes.items()),
    )


def doubled() -> Graph:
    b = GraphBuilder("doubled")
    x = b.input("x", F23)
    return b.build({"twice": b.emit("add", x, x), "same": x})


def test_outputs_come_by_name_in_the_graphs_order() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    out = interpret(doubled(), {"x": x})
    assert list(out) == ["twice", "same"]
    np.testing.assert_array_equal(out["twice"], x * 2)


def test_outputs_are_the_callers_own_memory() -> None:
    b = GraphBuilder()
    x = b.input("x", F23)
    w = b.parameter("w", np.ones((2, 3), np.float32))
    c = b.constant(np.full((2, 3), 5, np.float32))
    wide = b.emit("broadcast_in_dim", b.emit("reshape", x, shape=(6,)), shape=(4, 6), broadcast_dims=(1,))
    graph = b.build({"x": x, "again": x, "flat": b.emit("reshape", x, shape=(6,)), "w": w, "c": c, "wide": wide})
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    out = interpret(graph, {"x": given})
    for name, array in out.items():
        assert array.flags.c_contiguous, name
        array[...] = -1
    np.testing.assert_array_equal(given, np.arange(6).reshape(2, 3))
    again = interpret(graph, {"x": given})
    np.testing.assert_array_equal(again["w"], np.ones((2, 3)))
    np.testing.assert_array_equal(again["c"], np.full((2, 3), 5))
    np.testing.assert_array_equal(again["again"], given)
    assert not np.shares_memory(out["x"], out["again"])


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InterpretError, match="'doubled' needs the input 'x'"):
        interpret(doubled(), {})


def test_an_unknown_input_gets_the_nearest_name() -> None:
    with pytest.raises(InterpretError) as refused:
        interpret(doubled(), {"x": np.zeros((2, 3), np.float32), "xx": np.zeros(1)})
    assert "no input named 'xx'" in str(refused.value)


@pytest.mark.parametrize("bad", [np.zeros((3, 2), np.float32), np.zeros((2, 3)), np.zeros(6, np.float32)])
def test_a_wrong_type_shows_both_sides(bad: np.ndarray) -> None:
    with pytest.raises(InterpretError, match=r"input 'x' is f.*, graph 'doubled' takes f32\[2, 3\]"):
        interpret(doubled(), {"x": bad})


def test_symbolic_sizes_come_from_the_inputs() -> None:
    n = Dim("n", 1, 64)
    b = GraphBuilder()
    x, y = b.input("x", TensorType((n, 2), f32)), b.input("y", TensorType((n,), f32))
    wide = b.emit("broadcast_in_dim", y, shape=(n, 2), broadcast_dims=(0,))
    graph = b.build({"z": b.emit("reshape", b.emit("add", x, wide), shape=(n * 2,))})
    out = interpret(graph, {"x": np.ones((3, 2), np.float32), "y": np.arange(3, dtype=np.float32)})
    np.testing.assert_array_equal(out["z"], [1, 1, 2, 2, 3, 3])
    with pytest.raises(IRError, match="'n' is 4 from .* but 3 from"):
        interpret(graph, {"x": np.ones((3, 2), np.float32), "y": np.zeros(4, np.float32)})


def test_a_value_is_dropped_after_its_last_use() -> None:
    alive: list[weakref.ref] = []
    seen: list[int] = []

    def watch(arrays: list[np.ndarray], attributes: dict) -> list[np.ndarray]:
        gc.collect()
        seen.append(sum(ref() is not None for ref in alive))
        made = arrays[0] + 1
        alive.append(weakref.ref(made))
        return [made]

    register_custom_call("tests.watch", watch)
    b = GraphBuilder()
    x = b.input("x", F23)
    for _ in range(6):
        x = custom(b, "tests.watch", x)
    interpret(b.build({"x": x}), {"x": np.zeros((2, 3), np.float32)})
    assert seen == [0, 1, 1, 1, 1, 1]


def test_an_ops_own_failure_names_the_node() -> None:
    b = GraphBuilder()
    x = b.input("x", F23)
    with b.at(Location("model.onnx", "encoder/odd")):
        y = custom(b, "tests.fail", x)
    graph = b.build({"y": y})
    with pytest.raises(InterpretError, match="the stranger's own words") as failed:
        interpret(graph, {"x": np.zeros((2, 3), np.float32)})
    assert failed.value.where == "at encoder/odd (model.onnx), op custom_call"
    assert isinstance(failed.value.__cause__, ValueError)


def test_a_failure_inside_a_region_names_the_inner_node() -> None:
    inner = GraphBuilder()
    x = inner.input("x", F23)
    with inner.at(Location(name="inside")):
        body = inner.build([custom(inner, "tests.fail", x)])
    b = GraphBuilder()
    p, x = b.input("p", TensorType((), bool_)), b.input("x", F23)
    with b.at(Location(name="outside")):
        y = b.emit("cond", p, x, regions=(body, body))
    with pytest.raises(InterpretError) as failed:
        interpret(b.build({"y": y}), {"p": np.array(True), "x": np.zeros((2, 3), np.float32)})
    assert failed.value.where == "at inside, op custom_call"


def test_an_unknown_custom_call_is_refused_with_its_place() -> None:
    b = GraphBuilder()
    x = b.input("x", F23)
    with b.at(Location(name="there")):
        y = custom(b, "tests.cout", x, tag="a")
    with pytest.raises(IRError, match="no custom call is named 'tests.cout'") as refused:
        interpret(b.build({"y": y}), {"x": np.zeros((2, 3), np.float32)})
    assert refused.value.hint == "did you mean 'tests.count'?"
    assert refused.value.where == "at there, op custom_call"


def test_a_custom_call_that_breaks_its_declared_type_is_refused() -> None:
    b = GraphBuilder()
    x = b.input("x", F23)
    graph = b.build({"y": custom(b, "tests.wrong", x)})
    with pytest.raises(IRError, match=r"gave f64\[2, 3\], declared are f32\[2, 3\]"):
        interpret(graph, {"x": np.zeros((2, 3), np.float32)})


def test_a_custom_calls_own_type_rule_is_asked_when_the_graph_is_built() -> None:
    register_custom_call("tests.typed", _count, lambda types, attributes: [TensorType((7,), f32)])
    b = GraphBuilder()
    x = b.input("x", F23)
    with pytest.raises(IRError, match=r"gives f32\[7\], declared are f32\[2, 3\]"):
        custom(b, "tests.typed", x, tag="a")


def test_a_custom_call_is_registered_once() -> None:
    with pytest.raises(IRError, match="'tests.count' is registered already"):
        register_custom_call("tests.count", _count)


def test_a_result_that_breaks_the_nodes_type_is_refused() -> None:
    x = Value(F23, "x")
    node = Node("add", (x, x), (Value(TensorType((3, 2), f32)),), {})
    zeros = np.zeros((2, 3), np.float32)
    with pytest.raises(InterpretError, match=r"result 0 of add is f32\[2, 3\], its type rule says f32\[3, 2\]"):
        evaluate_node(node, [zeros, zeros])


def test_a_composite_evaluates_through_its_body_even_inside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def inner(b: GraphBuilder, values: tuple[Value, ...], attrs: object) -> tuple[Value, ...]:
        return (b.binary("add", values[0], 1.0),)

    def outer(b: GraphBuilder, values: tuple[Value, ...], attrs: object) -> tuple[Value, ...]:
        return (b.emit("tests_inner", b.emit("tests_inner", values[0])),)

    for name, expand in (("tests_inner", inner), ("tests_outer", outer)):
        monkeypatch.setitem(op_registry._OPS, name, Op(name, "For this test.", lambda call: call.inputs, expand=expand))
    b = GraphBuilder()
    x = b.input("x", F23)
    out = interpret(b.build({"y": b.emit("tests_outer", x)}), {"x": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(out["y"], np.full((2, 3), 2))


# -- control flow --------------------------------------------------------------------------------------------------


def branch(tag: str, op: str) -> Graph:
    b = GraphBuilder(tag)
    x, y = b.input("x", F23), b.input("y", F23)
    return b.build([b.emit(op, custom(b, "tests.count", x, tag=tag), y)])


@pytest.mark.parametrize(("predicate", "tag", "expected"), [(True, "true", 5), (False, "false", 6)])
def test_only_the_branch_that_is_taken_runs(predicate: bool, tag: str, expected: int) -> None:
    b = GraphBuilder()
    p, x, y = b.input("p", TensorType((), bool_)), b.input("x", F23), b.input("y", F23)
    graph = b.build({"z": b.emit("cond", p, x, y, regions=(branch("true", "add"), branch("false", "mul")))})
    two, three = (np.full((2, 3), v, np.float32) for v in (2, 3))
    out = interpret(graph, {"p": np.array(predicate), "x": two, "y": three})
    np.testing.assert_array_equal(out["z"], np.full((2, 3), expected))
    assert [tag] == CALLS


def collatz() -> Graph:
    """Steps that n takes to reach 1, by a loop around a branch."""
    scalar = TensorType((), i64)
    odd, even, test, body = (GraphBuilder(name) for name in ("odd", "even", "test", "body"))
    n = odd.input("n", scalar)
    odd_graph = odd.build([odd.binary("add", odd.binary("mul", n, 3), 1)])
    n = even.input("n", scalar)
    even_graph = even.build([even.binary("div", n, 2)])
    n, _ = test.input("n", scalar), test.input("steps", scalar)
    test_graph = test.build([test.binary("ne", n, 1)])
    n, steps = body.input("n", scalar), body.input("steps", scalar)
    is_odd = body.binary("eq", body.binary("rem", n, 2), 1)
    following = body.emit("cond", is_odd, n, regions=(odd_graph, even_graph))
    body_graph = body.build([following, body.binary("add", steps, 1)])
    b = GraphBuilder("collatz")
    n = b.input("n", scalar)
    _, steps = b.emit_many("while_loop", n, b.constant(0, i64), num_carry=2, regions=(test_graph, body_graph))
    return b.build({"steps": steps})


@pytest.mark.parametrize(("n", "steps"), [(1, 0), (2, 1), (7, 16), (27, 111)])
def test_a_loop_runs_for_as_long_as_its_test_holds(n: int, steps: int) -> None:
    assert interpret(collatz(), {"n": np.array(n)})["steps"] == steps


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_scan_carries_state_and_stacks_what_its_body_gives(length: int, reverse: bool) -> None:
    body = GraphBuilder()
    state, x, k = (body.input(n, TensorType((2,), i32)) for n in ("state", "x", "k"))
    total = body.emit("add", body.emit("mul", state, k), x)
    region = body.build([total, total, body.emit("lt", x, state)])
    b = GraphBuilder()
    s, xs, k = (
        b.input("s", TensorType((2,), i32)),
        b.input("xs", TensorType((length, 2), i32)),
        b.input("k", TensorType((2,), i32)),
    )
    last, ys, less = b.emit_many(
        "scan", s, xs, k, num_carry=1, num_xs=1, length=length, reverse=reverse, regions=(region,)
    )
    data = np.arange(2 * length, dtype=np.int32).reshape(length, 2)
    out = interpret(
        b.build({"last": last, "ys": ys, "less": less}),
        {"s": np.array([1, 2], np.int32), "xs": data, "k": np.array([2, 3], np.int32)},
    )
    state, expected, lesses = [1, 2], [[0, 0] for _ in range(length)], [[False, False] for _ in range(length)]
    for step in reversed(range(length)) if reverse else range(length):
        lesses[step] = [int(x) < s for x, s in zip(data[step], state, strict=True)]
        state = [s * k + int(x) for s, k, x in zip(state, (2, 3), data[step], strict=True)]
        expected[step] = state
    assert out["last"].tolist() == state
    assert out["ys"].tolist() == expected
    assert out["less"].tolist() == lesses
    assert out["ys"].shape == (length, 2)


def region_of(*types: TensorType, gives: int = 1) -> Graph:
    b = GraphBuilder()
    values = [b.input(f"x{i}", t) for i, t in enumerate(types)]
    return b.build(values[:gives])


P, S = TensorType((), bool_), TensorType((), f32)


@pytest.mark.parametrize(
    ("op", "types", "regions", "attrs", "text"),
    [
        ("cond", [P, S], [region_of(S)], {}, "cond takes 2 regions, got 1"),
        ("cond", [S, S], [region_of(S)] * 2, {}, "cond: operand 0 is f32[], accepted dtypes are bool"),
        (
            "cond",
            [P, F23],
            [region_of(F23), region_of(S)],
            {},
            "the false region takes f32[], the operands give f32[2, 3]",
        ),
        (
            "cond",
            [P, S, F23],
            [region_of(S, F23), region_of(S, F23, gives=2)],
            {},
            "the true region gives f32[], the false region gives f32[], f32[2, 3]",
        ),
        (
            "while_loop",
            [S],
            [region_of(S), region_of(S)],
            {"num_carry": 1},
            "the test gives f32[], it must give bool[]",
        ),
        (
            "while_loop",
            [P, S],
            [region_of(P, S), region_of(P, S)],
            {"num_carry": 2},
            "the body gives bool[], the carry is bool[], f32[]",
        ),
        ("while_loop", [P], [region_of(P)] * 2, {"num_carry": 2}, "num_carry is 2, there are 1 operands"),
        (
            "scan",
            [S, F23],
            [region_of(S, S)],
            {"num_carry": 1, "num_xs": 1, "length": 2},
            "the body takes f32[], f32[], the operands give f32[], f32[3]",
        ),
        (
            "scan",
            [S, F23],
            [region_of(S, S)],
            {"num_carry": 1, "num_xs": 1, "length": 3},
            "operand 1 is f32[2, 3], its first dimension must be the length 3",
        ),
        (
            "scan",
            [S],
            [region_of(S, gives=0)],
            {"num_carry": 1, "num_xs": 0, "length": 3},
            "the body gives the carry nothing, it takes f32[]",
        ),
    ],
)
def test_control_flow_refuses_regions_that_do_not_fit(
    op: str, types: list, regions: list, attrs: dict, text: str
) -> None:
    b = GraphBuilder()
    values = [b.input(f"x{i}", t) for i, t in enumerate(types)]
    with pytest.raises(IRError) as refused:
        b.emit_many(op, *values, regions=tuple(regions), **attrs)
    assert text in str(refused.value)


def test_every_dtype_passes_through_a_graph_unharmed() -> None:
    for dtype in dtypes.ALL:
        b = GraphBuilder()
        x = b.input("x", TensorType((5,), dtype))
        given = np.array([0, 1, 1, 0, 1]).astype(dtype.numpy)
        out = interpret(b.build({"y": b.emit("rev", x, dimensions=(0,))}), {"x": given})
        assert out["y"].dtype == dtype.numpy
        assert out["y"].tobytes() == given[::-1].tobytes()
