"""Options(precision=...) on the CPU: against the policies' meaning, their documented error, and their limits."""

from __future__ import annotations

import numpy as np
import pytest

from rlx import Options, Session
from rlx.backends.cpu.backend import CpuBackend
from rlx.backends.cpu.host import PRECISION_FLAGS, cpu_flags, request_tiles, resolve_target, supported_targets
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import bf16, f32
from rlx.ir.graph import Graph, Value
from rlx.ir.interpret import interpret
from rlx.options import OptionError
from rlx.passes import optimize

HAS_PAIRS = PRECISION_FLAGS["bf16"]["avx512_bf16"] <= cpu_flags()
TARGETS = [*(["avx512_bf16"] if HAS_PAIRS else []), *supported_targets()]


def gated_layer(rng: np.random.Generator) -> Graph:
    """x [13, 35] -> (silu(x gate) * (x up)) down + x, with odd sizes."""
    b = GraphBuilder()
    x = b.input("x", TensorType((13, 35), f32))
    gate, up = (b.parameter(n, (rng.standard_normal((35, 67)) * 0.2).astype(np.float32)) for n in ("gate", "up"))
    down = b.parameter("down", (rng.standard_normal((67, 35)) * 0.2).astype(np.float32))
    wide = [b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,)) for w in (gate, up)]
    inner = b.emit("mul", b.emit("mul", wide[0], b.emit("logistic", wide[0])), wide[1])
    return b.build([b.emit("add", b.emit("dot_general", inner, down, lhs_contract=(1,), rhs_contract=(0,)), x)])


@pytest.mark.parametrize("target", TARGETS)
def test_a_program_computes_what_the_policy_says_on_every_target(target: str) -> None:
    rng = np.random.default_rng(5)
    graph = gated_layer(rng)
    x = rng.standard_normal((13, 35)).astype(np.float32)
    (meant,) = interpret(optimize(graph, precision="bf16"), {"x": x}).values()
    (exact,) = interpret(graph, {"x": x}).values()
    options = Options(precision="bf16", target=target, cache=False, threads=2)
    (got,) = Session("cpu", options).compile(graph)(x=x).values()
    scale = np.abs(exact).max()
    # f32 sums in another order may tip an element of the inner layer to the next bf16: 2^-8 of it, times its weight
    np.testing.assert_allclose(got, meant, rtol=0, atol=2.0**-8 * scale)
    np.testing.assert_allclose(got, exact, rtol=0, atol=2.0**-5 * scale)
    assert np.abs(got - exact).max() > 1e-5 * scale, "nothing was rounded"


def convolved(rng: np.random.Generator) -> Graph:
    """x [2, 9, 13, 11] through convolutions of odd sizes: strided and dilated, of one position, grouped, a residual."""
    b = GraphBuilder()
    x = b.input("x", TensorType((2, 9, 13, 11), f32))

    def conv(x: Value, w: tuple[int, ...], strides=(1, 1), padding=((1, 1), (1, 1)), rhs=(1, 1), groups: int = 1):
        weights = b.parameter(f"w{w}", (rng.standard_normal(w) * (w[1] * w[2] * w[3]) ** -0.5).astype(np.float32))
        attrs = {"strides": strides, "padding": padding, "lhs_dilation": (1, 1), "rhs_dilation": rhs}
        return b.emit("conv_general", x, weights, groups=groups, **attrs)

    y = b.emit("tanh", conv(x, (33, 9, 3, 3)))
    y = b.emit("tanh", conv(y, (48, 33, 3, 3), strides=(2, 1), rhs=(1, 2)))
    z = b.emit("relu", b.emit("add", conv(y, (48, 48, 1, 1), padding=((0, 0), (0, 0))), y))
    wide = conv(b.emit("tanh", conv(z, (48, 24, 3, 3), groups=2)), (40, 48, 1, 1), (2, 2), ((0, 0), (0, 0)))
    return b.build([wide, z])


@pytest.mark.parametrize("target", TARGETS)
def test_convolutions_compute_what_the_policy_says_on_every_target(target: str) -> None:
    rng = np.random.default_rng(15)
    graph = convolved(rng)
    x = rng.standard_normal((2, 9, 13, 11)).astype(np.float32)
    rounded = optimize(graph, precision="bf16")
    assert sorted(n.inputs[0].type.dtype.name for n in rounded.nodes if n.op == "conv_general") == ["bf16"] * 4 + [
        "f32"
    ]
    meant = interpret(rounded, {"x": x}).values()
    exact = interpret(graph, {"x": x}).values()
    options = Options(precision="bf16", target=target, cache=False, threads=2)
    got = Session("cpu", options).compile(graph)(x=x).values()
    for a, m, e in zip(got, meant, exact, strict=True):
        scale = np.abs(e).max()
        # as above: an element of an inner layer may be tipped to the next bf16
        np.testing.assert_allclose(a, m, rtol=0, atol=2.0**-8 * scale)
        np.testing.assert_allclose(a, e, rtol=0, atol=2.0**-5 * scale)
        assert np.abs(a - e).max() > 1e-5 * scale, "nothing was rounded"


