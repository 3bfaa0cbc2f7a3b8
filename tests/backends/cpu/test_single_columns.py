"""Products whose last output dimension has one element: nothing is written beside it."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir.builder import GraphBuilder
from rlx.ir.dtypes import f32
from rlx.ir.interpret import interpret
from rlx.ir.types import TensorType
from rlx.runtime import Session


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "stride", "low"),
    [
        ((1, 64, 2), (64, 64, 3), 2, 1),
        ((1, 64, 1), (128, 64, 3), 1, 1),
        ((2, 32, 40, 1), (24, 32, 5, 1), 1, 0),
        ((2, 32, 40, 1, 1), (24, 32, 5, 1, 1), 1, 0),
    ],
)
def test_a_convolution_to_one_column_agrees_with_the_interpreter_on_every_run(x_shape, w_shape, stride, low):
    rng = np.random.default_rng(8)
    rank = len(x_shape) - 2
    b = GraphBuilder("conv")
    x = b.input("x", TensorType(x_shape, f32))
    w = b.parameter("w", rng.normal(size=w_shape).astype(np.float32))
    y = b.emit(
        "conv_general",
        x,
        w,
        strides=(stride,) * rank,
        padding=((low, low),) * rank,
        lhs_dilation=(1,) * rank,
        rhs_dilation=(1,) * rank,
        groups=1,
    )
    graph = b.build({"y": y})
    inputs = {"x": rng.normal(size=x_shape).astype(np.float32)}
    expected = interpret(graph, inputs)["y"]
    program = Session("cpu").compile(graph)
    for _ in range(3):
        np.testing.assert_allclose(program.run(inputs)["y"], expected, atol=1e-5 * np.abs(expected).max())
