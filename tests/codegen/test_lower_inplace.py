"""Results in the memory of operands: where nothing is lost, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from reference_templates import ReferenceTemplates

from rlx.backends.cpu.conv import prefers_channels_last
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.kernel import TemplateKernel
from rlx.codegen.lower import lower, lowering
from rlx.codegen.lower.inplace import share_memory
from rlx.codegen.program import Launch, LoweredProgram
from rlx.codegen.target import PRESETS
from rlx.ir import Graph, GraphBuilder, TensorType, Value, interpret
from rlx.ir.dtypes import f32
from rlx.options import Options
from rlx.passes import optimize
from rlx.passes.channels_last import channels_last
from rlx.runtime import Session
from rlx.testing.random_graphs import side_by_side, smooth_graph, smooth_inputs


def _sorted(b: GraphBuilder, x: Value) -> Value:
    """The elements of x in order, along its rows: in memory before and after, as nothing is fused with sorting."""
    return b.emit("sort", x, dimension=0)


def _graph(shape: tuple[int, ...], body: Callable[[GraphBuilder, Value], Value]) -> Graph:
    """y = sorted body(sorted x)."""
    b = GraphBuilder("inplace")
    x = b.input("x", TensorType(shape, f32))
    return b.build({"y": _sorted(b, body(b, _sorted(b, x)))})


def _launches(graph: Graph) -> list[Launch]:
    optimized = channels_last(optimize(graph), prefers_channels_last)
    program: LoweredProgram = lower(optimized, CpuTemplates(PRESETS["avx512"]))
    return [step for step in program.steps if isinstance(step, Launch)]


def _overwriting(graph: Graph) -> list[Launch]:
    """Launches that write memory which they read."""
    return [step for step in _launches(graph) if set(step.reads) & set(step.writes)]


def _check_run(graph: Graph) -> None:
    """The CPU, in debug mode, against the interpreter."""
    inputs = smooth_inputs(graph, np.random.default_rng(2))
    before = {name: array.copy() for name, array in inputs.items()}
    with Session("cpu", Options(cache=False, debug_memory=True, threads=2)).compile(graph) as program:
        for _ in range(2):
            got = program.run(inputs)
            for name, want in interpret(graph, inputs).items():
                np.testing.assert_allclose(got[name], want, rtol=0, atol=2e-5 * max(np.abs(want).max(), 1))
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("shape", [(1,), (7,), (300,), (5, 33), (64, 128), (3, 40, 17)])
def test_a_pointwise_kernel_overwrites_an_operand_that_dies(shape: tuple[int, ...]) -> None:
    graph = _graph(shape, lambda b, t: b.binary("mul", b.emit("tanh", t), t))
    (step,) = _overwriting(graph)
    assert len(step.operands) == len(step.kernel.args) == 1
    _check_run(graph)


@pytest.mark.parametrize(
    ("body", "overwriting"),
    [
        (lambda b, t: b.binary("add", _sorted(b, b.emit("tanh", t)), t), ["add"]),  # tanh keeps t for the sum
        (lambda b, t: b.binary("mul", t, b.emit("rev", t, dimensions=(1,))), []),
        (lambda b, t: b.emit("tanh", b.emit("transpose", t, permutation=(1, 0))), []),
        (lambda b, t: b.emit("tanh", b.emit("slice", t, starts=(0, 0), limits=(8, 4), strides=(1, 1))), []),
    ],
    ids=["read later", "read elsewhere", "turned", "smaller"],
)
def test_what_is_read_later_or_at_another_place_is_kept(
    body: Callable[[GraphBuilder, Value], Value], overwriting: list[str]
) -> None:
    graph = _graph((8, 8), body)
    assert [step.kernel.label for step in _overwriting(graph)] == overwriting
    _check_run(graph)


def test_inputs_and_parameters_are_never_overwritten() -> None:
    b = GraphBuilder("given")
    x = b.input("x", TensorType((64, 64), f32))
    w = b.parameter("w", np.ones((64, 64), np.float32))
    graph = b.build({"y": _sorted(b, b.emit("tanh", x)), "z": _sorted(b, b.binary("mul", w, b.emit("exp", x)))})
    assert _overwriting(graph) == []
    _check_run(graph)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 16, 33), (7, 5, 16), (64, 192, 160), (130, 33, 67)])
def test_a_product_overwrites_what_its_epilogue_adds(rows: int, depth: int, columns: int) -> None:
    weight = np.random.default_rng(1).normal(size=(depth, columns)).astype(np.float32)
    b = GraphBuilder("residual")
    x, r = b.input("x", TensorType((rows, depth), f32)), b.input("r", TensorType((rows, columns), f32))
    product = b.emit("dot_general", x, b.parameter("w", weight), lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build({"y": _sorted(b, b.binary("add", product, _sorted(b, r)))})
    (step,) = _overwriting(graph)
    assert step.kernel.label == "matmul"
    assert any(memory.aliases for memory in step.kernel.args)
    _check_run(graph)


@pytest.mark.parametrize(
    ("kind", "channels", "features", "size"),
    [("pixels", 32, 48, (14, 14)), ("pixels", 16, 33, (7, 9)), ("pixels", 64, 64, (5, 3)), ("conv", 3, 5, (11, 6))],
)
def test_a_convolution_overwrites_what_its_epilogue_adds(
    kind: str, channels: int, features: int, size: tuple[int, int]
) -> None:
    weight = np.random.default_rng(1).normal(size=(features, channels, 3, 3)).astype(np.float32) / channels
    back = np.ascontiguousarray(weight.transpose(1, 0, 2, 3))
    b = GraphBuilder("residual")

    def convolved(x: Value, name: str, w: np.ndarray) -> Value:
        return b.emit(
            "conv_general", x, b.parameter(name, w), padding=((1, 1), (1, 1)), strides=(1, 1), lhs_dilation=(1, 1),
            rhs_dilation=(1, 1), groups=1,
        )  # fmt: skip

    first = convolved(b.input("x", TensorType((2, channels, *size), f32)), "first", weight)
    second = convolved(convolved(first, "inner", back), "second", weight)
    graph = b.build({"y": convolved(b.binary("add", second, first), "last", back)})
    (step,) = _overwriting(graph)
    assert isinstance(step.kernel, TemplateKernel)
    assert step.kernel.identity.startswith(kind)
    _check_run(graph)


def test_a_product_of_what_its_epilogue_adds_keeps_it() -> None:
    b = GraphBuilder("square")
    t = _sorted(b, b.input("x", TensorType((48, 48), f32)))
    product = b.emit("dot_general", t, t, lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build({"y": _sorted(b, b.binary("add", product, t))})
    assert _overwriting(graph) == []
    _check_run(graph)


def test_templates_that_do_not_offer_it_keep_their_operands() -> None:
    b = GraphBuilder("residual")
    x, r = (b.input(name, TensorType((8, 8), f32)) for name in "xr")
    product = b.emit("dot_general", x, x, lhs_contract=(1,), rhs_contract=(0,))
    program = lower(b.build({"y": _sorted(b, b.binary("add", product, _sorted(b, r)))}), ReferenceTemplates())
    assert not any(set(s.reads) & set(s.writes) for s in program.steps if isinstance(s, Launch))


def test_random_graphs_give_the_same_bits_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(seed: int) -> Callable[[int], int]:
        rng = np.random.default_rng(seed)
        return lambda n: int(rng.integers(n))

    graphs = {str(seed): smooth_graph(draw(seed)) for seed in range(700, 730)}
    inputs = {
        f"{seed}.{name}": array
        for seed, graph in graphs.items()
        for name, array in smooth_inputs(graph, np.random.default_rng(int(seed))).items()
    }
    together = side_by_side(graphs)
    assert _overwriting(together), "the graphs decide nothing"
    answers = []
    for share in (share_memory, lambda steps, donated: (tuple(steps), {})):
        monkeypatch.setattr(lowering, "share_memory", share)
        with Session("cpu", Options(cache=False, debug_memory=True)).compile(together) as program:
            answers.append(program.run(inputs))
    for name, array in answers[0].items():
        np.testing.assert_array_equal(array, answers[1][name], err_msg=name)