@pytest.mark.skipif(not HAS_PAIRS, reason="this processor has no AVX512-BF16")
def test_the_instruction_rounds_as_convert_does_denormals_included() -> None:
    rng = np.random.default_rng(16)
    bits = rng.integers(0, 2**32, 1000, np.uint32)
    bits[::7] &= 0x807FFFFF  # denormals and zeros
    bits[:9] = [
        0x7F800001,
        0xFFC12345,
        0x7F800000,
        0x3F808000,
        0x3F818000,
        0x7F7FFFFF,
        0x80000001,
        0x00408000,
        0x00007FFF,
    ]
    bits[500:564] = 0x3F80ABCD  # whole vectors without any
    x = bits.view(np.float32)
    b = GraphBuilder()
    graph = b.build([b.emit("convert", b.input("x", TensorType((1000,), f32)), dtype=bf16)])
    (got,) = Session("cpu", Options(precision="bf16", target="avx512_bf16", cache=False)).compile(graph)(x=x).values()
    with np.errstate(invalid="ignore"):
        wanted = x.astype(bf16.numpy)
    numbers = ~np.isnan(x)
    np.testing.assert_array_equal(got.view(np.uint16)[numbers], wanted.view(np.uint16)[numbers])
    assert np.isnan(got.astype(np.float32)[~numbers]).all()


def test_thread_counts_give_the_same_bits() -> None:
    rng = np.random.default_rng(6)
    graph = gated_layer(rng)
    x = rng.standard_normal((13, 35)).astype(np.float32)
    first, second = (
        Session("cpu", Options(precision="bf16", cache=False, threads=n)).compile(graph)(x=x) for n in (1, 3)
    )
    for a, b in zip(first.values(), second.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_policy_is_part_of_the_cache_key_and_of_the_artefact() -> None:
    graph = gated_layer(np.random.default_rng(7))
    plain, rounded = (Session("cpu", Options(precision=p, cache=False)) for p in ("f32", "bf16"))
    assert plain.cache_key(graph) != rounded.cache_key(graph)
    assert rounded.cache_key(graph)["option.precision"] == "bf16"
    assert rounded.compile(graph).executable.report()["precision"] == "bf16"
    assert Options().precision == "f32"


@pytest.mark.parametrize(
    ("have", "granted", "means"),
    [("avx512_bf16", True, "avx512_bf16"), ("amx_bf16", True, "amx_bf16"), ("amx_bf16", False, "avx512_bf16")],
)
def test_native_means_the_fastest_instruction_for_bf16_and_only_under_the_policy(
    have: str, granted: bool, means: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request() -> None:
        if not granted:
            raise OptionError("refused")

    monkeypatch.setattr("rlx.backends.cpu.host.cpu_flags", lambda: PRECISION_FLAGS["bf16"][have])
    monkeypatch.setattr("rlx.backends.cpu.host.request_tiles", request)
    assert resolve_target("native", "bf16") == means
    assert resolve_target("native") == "avx512"


def test_native_means_lanes_in_8_bits_even_where_there_are_matrix_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlx.backends.cpu.host.cpu_flags", lambda: PRECISION_FLAGS["int8-dynamic"]["amx_int8"])
    assert resolve_target("native", "int8-dynamic") == "avx512_vnni"
    assert resolve_target("amx_int8", "int8-dynamic") == "amx_int8"


def test_a_target_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlx.backends.cpu.host.cpu_flags", lambda: frozenset())
    with pytest.raises(OptionError, match="avx512_bf16"):
        resolve_target("avx512_bf16", "bf16")
    assert resolve_target("native", "bf16") == supported_targets()[0] == "portable"


def test_the_reference_device_honours_the_policy() -> None:
    rng = np.random.default_rng(8)
    graph = gated_layer(rng)
    x = rng.standard_normal((13, 35)).astype(np.float32)
    (meant,) = interpret(optimize(graph, precision="bf16"), {"x": x}).values()
    (got,) = Session("reference", Options(precision="bf16", cache=False)).compile(graph)(x=x).values()
    np.testing.assert_allclose(got, meant, rtol=1e-6, atol=1e-6)


def test_a_backend_that_does_not_list_the_policy_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuBackend, "precisions", ("f32",))
    with pytest.raises(OptionError, match="bf16"):
        Session("cpu", Options(precision="bf16"))


@pytest.mark.skipif("amx_tile" in cpu_flags(), reason="this processor has AMX")
def test_amx_is_refused_where_the_processor_or_the_system_has_none() -> None:
    with pytest.raises(OptionError, match="amx_bf16"):
        resolve_target("amx_bf16", "bf16")
    with pytest.raises(OptionError, match="avx512_bf16"):
        request_tiles()


HAS_FOURS = PRECISION_FLAGS["int8-dynamic"]["avx512_vnni"] <= cpu_flags()


@pytest.mark.parametrize("target", [*(["avx512_vnni"] if HAS_FOURS else []), *supported_targets()])
def test_8_bits_give_the_interpreter_s_bits_on_every_target(target: str) -> None:
    rng = np.random.default_rng(9)
    b = GraphBuilder()
    x = b.input("x", TensorType((21, 43), f32))
    weights = [b.parameter(n, rng.standard_normal((43, k)).astype(np.float32)) for n, k in (("v", 19), ("w", 64))]
    bias = b.parameter("bias", rng.standard_normal(64).astype(np.float32))
    first, second = (b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,)) for w in weights)
    graph = b.build([first, b.binary("add", second, bias)])
    value = rng.standard_normal((21, 43)).astype(np.float32)
    value[3, 5], value[7, 1], value[9] = np.nan, np.inf, 0
    with np.errstate(all="ignore"):
        meant = interpret(optimize(graph, precision="int8-dynamic"), {"x": value}).values()
    options = Options(precision="int8-dynamic", target=target, cache=False, threads=2)
    got = Session("cpu", options).compile(graph)(x=value).values()
    for a, expected in zip(got, meant, strict=True):
        np.testing.assert_array_equal(a, expected)
