"""Every instruction set that this machine has, forced in turn, on a few of everything: op samples and random graphs.

`make test-isa` runs the tests of ops and models in full under each (docs/testing.md).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rlx.backends.cpu.host import resolve_target, supported_targets
from rlx.ir import Graph, GraphBuilder, TensorType, interpret, type_of
from rlx.ir.dtypes import f32
from rlx.ir.op import Sample
from rlx.options import TARGETS, OptionError, Options
from rlx.runtime import Session
from rlx.testing.op_samples import Arrays, assert_close, iter_samples
from rlx.testing.random_graphs import exact_graph, exact_inputs, side_by_side, smooth_graph, smooth_inputs

#: An op for each way of lowering: products, convolution, attention, rows, reductions along any axis, elementary
#: functions, narrow floats, integers, gathers, data movement, control flow.
OPS = (
    "dot_general", "conv_general", "attention", "layer_norm", "softmax", "reduce_sum", "argmax", "cumsum", "gelu",
    "pow", "sin", "convert", "clamp", "rem", "gather", "scatter", "transpose", "sort", "while_loop",
)  # fmt: skip


def runs_here(target: str) -> bool:
    try:
        return resolve_target(target) == target
    except OptionError:
        return False


FORCED = [t for t in TARGETS if t != supported_targets()[0] and runs_here(t)]
#: Random graphs of each family.
GRAPHS = 4


def few_samples(name: str) -> Iterator[tuple[str, Sample, Arrays]]:
    """(op, sample, expected) of the op's first and last sample and one between."""
    every = [(sample, expected) for _, sample, expected in iter_samples(name)]
    for i in sorted({0, len(every) // 2, len(every) - 1}):
        yield name, *every[i]


@pytest.mark.parametrize("target", FORCED)
def test_ops_of_every_kind_match_their_records(target: str) -> None:
    b = GraphBuilder("samples")
    cases = [case for name in OPS for case in few_samples(name)]
    outputs, inputs = {}, {}
    for case, (name, sample, _) in enumerate(cases):
        values = [b.input(f"c{case}.x{i}", type_of(array)) for i, array in enumerate(sample.arrays)]
        inputs |= {v.name: array for v, array in zip(values, sample.arrays, strict=True)}
        results = b.emit_many(name, *values, regions=sample.regions, **sample.attrs)
        outputs |= {f"c{case}.y{i}": value for i, value in enumerate(results)}
    with Session("cpu", Options(target=target, cache=False, debug_memory=True)).compile(b.build(outputs)) as program:
        assert program.executable.report()["target"] == target
        poisoned = {
            n: np.frombuffer(b"\xfb" * t.nbytes, t.dtype.numpy).reshape(t.sizes).copy()
            for n, t in program.outputs.items()
        }
        got = program.run(inputs, out=poisoned)
    for case, (name, sample, expected) in enumerate(cases):
        assert_close(name, sample, [got[f"c{case}.y{i}"] for i in range(len(expected))], expected)


def small_network(rng: np.random.Generator) -> Graph:
    """Two convolutions and two products whose weights are packed when they are bound, with bias, residual, activation
    and norm; sizes that fill no tile evenly.
    """

    def weights(name: str, *shape: int):
        return b.parameter(name, (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    b = GraphBuilder("network")
    image = b.input("image", TensorType((2, 3, 17, 19), f32))
    same = {"padding": ((1, 1), (1, 1)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
    first = b.emit("relu", b.emit("conv_general", image, weights("w0", 21, 3, 3, 3), strides=(2, 2), **same))
    second = b.emit("add", b.emit("conv_general", first, weights("w1", 21, 21, 3, 3), strides=(1, 1), **same), first)
    rows = b.emit("transpose", b.emit("reshape", second, shape=(42, 90)), permutation=(1, 0))
    wide = b.emit("gelu", b.emit("dot_general", rows, weights("w2", 70, 42), lhs_contract=(1,), rhs_contract=(1,)))
    back = b.emit("dot_general", wide, weights("w3", 42, 70), lhs_contract=(1,), rhs_contract=(1,))
    return b.build({"y": b.emit("softmax", b.emit("add", back, rows), axis=1)})


@pytest.mark.parametrize("target", FORCED)
def test_a_network_with_packed_weights_agrees_with_the_interpreter(target: str) -> None:
    rng = np.random.default_rng(17)
    graph = small_network(rng)
    inputs = {"image": rng.standard_normal((2, 3, 17, 19)).astype(np.float32)}
    (expected,) = interpret(graph, inputs).values()
    (got,) = Session("cpu", Options(target=target, cache=False, threads=2)).compile(graph).run(inputs).values()
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("target", FORCED)
def test_random_graphs_agree_with_the_interpreter(target: str) -> None:
    rng = np.random.default_rng(23)

    def choose(n: int) -> int:
        return int(rng.integers(n))

    exact = {f"e{i}": exact_graph(choose) for i in range(GRAPHS)}
    smooth = {f"s{i}": smooth_graph(choose) for i in range(GRAPHS)}
    inputs = {seed: exact_inputs(graph, rng) for seed, graph in exact.items()}
    inputs |= {seed: smooth_inputs(graph, rng) for seed, graph in smooth.items()}
    graphs = exact | smooth
    with Session("cpu", Options(target=target, cache=False)).compile(side_by_side(graphs)) as program:
        got = program.run({f"{seed}.{name}": array for seed, given in inputs.items() for name, array in given.items()})
    for seed, graph in graphs.items():
        for output, array in interpret(graph, inputs[seed]).items():
            tolerance = 0.0 if seed in exact else 2e-5
            np.testing.assert_allclose(got[f"{seed}.{output}"], array, rtol=tolerance, atol=tolerance)
