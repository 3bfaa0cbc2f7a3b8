"""Whole programs in AMX's matrix registers, on processors that have them; `test_gemm_amx` needs none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rlx import Options, Session
from rlx.backends.cpu.host import PRECISION_FLAGS, cpu_flags
from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.ir.interpret import interpret
from rlx.passes import optimize

pytestmark = pytest.mark.skipif(
    not PRECISION_FLAGS["bf16"]["amx_bf16"] <= cpu_flags(), reason="this processor has no AMX"
)
#: Rows that fill tiles of 32 and 16, and that do not; depths that are whole steps, and one that stays in lanes.
PRODUCTS = [(64, 96, 128), (75, 33, 96), (16, 40, 64), (129, 31, 256), (50, 64, 70)]


def product(rng: np.random.Generator, m: int, n: int, k: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """relu(x w + bias) for x [m, k]."""
    b = GraphBuilder("product")
    x = b.input("x", TensorType((m, k), f32))
    w = b.parameter("w", rng.standard_normal((k, n)).astype(np.float32))
    bias = b.parameter("bias", rng.standard_normal(n).astype(np.float32))
    y = b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build([b.emit("relu", b.binary("add", y, bias))])
    return graph, {"x": rng.standard_normal((m, k)).astype(np.float32)}


def convolution(rng: np.random.Generator) -> tuple[Graph, dict[str, np.ndarray]]:
    """Two convolutions of one position, one of them strided, around one of 3 x 3."""
    b = GraphBuilder("convolution")
    x = b.input("x", TensorType((2, 64, 9, 11), f32))
    dilation = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}

    def weights(*shape: int):
        return b.parameter(f"w{shape}", (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    none, one = ((0, 0), (0, 0)), ((1, 1), (1, 1))
    y = b.emit("relu", b.emit("conv_general", x, weights(96, 64, 1, 1), strides=(1, 1), padding=none, **dilation))
    y = b.emit("tanh", b.emit("conv_general", y, weights(64, 96, 3, 3), strides=(1, 1), padding=one, **dilation))
    y = b.emit("conv_general", y, weights(33, 64, 1, 1), strides=(2, 2), padding=none, **dilation)
    return b.build([y]), {"x": rng.standard_normal((2, 64, 9, 11)).astype(np.float32)}


def cases() -> Iterator[tuple[Graph, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(41)
    for m, n, k in PRODUCTS:
        yield product(rng, m, n, k)
    yield convolution(rng)


@pytest.mark.parametrize("case", range(len(PRODUCTS) + 1))
def test_a_program_on_the_processor_s_own_registers_means_what_the_policy_says(case: int) -> None:
    graph, inputs = list(cases())[case]
    (meant,) = interpret(optimize(graph, precision="bf16"), inputs).values()
    results = []
    for threads in (1, 2, 3):
        options = Options(precision="bf16", target="amx_bf16", threads=threads, cache=False, debug_memory=True)
        with Session("cpu", options).compile(graph) as program:
            assert program.executable.report()["target"] == "amx_bf16"
            (name,) = program.outputs
            poisoned = np.full(meant.shape, np.nan, np.float32)
            results += [program.run(inputs, out={name: poisoned})[name]]
    # the order of f32 sums is another, and what follows a convolution may be tipped to the next bf16 by it
    np.testing.assert_allclose(results[0], meant, rtol=0, atol=2.0**-8 * np.abs(meant).max())
    for other in results[1:]:
        np.testing.assert_array_equal(other.view(np.uint32), results[0].view(np.uint32))
