"""Tensors above what a shader may bind, and above what a buffer may hold: the device is held to small limits."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.driver import HOST, Buffer
from rlx.errors import BindingLimit
from rlx.ir import GraphBuilder, TensorType, dtypes, type_of
from rlx.ir.interpret import interpret
from rlx.options import Options
from rlx.runtime import Session

NO_CACHE = Options(cache=False)


def _agree(graph, inputs, device, options=NO_CACHE, rtol=0.0):
    with Session(device, options).compile(graph) as program:
        got = program.run(inputs)
    for name, expected in interpret(graph, inputs).items():
        np.testing.assert_allclose(got[name], expected, rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.float16, np.bool_])
def test_elements_are_read_and_written_across_parts(small, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 50, 34_003).astype(dtype) for _ in range(2))
    b = GraphBuilder("elements")
    v, w = (b.input(name, type_of(array)) for name, array in (("x", x), ("y", y)))
    larger = b.emit("max", v, w)
    graph = b.build({"max": larger, "back": b.emit("rev", larger, dimensions=(0,))})
    _agree(graph, {"x": x, "y": y}, small)


def test_a_table_is_gathered_from_whichever_part_holds_the_row(small):
    rng = np.random.default_rng(1)
    table, rows = rng.normal(size=(1700, 40)).astype(np.float32), rng.integers(0, 1700, (90, 1)).astype(np.int32)
    b = GraphBuilder("gather")
    t, r = b.input("table", type_of(table)), b.input("rows", type_of(rows))
    taken = b.emit(
        "gather", t, r, offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,), slice_sizes=(1, 40)
    )
    _agree(b.build({"y": taken}), {"table": table, "rows": rows}, small)


def test_products_run_over_operands_in_parts(small):
    rng = np.random.default_rng(2)
    x = rng.integers(-4, 5, (190, 230)).astype(np.float32)
    w = rng.integers(-4, 5, (230, 170)).astype(np.float32)
    b = GraphBuilder("product")
    dot = b.emit("dot_general", b.input("x", type_of(x)), b.parameter("w", w), lhs_contract=(1,), rhs_contract=(0,))
    _agree(b.build({"y": b.emit("abs", dot)}), {"x": x}, small)


def test_convolutions_run_over_images_in_parts(small):
    rng = np.random.default_rng(9)
    x = rng.integers(-4, 5, (1, 20, 33, 35)).astype(np.float32)
    w = rng.integers(-4, 5, (24, 20, 3, 3)).astype(np.float32)
    b = GraphBuilder("conv")
    y = b.emit(
        "conv_general", b.input("x", type_of(x)), b.parameter("w", w),
        strides=(1, 1), padding=((1, 1), (1, 1)), lhs_dilation=(1, 1), rhs_dilation=(1, 1),
    )  # fmt: skip
    _agree(b.build({"y": b.emit("abs", y)}), {"x": x}, small)


def test_rows_are_summed_and_normalised_across_parts(small):
    x = np.random.default_rng(3).normal(size=(37, 1900)).astype(np.float32)
    b = GraphBuilder("rows")
    v = b.input("x", type_of(x))
    graph = b.build({"softmax": b.emit("softmax", v, axis=1), "sum": b.emit("reduce_sum", v, dimensions=(0,))})
    _agree(graph, {"x": x}, small, rtol=2e-5)


def test_an_arena_larger_than_a_buffer_keeps_its_values(small):
    x = np.random.default_rng(4).integers(-9, 9, (70, 90)).astype(np.float32)
    b = GraphBuilder("arena")
    v = b.input("x", type_of(x))
    parts = [b.emit("cumsum", v, dimension=i % 2) for i in range(9)]
    total = parts[0]
    for part in parts[1:]:
        total = b.emit("add", total, b.emit("rev", part, dimensions=(0,)))
    _agree(b.build({"y": total}), {"x": x}, small, Options(cache=False, optimize=False, debug_memory=True))


def test_a_view_across_the_seam_of_two_buffers_is_taken(small):
    x = np.arange(60_000, dtype=np.float32)
    whole = Buffer.from_numpy(x).to(small)
    part = whole[64 * 700 : 64 * 900]
    b = GraphBuilder("view")
    program = Session(small, NO_CACHE).compile(b.build({"y": b.emit("neg", b.input("x", part.type))}))
    got = program.run({"x": part})["y"]
    np.testing.assert_array_equal(got.to(HOST).numpy(), -x[64 * 700 : 64 * 900])


@pytest.mark.parametrize("shape", [(6000,), (53, 120), (3, 40, 50)])
def test_a_kernel_of_more_parts_than_a_shader_binds_is_launched_over_ranges(tiny, shape):
    rng = np.random.default_rng(7)
    x, y = (rng.integers(-50, 50, shape).astype(np.float32) for _ in range(2))
    b = GraphBuilder("ranges")
    v, w = b.input("x", type_of(x)), b.input("y", type_of(y))
    total = b.emit("add", v, b.emit("rev", w, dimensions=(0,)))
    outputs = {"sum": total, "sign": b.emit("gt", total, v), "narrow": b.emit("convert", total, dtype=dtypes.f16)}
    outputs["rows"] = b.emit("reduce_max", total, dimensions=(len(shape) - 1,)) if len(shape) > 1 else total
    program = Session(tiny, NO_CACHE).compile(b.build(outputs))
    feeds = [Buffer.from_numpy(a).to(tiny) for a in (x, y)]
    sinks = [Buffer.empty(t, tiny) for t in program.outputs.values()]
    for sink in sinks:
        sink.fill(1)
    if tiny.backend.memory(0).gpu.has_timestamps:
        assert len(program.executable.time_kernels(feeds, sinks)) > len(program.report.steps)
    _agree(b.build(outputs), {"x": x, "y": y}, tiny)


def _gather(b, table, rows):
    width = table.type.sizes[1]
    return b.emit(
        "gather", table, rows,
        offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,), slice_sizes=(1, width),
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "index"), [(np.float32, np.int32), (np.int64, np.int64), (np.float16, np.int32)])
def test_a_table_of_more_parts_than_a_shader_binds_is_gathered_by_ranges_of_it(tiny, dtype, index):
    rng = np.random.default_rng(11)
    table = rng.integers(-50, 50, (1900, 7)).astype(dtype)
    rows = rng.integers(-9, 1909, (90, 1)).astype(index)  # some out of bounds
    b = GraphBuilder("gather")
    taken = _gather(b, b.input("table", type_of(table)), b.input("rows", type_of(rows)))
    _agree(b.build({"y": b.emit("neg", taken)}), {"table": table, "rows": rows}, tiny)


def test_what_is_gathered_from_a_large_table_is_normalised_and_summed_with_it(tiny):
    rng = np.random.default_rng(12)
    table, rows = rng.normal(size=(1100, 9)).astype(np.float32), rng.integers(0, 1100, (2, 50, 1)).astype(np.int32)
    b = GraphBuilder("embedding")
    t, r, other = (
        b.input("table", type_of(table)),
        b.input("rows", type_of(rows[0])),
        b.input("other", type_of(rows[0])),
    )
    taken = _gather(b, t, r)
    outputs = {"softmax": b.emit("softmax", taken, axis=1), "both": b.emit("sub", taken, _gather(b, t, other))}
    outputs["sum"] = b.emit("reduce_sum", taken, dimensions=(0,))  # a row each, and then one: not fused
    _agree(b.build(outputs), {"table": table, "rows": rows[0], "other": rows[1]}, tiny, rtol=2e-5)


def test_a_running_sum_of_what_is_gathered_takes_nothing_from_elsewhere(tiny):
    rng = np.random.default_rng(19)
    table, rows = rng.integers(-9, 9, (9000, 1)).astype(np.float32), rng.integers(0, 9000, (70, 1)).astype(np.int32)
    b = GraphBuilder("running")
    taken = _gather(b, b.input("table", type_of(table)), b.input("rows", type_of(rows)))
    _agree(b.build({"y": b.emit("cumsum", taken, dimension=0)}), {"table": table, "rows": rows}, tiny)


@pytest.mark.parametrize("combiner", ["set", "add"])
def test_updates_reach_a_large_result_in_their_order_wherever_they_overlap(tiny, combiner):
    rng = np.random.default_rng(13)
    x, u = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((9000,), (300, 7)))
    at = (rng.integers(0, 70, (300, 1)) * 129).astype(np.int32)  # many meet, none may be lost at a cut
    b = GraphBuilder("scatter")
    y = b.emit(
        "scatter", *(b.input(name, type_of(a)) for name, a in (("x", x), ("at", at), ("u", u))),
        update_window_dims=(1,), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,), combiner=combiner,
    )  # fmt: skip
    _agree(b.build({"y": y}), {"x": x, "at": at, "u": u}, tiny)


def test_slices_begin_anywhere_in_a_large_tensor(tiny):
    rng = np.random.default_rng(14)
    x, u = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((130, 90), (60, 40)))
    b = GraphBuilder("slices")
    v, w = b.input("x", type_of(x)), b.input("u", type_of(u))
    at = [b.input(name, TensorType((), dtypes.i32)) for name in "ij"]
    outputs = {"slice": b.emit("dynamic_slice", v, *at, sizes=(60, 40))}
    outputs["updated"] = b.emit("dynamic_update_slice", v, w, *at)
    _agree(b.build(outputs), {"x": x, "u": u, "i": np.int32(47), "j": np.int32(300)}, tiny)


@pytest.mark.parametrize(("shape", "dimensions"), [((9000,), (0,)), ((100, 90), (0,))])
def test_sums_longer_than_a_shader_binds_go_on_where_the_launch_before_ended(tiny, shape, dimensions):
    x = np.random.default_rng(15).integers(-9, 10, shape).astype(np.float32)
    b = GraphBuilder("sums")
    v = b.input("x", type_of(x))
    outputs = {"sum": b.emit("neg", b.emit("reduce_sum", v, dimensions=dimensions))}
    outputs["running"] = b.emit("cumsum", v, dimension=dimensions[0])
    outputs["first"] = b.emit("argmax", v, dimension=dimensions[0])
    _agree(b.build(outputs), {"x": x}, tiny)


@pytest.mark.parametrize(
    ("left", "right", "k"),
    [((8, 70), (70, 100), ((1,), (0,))), ((20, 50), (130, 50), ((1,), (1,))), ((130, 16), (130, 40), ((0,), (0,)))],
    ids=["rows by columns", "rows by rows", "columns by columns"],
)
def test_products_are_divided_along_whatever_divides_their_operands(tiny, left, right, k):
    rng = np.random.default_rng(16)
    x, y = (rng.integers(-4, 5, shape).astype(np.float32) for shape in (left, right))
    b = GraphBuilder("product")
    v, w = b.input("x", type_of(x)), b.input("y", type_of(y))
    dot = b.emit("dot_general", v, w, lhs_contract=k[0], rhs_contract=k[1])
    column = b.emit("broadcast_in_dim", b.emit("iota", dtype=dtypes.f32, shape=dot.type.sizes, dimension=1),
                    shape=dot.type.sizes, broadcast_dims=(0, 1))  # fmt: skip
    _agree(b.build({"z": b.emit("sub", dot, column)}), {"x": x, "y": y}, tiny)


@pytest.mark.parametrize(
    ("image", "weights", "groups"),
    [((1, 12, 15, 17), (16, 12, 3, 3), 1), ((1, 100, 9, 9), (8, 100, 1, 1), 1), ((2, 24, 11, 13), (24, 1, 3, 3), 24)],
    ids=["features", "channels", "groups"],
)
def test_convolutions_are_divided_by_images_groups_features_and_channels(tiny, image, weights, groups):
    rng = np.random.default_rng(17)
    x, w = (rng.integers(-4, 5, shape).astype(np.float32) for shape in (image, weights))
    b = GraphBuilder("conv")
    y = b.emit(
        "conv_general", b.input("x", type_of(x)), b.input("w", type_of(w)), groups=groups,
        strides=(1, 1), padding=((1, 1), (1, 1)), lhs_dilation=(1, 1), rhs_dilation=(1, 1),
    )  # fmt: skip
    bias = b.emit("iota", dtype=dtypes.f32, shape=y.type.sizes, dimension=1)
    _agree(b.build({"y": b.emit("sub", y, bias)}), {"x": x, "w": w}, tiny)


@pytest.mark.parametrize(("m", "n", "kernels"), [(110, 30, 1), (20, 70, None)], ids=["queries", "keys"])
def test_attention_is_divided_by_queries_and_is_products_where_keys_are_too_many(tiny, m, n, kernels):
    rng = np.random.default_rng(18)
    q, k, v = (rng.normal(size=(1, 2, s, 16 if kernels else 32)).astype(np.float32) for s in (m, n, n))
    b = GraphBuilder("attention")
    values = [b.input(name, type_of(a)) for name, a in (("q", q), ("k", k), ("v", v))]
    graph = b.build({"y": b.emit("attention", *values, causal=True)})
    with Session(tiny, NO_CACHE).compile(graph) as program:
        assert kernels is None or len(program.report.steps) == kernels
    _agree(graph, {"q": q, "k": k, "v": v}, tiny, rtol=1e-4)


def test_more_operands_than_a_shader_binds_are_added_without_fusion(tiny):
    inputs = {f"x{i}": np.arange(5, dtype=np.float32) + i for i in range(10)}
    b = GraphBuilder("many")
    total, *others = (b.input(name, type_of(x)) for name, x in inputs.items())
    for value in others:
        total = b.emit("add", total, value)
    _agree(b.build({"y": total}), inputs, tiny)


def test_a_row_too_long_to_sort_is_refused_with_both_numbers(tiny):
    b = GraphBuilder("sort")
    y = b.emit("sort", b.input("x", TensorType((9000,), dtypes.f32)), dimension=0)
    with pytest.raises(BindingLimit, match=r"36 parts .* 4096 bytes, .* 8 at once"):
        Session(tiny, NO_CACHE).compile(b.build({"y": y}))
