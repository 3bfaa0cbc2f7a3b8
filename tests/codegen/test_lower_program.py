"""The shape of lowered programs: what costs no copy, what runs in setup, how control flow nests, how kernels look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from kernel_interpreter import Program
from reference_templates import ReferenceTemplates

from rlx.codegen.kernel import Const, Loop, LoopKernel, Stmt
from rlx.codegen.lower import lower
from rlx.codegen.program import Branch, Copy, Launch, LoweredProgram, Repeat, Step
from rlx.errors import CustomCallNotCompiled, LoweringError
from rlx.ir import Dim, GraphBuilder, TensorType
from rlx.ir.dtypes import bool_, f32, i32, i64
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.passes import optimize

RNG = np.random.default_rng(11)


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def lowered(graph: Graph) -> tuple[LoweredProgram, ReferenceTemplates]:
    templates = ReferenceTemplates()
    return lower(optimize(graph), templates), templates


def check(graph: Graph, program: LoweredProgram, *inputs: np.ndarray, tolerance: float = 2e-6) -> None:
    expected = interpret(graph, dict(zip(graph.input_types, inputs, strict=True)))
    machine = Program(program, [p.data for p in graph.parameters])
    for _ in range(2):
        for got, want in zip(machine.run(*inputs), expected.values(), strict=True):
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def labels(steps: Sequence[Step]) -> list[str]:
    return [step.kernel.label if isinstance(step, Launch) else type(step).__name__ for step in steps]


def loops(body: Sequence[Stmt]) -> Iterator[Loop]:
    for s in body:
        if isinstance(s, Loop):
            yield s
            yield from loops(s.body)


# -- views ---------------------------------------------------------------------------------------------------------


def attention(b: GraphBuilder, x: Value) -> Value:
    """Self-attention over x [2, 8, 32] with 4 heads and one projection a role."""

    def project(name: str) -> Value:
        w = b.parameter(name, random(32, 32) * 0.2)
        y = b.emit("dot_general", x, w, lhs_contract=(2,), rhs_contract=(1,))
        y = b.binary("add", y, b.parameter(name + ".bias", random(32)))
        return b.emit("transpose", b.emit("reshape", y, shape=(2, 8, 4, 8)), permutation=(0, 2, 1, 3))

    y = b.emit("attention", project("q"), project("k"), project("v"))
    y = b.emit("reshape", b.emit("transpose", y, permutation=(0, 2, 1, 3)), shape=(2, 8, 32))
    return b.emit("dot_general", y, b.parameter("o", random(32, 32)), lhs_contract=(2,), rhs_contract=(1,))


def test_attention_moves_no_bytes_but_through_its_projections_and_one_kernel() -> None:
    b = GraphBuilder()
    graph = b.build([attention(b, b.input("x", TensorType((2, 8, 32), f32)))])
    program, templates = lowered(graph)
    assert labels(program.steps)[-2:] == ["attention", "matmul"]
    assert labels(program.setup) == ["pack"] * 4
    ((spec, _),) = templates.attentions
    assert (spec.batch, spec.m, spec.n) == ((2, 4), (8,), (8,))
    assert spec.q.strides == (256, 8, 32, 1)
    assert spec.k.strides == (256, 8, 32, 1)
    check(graph, program, random(2, 8, 32), tolerance=1e-5)


def test_a_gated_layer_s_two_projections_are_one_kernel_with_one_result() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((2, 8, 32), f32))
    gate, up = (
        b.emit("dot_general", x, b.parameter(n, random(32, 24)), lhs_contract=(2,), rhs_contract=(0,)) for n in "gu"
    )
    biased = b.binary("add", up, b.parameter("bias", random(24)))
    gated = b.emit("mul", b.emit("mul", gate, b.emit("logistic", gate)), biased)
    graph = b.build([b.emit("transpose", gated, permutation=(1, 0, 2))])
    program, templates = lowered(graph)
    assert labels(program.steps) == ["matmul"]
    assert templates.pairs == 1
    check(graph, program, random(2, 8, 32), tolerance=1e-5)


def test_neighbouring_dimensions_reach_a_template_as_one_wherever_all_its_views_allow() -> None:
    b = GraphBuilder()
    x, w = b.input("x", TensorType((3, 5, 2, 8), f32)), b.parameter("w", random(2, 8, 4, 6))
    graph = b.build([b.emit("dot_general", x, w, lhs_contract=(2, 3), rhs_contract=(0, 1))])
    program, templates = lowered(graph)
    ((spec, _),) = templates.matmuls
    assert (spec.batch, spec.m, spec.n, spec.k) == ((), (15,), (24,), (16,))
    assert spec.b_constant
    check(graph, program, random(3, 5, 2, 8), tolerance=1e-5)


def test_a_broadcast_operand_reaches_a_template_with_stride_zero() -> None:
    b = GraphBuilder()
    x, k = b.input("x", TensorType((2, 4, 3, 8), f32)), b.input("k", TensorType((2, 2, 5, 8), f32))
    shared = b.emit("broadcast_in_dim", k, shape=(2, 2, 2, 5, 8), broadcast_dims=(0, 1, 3, 4))
    shared = b.emit("reshape", shared, shape=(2, 4, 5, 8))
    y = b.emit("dot_general", x, shared, lhs_contract=(3,), rhs_contract=(3,), lhs_batch=(0, 1), rhs_batch=(0, 1))
    graph = b.build([y])
    program, templates = lowered(graph)
    assert labels(program.steps) == ["matmul"]
    assert 0 in templates.matmuls[0][0].b.strides
    check(graph, program, random(2, 4, 3, 8), random(2, 2, 5, 8), tolerance=1e-5)


def test_a_product_of_copied_operands_is_read_where_it_was_written() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((6, 33), f32))
    twice = b.emit("broadcast_in_dim", x, shape=(2, 6, 33), broadcast_dims=(1, 2))
    crooked = b.emit("reshape", twice, shape=(11, 36))  # no strides reach its elements
    y = b.emit("dot_general", crooked, crooked, lhs_contract=(1,), rhs_contract=(1,))
    graph = b.build([b.emit("reduce_max", y, dimensions=(0,))])
    program, templates = lowered(graph)
    check(graph, program, random(6, 33))
    assert templates.matmuls
    assert labels(program.steps)[0] == "copy"


def test_operands_of_a_concatenation_are_computed_in_their_places() -> None:
    b = GraphBuilder()
    x, y = b.input("x", TensorType((1, 4, 6), f32)), b.input("y", TensorType((1, 3, 6), f32))
    inner = b.emit("concatenate", b.emit("cumsum", x, dimension=2), b.emit("cumsum", y, dimension=2), dimension=1)
    outer = b.emit("concatenate", inner, b.emit("cumprod", x, dimension=2), dimension=1)
    graph = b.build([outer, b.emit("reduce_max", inner, dimensions=(1,))])
    program, _ = lowered(graph)
    assert sorted(labels(program.steps)) == ["cumprod", "cumsum", "cumsum", "reduce_max"]
    check(graph, program, random(1, 4, 6), random(1, 3, 6))


def test_a_transpose_is_walked_in_blocks_so_that_every_cache_line_is_read_once() -> None:
    b = GraphBuilder()
    graph = b.build([b.emit("transpose", b.input("x", TensorType((192, 256), f32)), permutation=(1, 0))])
    program, _ = lowered(graph)
    (step,) = program.steps
    assert isinstance(step, Launch)
    assert isinstance(step.kernel, LoopKernel)
    kinds = [loop.kind for loop in loops(step.kernel.body)]
    assert kinds == ["serial", "vector"]
    check(graph, program, random(192, 256))


# -- setup ---------------------------------------------------------------------------------------------------------


def test_what_parameters_decide_runs_in_setup_and_only_once() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((2, 3, 5, 5), f32))
    conv = b.emit(
        "conv_general", x, b.parameter("w", random(4, 3, 3, 3)),
        strides=(1, 1), padding=((1, 1), (1, 1)), lhs_dilation=(1, 1), rhs_dilation=(1, 1),
    )  # fmt: skip
    stats = [b.parameter(n, np.abs(random(4)) + 0.1) for n in ("scale", "bias", "mean", "var")]
    graph = b.build([b.emit("relu", b.emit("batch_norm", conv, *stats, epsilon=1e-5))])
    program, _ = lowered(graph)
    assert labels(program.steps) == ["conv"]
    assert "pack" in labels(program.setup)
    assert any("rsqrt" in s.sources or "sqrt" in s.sources for s in program.setup if isinstance(s, Launch))
    check(graph, program, random(2, 3, 5, 5), tolerance=1e-5)


def test_a_product_of_parameters_is_no_operand_worth_packing() -> None:
    b = GraphBuilder()
    x, u, v = b.input("x", TensorType((5, 4), f32)), b.parameter("u", random(4, 3)), b.parameter("v", random(3, 4))
    joined = b.emit("dot_general", u, v, lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build([b.emit("dot_general", x, joined, lhs_contract=(1,), rhs_contract=(0,))])
    program, templates = lowered(graph)
    assert labels(program.setup) == ["matmul", "pack"]
    assert [(s.a_constant, s.b_constant) for s, _ in templates.matmuls] == [(False, False), (False, True)]
    check(graph, program, random(5, 4), tolerance=1e-5)


def test_an_output_that_depends_on_parameters_alone_is_still_written_at_every_run() -> None:
    b = GraphBuilder()
    w = b.parameter("w", random(4))
    graph = b.build([b.emit("exp", w), w, b.constant(np.arange(4, dtype=np.float32))])
    program, _ = lowered(graph)
    assert labels(program.steps) == ["Copy"] * 3
    check(graph, program)


# -- control flow --------------------------------------------------------------------------------------------------


def test_the_branch_not_taken_does_not_run_and_its_weights_are_packed_in_setup() -> None:
    b = GraphBuilder()
    p, x = b.input("p", TensorType((), bool_)), b.input("x", TensorType((2, 4), f32))
    w = b.parameter("w", random(4, 4))
    arms = []
    for op in ("exp", "neg"):
        arm = GraphBuilder()
        inner, weight = arm.input("x", x.type), arm.input("w", w.type)
        arms.append(
            arm.build([arm.emit(op, arm.emit("dot_general", inner, weight, lhs_contract=(1,), rhs_contract=(0,)))])
        )
    graph = b.build(b.emit_many("cond", p, x, w, regions=arms))
    program, _ = lowered(graph)
    (branch,) = program.steps
    assert isinstance(branch, Branch)
    assert labels(branch.then) == labels(branch.orelse) == ["matmul"]
    assert labels(program.setup) == ["pack", "pack"]
    for value in (True, False):
        check(graph, program, np.array(value), random(2, 4), tolerance=1e-5)


def test_a_scan_stacks_its_results_in_place() -> None:
    body = GraphBuilder()
    c, x, w = (body.input(n, TensorType((4,), f32)) for n in ("c", "x", "w"))
    total = body.emit("tanh", body.emit("add", body.emit("mul", c, w), x))
    b = GraphBuilder()
    given = b.input("c", c.type), b.input("xs", TensorType((6, 4), f32)), b.parameter("w", random(4))
    graph = b.build(
        b.emit_many(
            "scan", *given, num_carry=1, num_xs=1, length=6, reverse=True, regions=(body.build([total, total]),)
        )
    )
    program, _ = lowered(graph)
    (repeat,) = [s for s in program.steps if isinstance(s, Repeat)]
    copied = [s for s in repeat.body if isinstance(s, Copy)]
    assert {s.nbytes for s in copied} == {8, 16}, "the counter and the carry move, the stacked results do not"
    check(graph, program, random(4), random(6, 4))


def test_carries_that_swap_places_do_not_overwrite_each_other() -> None:
    pair = TensorType((3,), f32)
    test, body, b = GraphBuilder(), GraphBuilder(), GraphBuilder()
    i, *_ = test.input("i", TensorType((), i64)), test.input("x", pair), test.input("y", pair)
    j, x, y = body.input("i", TensorType((), i64)), body.input("x", pair), body.input("y", pair)
    regions = test.build([test.binary("lt", i, 3)]), body.build([body.binary("add", j, 1), y, x])
    given = b.constant(0, i64), b.input("x", pair), b.input("y", pair)
    graph = b.build(b.emit_many("while_loop", *given, num_carry=3, regions=regions)[1:])
    check(graph, lowered(graph)[0], random(3), random(3))


def test_an_update_of_something_that_is_read_again_leaves_it_as_it_was() -> None:
    b = GraphBuilder()
    x, u, at = (
        b.input("x", TensorType((5,), f32)),
        b.input("u", TensorType((2,), f32)),
        b.input("at", TensorType((), i32)),
    )
    y = b.emit("cumsum", x, dimension=0)
    graph = b.build([b.emit("dynamic_update_slice", y, u, at), b.emit("cumsum", y, dimension=0)])
    check(graph, lowered(graph)[0], random(5), random(2), np.array(9, np.int32))


#: scatter's dimensions for updates that are single elements of a vector.
ROWS = {"update_window_dims": (), "inserted_window_dims": (0,), "scatter_dims_to_operand_dims": (0,)}


@pytest.mark.parametrize("reader", ["update", "index", "other", "itself"])
def test_a_carry_that_is_read_beside_its_update_is_not_overwritten_before(reader: str) -> None:
    row = TensorType((6,), f32)
    test, body, b = GraphBuilder(), GraphBuilder(), GraphBuilder()
    i, *_ = test.input("i", TensorType((), i32)), test.input("c", row), test.input("d", row)
    j, c, d = body.input("i", TensorType((), i32)), body.input("c", row), body.input("d", row)
    turned = body.emit("rev", c, dimensions=(0,))
    window = body.emit("slice", turned if reader == "update" else d, starts=(0,), limits=(4,), strides=(1,))
    place = body.convert(body.emit("reduce_max", c, dimensions=(0,)), i32) if reader == "index" else j
    updated = body.emit("dynamic_update_slice", c, window, place)
    if reader == "itself":
        places = body.constant(np.array([[5], [0], [3], [3], [1], [0]]))
        updated = body.emit("scatter", c, places, c, combiner="add", **ROWS)
    other = body.emit("add", d, turned) if reader == "other" else body.emit("neg", d)
    regions = test.build([test.binary("lt", i, 3)]), body.build([body.binary("add", j, 1), updated, other])
    given = b.constant(0, i32), b.input("c", row), b.input("d", row)
    graph = b.build(b.emit_many("while_loop", *given, num_carry=3, regions=regions)[1:])
    check(graph, lowered(graph)[0], random(6), random(6), tolerance=1e-5)


def test_updates_that_overlap_apply_in_order_whatever_runs_in_parallel() -> None:
    b = GraphBuilder()
    x, u = b.input("x", TensorType((6, 5), f32)), b.input("u", TensorType((3, 4, 5), f32))
    places = b.constant(np.array([[1], [0], [2]]))
    dims = {"update_window_dims": (1, 2), "inserted_window_dims": (), "scatter_dims_to_operand_dims": (0,)}
    graph = b.build([b.emit("scatter", x, places, u, combiner="set", **dims)])
    check(graph, lowered(graph)[0], random(6, 5), random(3, 4, 5))


def test_updates_that_all_meet_in_one_place_are_all_added() -> None:
    b = GraphBuilder()
    x, u = b.input("x", TensorType((4,), f32)), b.input("u", TensorType((7, 1), f32))
    nowhere = b.constant(np.zeros((7, 0), np.int32))
    dims = {"update_window_dims": (1,), "inserted_window_dims": (), "scatter_dims_to_operand_dims": ()}
    graph = b.build([b.emit("scatter", x, nowhere, u, combiner="add", **dims)])
    check(graph, lowered(graph)[0], random(4), random(7, 1), tolerance=1e-5)


# -- kernels -------------------------------------------------------------------------------------------------------


def test_a_long_pointwise_kernel_is_one_collapsed_axis_in_even_chunks() -> None:
    b = GraphBuilder()
    graph = b.build([b.emit("tanh", b.input("x", TensorType((8, 64, 128), f32)))])
    (step,) = lowered(graph)[0].steps
    assert isinstance(step, Launch)
    assert isinstance(step.kernel, LoopKernel)
    (loop,) = loops(step.kernel.body)
    assert loop.kind == "vector"
    assert isinstance(loop.extent, Const)
    assert isinstance(step.kernel.grid, Const)
    assert loop.extent.value * step.kernel.grid.value == 8 * 64 * 128
    assert step.kernel.grid.value >= 8
    assert step.kernel.cost.bytes == 2 * 4 * 8 * 64 * 128


def test_an_axis_whose_position_is_data_is_not_merged_into_another() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((16, 64), f32))
    graph = b.build([b.emit("add", x, b.iota((16, 64), 1, f32))])
    program, _ = lowered(graph)
    (step,) = program.steps
    assert isinstance(step, Launch)
    assert isinstance(step.kernel, LoopKernel)
    assert "div" not in text(step.kernel)
    assert isinstance(step.kernel.grid, Const)
    assert step.kernel.grid.value == 16
    check(graph, program, random(16, 64))


def test_softmax_along_a_middle_dimension_runs_across_neighbouring_rows() -> None:
    b = GraphBuilder()
    graph = b.build([b.emit("softmax", b.input("x", TensorType((3, 5, 40), f32)), axis=1)])
    program, _ = lowered(graph)
    (step,) = program.steps
    assert isinstance(step, Launch)
    assert isinstance(step.kernel, LoopKernel)
    assert {int(loop.extent.value.real) for loop in loops(step.kernel.body) if loop.kind == "vector"} == {40}
    check(graph, program, random(3, 5, 40))


def test_a_full_reduction_is_split_into_chunks_whose_number_depends_on_the_shape_alone() -> None:
    b = GraphBuilder()
    graph = b.build([b.emit("reduce_sum", b.input("x", TensorType((64, 4096), f32)), dimensions=(0, 1))])
    program, _ = lowered(graph)
    first, second = program.steps
    assert isinstance(first, Launch)
    assert isinstance(first.kernel, LoopKernel)
    assert isinstance(first.kernel.grid, Const)
    assert 8 <= first.kernel.grid.value <= 128
    assert labels([second]) == ["reduce_sum"]
    check(graph, program, random(64, 4096), tolerance=1e-3)


def test_equal_layers_give_equal_kernels() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((4, 32), f32))
    for i in range(3):
        x = b.emit("layer_norm", x, b.parameter(f"s{i}", random(32)), b.parameter(f"b{i}", random(32)), axis=-1)
        x = b.emit("cumsum", x, dimension=0)
    program, _ = lowered(b.build([x]))
    kernels = [s.kernel for s in program.steps if isinstance(s, Launch)]
    texts = {text(k) for k in kernels if isinstance(k, LoopKernel)}
    assert len(kernels) == 6
    assert len(texts) == 2


def text(kernel: LoopKernel) -> str:
    """The kernel with everything that its code depends on."""
    return repr((kernel.args, kernel.index, kernel.grid, kernel.body))


# -- refusals ------------------------------------------------------------------------------------------------------


def test_a_custom_call_is_refused_by_name() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((2,), f32))
    y = b.emit("custom_call", x, target="acme.fft", result_shapes=((2,),), result_dtypes=(f32,))
    with pytest.raises(CustomCallNotCompiled, match=r"acme\.fft"):
        lower(b.build([y]))


def test_a_symbolic_size_is_refused() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((Dim("batch"), 2), f32))
    with pytest.raises(LoweringError, match="symbolic"):
        lower(b.build([b.emit("neg", x)]))


def test_a_graph_with_thousands_of_nodes_lowers_without_deep_recursion() -> None:
    b = GraphBuilder()
    y = b.input("x", TensorType((4, 4), f32))
    for i in range(3000):
        y = b.emit("tanh", y) if i % 3 else b.emit("transpose", y, permutation=(1, 0))
    assert len(lower(b.build([y])).steps) > 50
