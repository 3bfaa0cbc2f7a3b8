"""Every instruction set that this machine has, forced in turn, on a few of everything: op samples and random graphs.

NEON is run by an emulator where `make aarch64` was run, for all ops in the slow tests. `make test-isa` runs the tests
of ops and models in full under each of the others (docs/testing.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlx.backends.cpu.host import resolve_target, supported_targets
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.kernel import Memory, Store, Var
from rlx.codegen.llvm.module import emit_kernel, new_module
from rlx.codegen.llvm.object import assembly
from rlx.codegen.lower.templates import Epilogue, MatmulSpec
from rlx.codegen.target import PRESETS
from rlx.frontends.load import load
from rlx.ir import Graph, GraphBuilder, TensorType, all_ops, interpret, type_of
from rlx.ir.dtypes import f32
from rlx.ir.op import Sample
from rlx.options import TARGETS, OptionError, Options, Precision
from rlx.passes import optimize
from rlx.runtime import Session
from rlx.testing import aarch64
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


HAS_EMULATOR = pytest.mark.skipif(not aarch64.available(), reason="no emulated machine: `make aarch64` brings it")
FORCED = [
    *(t for t in TARGETS if t != supported_targets()[0] and runs_here(t)),
    *([] if runs_here("neon") else [pytest.param("neon", marks=HAS_EMULATOR)]),
]
#: Random graphs of each family.
GRAPHS = 4


@pytest.fixture(scope="module")
def emulator() -> Iterator[aarch64.Emulator]:
    machine = aarch64.Emulator()
    yield machine
    machine.close()


def compute(
    target: str, graph: Graph, inputs: dict[str, np.ndarray], emulator: aarch64.Emulator
) -> dict[str, np.ndarray]:
    """The graph's outputs, by a program for the target whose outputs were poisoned first."""
    options = Options(target="native" if target == "neon" else target, cache=False, threads=2, debug_memory=True)
    if target == "neon" and not runs_here(target):
        return emulator.compute(graph, inputs, options)
    with Session("cpu", options).compile(graph) as program:
        assert program.executable.report()["target"] == target
        poisoned = {
            n: np.frombuffer(b"\xfb" * t.nbytes, t.dtype.numpy).reshape(t.sizes).copy()
            for n, t in program.outputs.items()
        }
        return program.run(inputs, out=poisoned)


def samples_of(name: str, target: str) -> list[tuple[str, Sample, Arrays]]:
    """(op, sample, expected) of each of the op's samples, but for powers of complex numbers on NEON: the C library's
    differ from those of NumPy here by more than each one's own error, as rounding before exp is multiplied by it.
    """
    every = [(name, sample, expected) for _, sample, expected in iter_samples(name)]
    if target == "neon" and name == "pow":
        return [case for case in every if case[1].arrays[0].dtype.kind != "c"]
    return every


