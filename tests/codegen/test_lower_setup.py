"""Memory of setup: what no run reads is gone when setup is."""

from __future__ import annotations

import numpy as np
from kernel_interpreter import Program
from reference_templates import ReferenceTemplates

from rlx.codegen.lower import lower
from rlx.codegen.program import Launch
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import bf16, f32
from rlx.ir.graph import Graph
from rlx.ir.interpret import interpret


def rounded_product() -> tuple[Graph, np.ndarray]:
    w = np.random.default_rng(3).standard_normal((8, 6)).astype(np.float32)
    b = GraphBuilder()
    x = b.emit("convert", b.input("x", TensorType((4, 8), f32)), dtype=bf16)
    weights = b.emit("convert", b.parameter("w", w), dtype=bf16)
    y = b.emit("dot_general", x, weights, lhs_contract=(1,), rhs_contract=(0,), preferred_dtype=f32)
    return b.build([y]), w


def test_weights_in_another_dtype_live_only_until_they_are_packed() -> None:
    graph, w = rounded_product()
    program = lower(graph, ReferenceTemplates())
    buffers = [o.buffer for step in program.setup if isinstance(step, Launch) for o in step.operands]
    kinds = {b.kind: b.nbytes for b in buffers}
    assert kinds == {"parameter": w.nbytes, "temporary": w.nbytes // 2, "persistent": w.nbytes // 2}
    x = np.random.default_rng(4).standard_normal((4, 8)).astype(np.float32)
    (expected,) = interpret(graph, {"x": x}).values()
    machine = Program(program, [w])
    for _ in range(2):
        np.testing.assert_allclose(machine.run(x)[0], expected, rtol=1e-6)


def test_what_runs_read_stays_persistent() -> None:
    b = GraphBuilder()
    w = b.emit("exp", b.parameter("w", np.ones((4,), np.float32)))
    program = lower(b.build([b.emit("add", b.input("x", TensorType((4,), f32)), w)]))
    written = [buffer for step in program.setup if isinstance(step, Launch) for buffer in step.writes]
    assert [buffer.kind for buffer in written] == ["persistent"]
