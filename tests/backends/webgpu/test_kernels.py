"""Kernels that workgroups share: reductions, products, convolutions and attention, at the edges of their blocks.

Whole numbers make sums exact in any order, so most results must be equal, not close.
"""

from __future__ import annotations

import numpy as np
import pytest

from rlx.backends.webgpu import compiler, matmul
from rlx.backends.webgpu.tiles import TILES
from rlx.ir import GraphBuilder, type_of
from rlx.ir.interpret import interpret
from rlx.options import Options
from rlx.runtime import Session

NO_CACHE = Options(cache=False)


def _run(device, emit, *arrays):
    """(results, what they should be, labels of the kernels) of `emit(builder, *values)`, which gives named values."""
    b = GraphBuilder("kernel")
    values = [b.input(f"x{i}of{compiler._TURNS_IN_SOFTWARE}", type_of(x)) for i, x in enumerate(arrays)]
    graph = b.build(emit(b, *values))
    inputs = {v.name: x for v, x in zip(values, arrays, strict=True)}
    with Session(device, NO_CACHE).compile(graph) as program:
        return program.run(inputs), interpret(graph, inputs), [step.label for step in program.report.steps]


def _whole(rng, *shape):
    return rng.integers(-8, 9, shape).astype(np.float32)


@pytest.mark.parametrize(("shape", "dimensions"), [((5, 300), (1,)), ((300, 45), (0,)), ((3, 7, 11, 50), (0, 2, 3))])
@pytest.mark.parametrize("turns", [0, 65535])
def test_reductions_keep_nan_and_infinity_whoever_of_the_workgroup_meets_them(
    webgpu, monkeypatch, shape, dimensions, turns
):
    monkeypatch.setattr(compiler, "_TURNS_IN_SOFTWARE", turns)  # 0: loops go several turns abreast, as on hardware
    rng = np.random.default_rng(len(shape))
    x = _whole(rng, *shape)
    special = np.moveaxis(x, [d for d in range(len(shape)) if d not in dimensions][-1], -1)
    for column, value in enumerate((np.nan, np.inf, -np.inf)):
        at = tuple(rng.integers(n) for n in special.shape[:-1])
        special[*at, column] = value

    def emit(b, v):
        ops = ("reduce_sum", "reduce_max", "reduce_min")
        return {op: b.emit(op, v, dimensions=dimensions) for op in ops}

    got, expected, _ = _run(webgpu, emit, x)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.bool_, np.int64])
def test_parts_of_every_register_type_meet_in_a_workgroup(webgpu, dtype):
    x = np.random.default_rng(3).integers(0, 2 if dtype is np.bool_ else 9, (3, 333)).astype(dtype)
    op = "reduce_and" if dtype is np.bool_ else "reduce_max"
    got, expected, _ = _run(webgpu, lambda b, v: {"y": b.emit(op, v, dimensions=(1,))}, x)
    np.testing.assert_array_equal(got["y"], expected["y"])


@pytest.mark.parametrize("shape", [(6, 1000), (70, 33), (3, 4099)])
def test_a_softmax_of_shared_rows_is_the_same_at_every_run(webgpu, shape):
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    x[1, 5], x[2] = np.inf, -np.inf
    first, expected, labels = _run(webgpu, lambda b, v: {"y": b.emit("softmax", v, axis=-1)}, x)
    assert len(labels) == 1
    np.testing.assert_allclose(first["y"], expected["y"], rtol=2e-6, atol=1e-9)
    again, _, _ = _run(webgpu, lambda b, v: {"y": b.emit("softmax", v, axis=-1)}, x)
    np.testing.assert_array_equal(first["y"], again["y"])


def test_a_running_sum_is_no_sum_to_divide(webgpu):
    x = _whole(np.random.default_rng(5), 300, 130)
    got, expected, _ = _run(webgpu, lambda b, v: {"y": b.emit("cumsum", v, dimension=0)}, x)
    np.testing.assert_array_equal(got["y"], expected["y"])


@pytest.mark.parametrize("tile", [tile for tile, _ in TILES], ids=lambda t: f"{t.height}x{t.width} in {t.slices}")
def test_products_are_exact_in_every_tile(webgpu, monkeypatch, tile):
    monkeypatch.setattr(matmul, "tile_for", lambda *_, **__: tile)
    rng = np.random.default_rng(10)
    x, y = _whole(rng, 2, 37, 3 * tile.depth + tile.rows), _whole(rng, 2, 70, 3 * tile.depth + tile.rows)

    def emit(b, u, v):
        return {"y": b.emit("dot_general", u, v, lhs_contract=(2,), rhs_contract=(2,), lhs_batch=(0,), rhs_batch=(0,))}

    got, expected, labels = _run(webgpu, emit, x, y)
    assert labels == ["matmul"]
    np.testing.assert_array_equal(got["y"], expected["y"])