def few_samples(name: str, target: str) -> list[tuple[str, Sample, Arrays]]:
    """The op's first and last sample and one between."""
    every = samples_of(name, target)
    return [every[i] for i in sorted({0, len(every) // 2, len(every) - 1})]


def check_samples(target: str, cases: list[tuple[str, Sample, Arrays]], emulator: aarch64.Emulator) -> None:
    b = GraphBuilder("samples")
    outputs, inputs = {}, {}
    for case, (name, sample, _) in enumerate(cases):
        values = [b.input(f"c{case}.x{i}", type_of(array)) for i, array in enumerate(sample.arrays)]
        inputs |= {v.name: array for v, array in zip(values, sample.arrays, strict=True)}
        results = b.emit_many(name, *values, regions=sample.regions, **sample.attrs)
        outputs |= {f"c{case}.y{i}": value for i, value in enumerate(results)}
    got = compute(target, b.build(outputs), inputs, emulator)
    for case, (name, sample, expected) in enumerate(cases):
        assert_close(name, sample, [got[f"c{case}.y{i}"] for i in range(len(expected))], expected)


@pytest.mark.parametrize("target", FORCED)
def test_ops_of_every_kind_match_their_records(target: str, emulator: aarch64.Emulator) -> None:
    check_samples(target, [case for name in OPS for case in few_samples(name, target)], emulator)


@pytest.mark.slow
@HAS_EMULATOR
@pytest.mark.parametrize("name", [n for n, op in all_ops().items() if op.samples and n != "custom_call"])
def test_every_op_matches_its_record_on_neon(name: str, emulator: aarch64.Emulator) -> None:
    check_samples("neon", samples_of(name, "neon"), emulator)


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
def test_a_network_with_packed_weights_agrees_with_the_interpreter(target: str, emulator: aarch64.Emulator) -> None:
    rng = np.random.default_rng(17)
    graph = small_network(rng)
    inputs = {"image": rng.standard_normal((2, 3, 17, 19)).astype(np.float32)}
    (expected,) = interpret(graph, inputs).values()
    (got,) = compute(target, graph, inputs, emulator).values()
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("target", FORCED)
def test_random_graphs_agree_with_the_interpreter(target: str, emulator: aarch64.Emulator) -> None:
    rng = np.random.default_rng(23)

    def choose(n: int) -> int:
        return int(rng.integers(n))

    exact = {f"e{i}": exact_graph(choose) for i in range(GRAPHS)}
    smooth = {f"s{i}": smooth_graph(choose) for i in range(GRAPHS)}
    inputs = {seed: exact_inputs(graph, rng) for seed, graph in exact.items()}
    inputs |= {seed: smooth_inputs(graph, rng) for seed, graph in smooth.items()}
    graphs = exact | smooth
    together = {f"{seed}.{name}": array for seed, given in inputs.items() for name, array in given.items()}
    got = compute(target, side_by_side(graphs), together, emulator)
    for seed, graph in graphs.items():
        for output, array in interpret(graph, inputs[seed]).items():
            tolerance = 0.0 if seed in exact else 2e-5
            np.testing.assert_allclose(got[f"{seed}.{output}"], array, rtol=tolerance, atol=tolerance)


@HAS_EMULATOR
@pytest.mark.parametrize(("precision", "error"), [("bf16", 1e-5), ("int8-dynamic", 0.0)])
def test_a_precision_policy_means_the_same_on_neon(
    precision: Precision, error: float, emulator: aarch64.Emulator
) -> None:
    """Products of bf16 are summed in f32, in an order of the target's own; sums of 8-bit integers are exact."""
    rng = np.random.default_rng(31)
    b = GraphBuilder("product")
    x = b.input("x", TensorType((21, 43), f32))
    w = b.parameter("w", rng.standard_normal((43, 19)).astype(np.float32))
    graph = b.build([b.emit("relu", b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,)))])
    inputs = {"x": rng.standard_normal((21, 43)).astype(np.float32)}
    (meant,) = interpret(optimize(graph, precision=precision), inputs).values()
    (exact,) = interpret(graph, inputs).values()
    (got,) = emulator.compute(graph, inputs, Options(precision=precision, cache=False, threads=2)).values()
    np.testing.assert_allclose(got, meant, rtol=0, atol=error * np.abs(exact).max())
    assert np.abs(got - exact).max() > 1e-3, "nothing was rounded"


@pytest.mark.slow
@HAS_EMULATOR
def test_a_whole_transformer_gives_on_neon_what_the_interpreter_gives(minilm: Path, emulator: aarch64.Emulator) -> None:
    graph = load(minilm).specialize({"input_ids": (2, 19)})
    rng = np.random.default_rng(29)
    inputs = {name: np.ones((2, 19), t.dtype.numpy) for name, t in graph.input_types.items()}
    inputs["input_ids"] = rng.integers(1000, 20000, (2, 19))
    inputs["attention_mask"][1, 11:] = 0
    inputs["token_type_ids"][:] = 0
    got = compute("neon", graph, inputs, emulator)
    for name, expected in interpret(graph, inputs).items():
        np.testing.assert_allclose(got[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def test_the_instruction_set_of_another_architecture_is_refused() -> None:
    other = "portable" if runs_here("neon") else "neon"
    with pytest.raises(OptionError, match=f"(?s){other}.*this machine runs: native"):
        resolve_target(Options(target=other).target)


@pytest.mark.slow
@HAS_EMULATOR
def test_code_of_another_architecture_ends_the_emulated_process_in_words_and_the_next_run_has_a_new_one(
    emulator: aarch64.Emulator,
) -> None:
    b = GraphBuilder("g")
    graph = b.build([b.emit("neg", b.input("x", TensorType((3,), f32)))])
    inputs, options = {"x": np.ones(3, np.float32)}, Options(cache=False, threads=1)
    artifact = aarch64.compile_for_neon(graph, options)
    foreign = replace(artifact, manifest={**artifact.manifest, "target": "avx2"})
    with pytest.raises(aarch64.EmulationError, match="'avx2' cannot run on this machine"):
        emulator.run(foreign, inputs, {}, options)
    (got,) = emulator.run(artifact, inputs, {}, options).values()
    np.testing.assert_array_equal(got, [-1, -1, -1])


def test_products_on_neon_multiply_by_elements_and_keep_their_sums_in_registers() -> None:
    acc, i, j = Var("acc", f32), Var("i"), Var("j")
    a, b, out = (Memory(n, f32, (384, 1), writable=n == "out") for n in ("a", "b", "out"))
    spec = MatmulSpec(f32, f32, f32, (), (128,), (384,), (384,), a, b, b_constant=True)
    kernels = CpuTemplates(PRESETS["neon"]).matmul(spec, Epilogue(acc, (i, j), (Store(out, (i, j), acc),), (out,)))
    assert kernels is not None
    module = new_module(PRESETS["neon"])
    emit_kernel(module, "product", kernels.compute, PRESETS["neon"])
    lines = [line.split() for line in assembly(module, PRESETS["neon"]).splitlines() if line.strip()]
    loops: list[list[str]] = [[]]
    for opcode, *operands in lines:
        if opcode.startswith((".L", "b")):
            loops.append([])
        loops[-1].append(" ".join([opcode, *operands]))
    inner = max(loops, key=lambda loop: sum("fmla" in line for line in loop))
    products = [line for line in inner if line.startswith("fmla")]
    assert len(products) >= 16
    assert all(line.endswith("]") for line in products), "an operand is spread over lanes before it is multiplied"
    assert not [line for line in inner if line.startswith("st")], "sums go through memory"
    assert sum(line.startswith("ld") for line in inner) <= len(products) / 2
