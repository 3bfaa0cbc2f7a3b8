"""Whole programs in AMX's matrix registers, on processors that have them; `test_gemm_amx` needs none."""

from __future__ import annotations

import numpy as np
import pytest

from rlx import Options, Session
from rlx.backends.cpu.host import PRECISION_FLAGS, cpu_flags, resolve_target
from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.ir.interpret import interpret
from rlx.options import Precision
from rlx.passes import optimize

TARGETS: dict[Precision, str] = {"bf16": "amx_bf16", "int8-dynamic": "amx_int8"}

pytestmark = pytest.mark.skipif(
    not all(PRECISION_FLAGS[precision][target] <= cpu_flags() for precision, target in TARGETS.items()),
    reason="this processor has no AMX",
)

Given = tuple[Graph, dict[str, np.ndarray]]


def product(rng: np.random.Generator, m: int, n: int, k: int) -> Given:
    """relu(x w + bias) for x [m, k]."""
    b = GraphBuilder("product")
    x = b.input("x", TensorType((m, k), f32))
    w = b.parameter("w", rng.standard_normal((k, n)).astype(np.float32))
    bias = b.parameter("bias", rng.standard_normal(n).astype(np.float32))
    y = b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build([b.emit("relu", b.binary("add", y, bias))])
    return graph, {"x": rng.standard_normal((m, k)).astype(np.float32)}


def gated_layer(rng: np.random.Generator) -> Given:
    """(silu(x gate) * (x up)) down, whose first two products are one kernel."""
    b = GraphBuilder("gated")
    x = b.input("x", TensorType((43, 128), f32))
    gate, up = (b.parameter(n, (rng.standard_normal((128, 192)) * 0.1).astype(np.float32)) for n in ("gate", "up"))
    down = b.parameter("down", (rng.standard_normal((192, 70)) * 0.1).astype(np.float32))
    wide = [b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,)) for w in (gate, up)]
    inner = b.emit("mul", b.emit("silu", wide[0]), wide[1])
    graph = b.build([b.emit("dot_general", inner, down, lhs_contract=(1,), rhs_contract=(0,))])
    return graph, {"x": rng.standard_normal((43, 128)).astype(np.float32)}


def convolutions(rng: np.random.Generator) -> Given:
    """Two convolutions of one position, one of them strided, around one of 3 x 3."""
    b = GraphBuilder("convolutions")
    x = b.input("x", TensorType((2, 64, 9, 11), f32))
    dilation = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}

    def weights(*shape: int):
        return b.parameter(f"w{shape}", (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    none, one = ((0, 0), (0, 0)), ((1, 1), (1, 1))
    y = b.emit("relu", b.emit("conv_general", x, weights(96, 64, 1, 1), strides=(1, 1), padding=none, **dilation))
    y = b.emit("tanh", b.emit("conv_general", y, weights(64, 96, 3, 3), strides=(1, 1), padding=one, **dilation))
    y = b.emit("conv_general", y, weights(33, 64, 1, 1), strides=(2, 2), padding=none, **dilation)
    return b.build([y]), {"x": rng.standard_normal((2, 64, 9, 11)).astype(np.float32)}


def results(given: Given, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """What the policy means, and the program's answer, which is the same bits on 1, 2 and 3 threads."""
    graph, inputs = given
    (meant,) = interpret(optimize(graph, precision=precision), inputs).values()
    answers = []
    for threads in (1, 2, 3):
        options = Options(
            precision=precision, target=TARGETS[precision], threads=threads, cache=False, debug_memory=True
        )
        with Session("cpu", options).compile(graph) as program:
            assert program.executable.report()["target"] == TARGETS[precision]
            (name,) = program.outputs
            answers.append(program.run(inputs, out={name: np.full(meant.shape, np.nan, np.float32)})[name])
    for other in answers[1:]:
        np.testing.assert_array_equal(other.view(np.uint32), answers[0].view(np.uint32))
    return meant, answers[0]


#: Rows that fill tiles of 32 and 16, and that do not; depths of whole steps, and two that stay in lanes.
PRODUCTS = pytest.mark.parametrize(
    ("m", "n", "k"), [(64, 96, 128), (75, 33, 192), (16, 40, 64), (129, 31, 256), (50, 64, 70), (8, 64, 64)]
)


@PRODUCTS
def test_products_of_bf16_are_what_the_policy_says(m: int, n: int, k: int) -> None:
    meant, got = results(product(np.random.default_rng([m, n, k]), m, n, k), "bf16")
    np.testing.assert_allclose(got, meant, rtol=0, atol=1e-5 * np.abs(meant).max())


@PRODUCTS
def test_products_in_8_bits_are_the_interpreter_s_bits(m: int, n: int, k: int) -> None:
    meant, got = results(product(np.random.default_rng([m, n, k]), m, n, k), "int8-dynamic")
    np.testing.assert_array_equal(got, meant)


@pytest.mark.parametrize("make", [gated_layer, convolutions])
def test_layers_in_bf16_are_what_the_policy_says(make) -> None:
    meant, got = results(make(np.random.default_rng(41)), "bf16")
    # f32 sums in another order may tip an element of an inner layer to the next bf16
    np.testing.assert_allclose(got, meant, rtol=0, atol=2.0**-8 * np.abs(meant).max())


def test_a_gated_layer_in_8_bits_is_what_the_policy_says() -> None:
    meant, got = results(gated_layer(np.random.default_rng(41)), "int8-dynamic")
    # exp's own error may tip an element of the inner layer to the next step
    np.testing.assert_allclose(got, meant, rtol=0, atol=2.0**-7 * np.abs(meant).max())


def test_native_means_matrix_registers_under_bf16() -> None:
    assert resolve_target("native", "bf16") == "amx_bf16"