def test_products_of_one_value_are_one_kernel_with_an_epilogue_each(webgpu):
    rng = np.random.default_rng(9)
    x, w, wt, bias = _whole(rng, 19, 40), _whole(rng, 40, 24), _whole(rng, 50, 40), _whole(rng, 50)
    b = GraphBuilder("joined")
    value = b.input("x", type_of(x))
    first = b.emit("dot_general", value, b.parameter("w", w), lhs_contract=(1,), rhs_contract=(0,))
    second = b.emit("dot_general", value, b.parameter("wt", wt), lhs_contract=(1,), rhs_contract=(1,))
    shift = b.emit("broadcast_in_dim", b.parameter("bias", bias), shape=(19, 50), broadcast_dims=(1,))
    graph = b.build({"negated": b.emit("neg", first), "shifted": b.emit("add", second, shift)})
    with Session(webgpu, NO_CACHE).compile(graph) as program:
        assert [step.label for step in program.report.steps] == ["matmul"]
        got = program.run({"x": x})
    np.testing.assert_array_equal(got["negated"], -(x @ w))
    np.testing.assert_array_equal(got["shifted"], x @ wt.T + bias)


@pytest.mark.parametrize(
    ("image", "weights", "attributes"),
    [
        ((2, 3, 17, 19), (16, 3, 3, 3), {}),
        ((1, 8, 17, 19), (24, 8, 5, 3), {"strides": (2, 3), "rhs_dilation": (2, 1), "padding": ((2, 1), (0, 1))}),
        ((2, 8, 9, 7), (16, 8, 4, 4), {"lhs_dilation": (2, 3), "padding": ((2, -1), (3, 3))}),
        ((1, 16, 9, 11), (32, 4, 3, 3), {"groups": 4}),
        ((1, 12, 9, 11), (24, 1, 3, 3), {"groups": 12, "strides": (2, 1)}),
        ((2, 20, 70), (40, 20, 5), {}),
    ],
    ids=["plain", "strided and dilated", "transposed", "groups", "depthwise", "one dimension"],
)
def test_convolutions_unfold_every_kind_of_window(webgpu, image, weights, attributes):
    rng = np.random.default_rng(6)
    rank = len(image) - 2
    ones = (1,) * rank
    given = {"strides": ones, "padding": ((1, 1),) * rank, "lhs_dilation": ones, "rhs_dilation": ones, "groups": 1}
    x, w = _whole(rng, *image), _whole(rng, *weights)
    x.flat[x.size // 2] = np.nan  # stays where its windows are

    def emit(b, *values):
        return {"y": b.emit("neg", b.emit("conv_general", *values, **given | attributes))}

    got, expected, labels = _run(webgpu, emit, x, w)
    assert labels in (["conv"], ["direct_conv"])
    np.testing.assert_array_equal(got["y"], expected["y"])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("m", "n", "d"), [(16, 16, 32), (33, 70, 18), (40, 130, 64)])
def test_attention_streams_blocks_of_keys(webgpu, monkeypatch, m, n, d, causal):
    monkeypatch.setattr(compiler, "_TURNS_IN_SOFTWARE", 0 if causal and m == 33 else 65535)
    rng = np.random.default_rng(7)
    q, k, v = (rng.normal(size=(2, h, s, d)).astype(np.float32) for h, s in ((4, m), (2, n), (2, n)))
    v[-1, -1, 0, 0] = np.nan  # behind the end of the other heads' keys
    got, expected, labels = _run(webgpu, lambda b, *x: {"y": b.emit("attention", *x, causal=causal)}, q, k, v)
    assert labels == ["attention"]
    np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-4, atol=1e-5)


def test_attention_sees_what_no_key_or_every_key_of_a_query_is(webgpu):
    rng = np.random.default_rng(8)
    q, k, v = (rng.normal(size=(1, 1, 170, 32)).astype(np.float32) for _ in range(3))
    mask = np.zeros((1, 1, 170, 170), np.float32)
    mask[0, 0, 3], mask[0, 0, 4, 7], mask[0, 0, 5, 9] = -np.inf, np.nan, np.inf
    v[0, 0, 160, 3], v[0, 0, 1, 6] = np.nan, np.inf  # the first of them is hidden from most queries, and still counts
    emit = lambda b, *x: {"y": b.emit("attention", *x, causal=True)}  # noqa: E731
    got, expected, labels = _run(webgpu, emit, q, k, v, mask)
    assert labels == ["attention"]
    np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-4, atol=1e-5)
