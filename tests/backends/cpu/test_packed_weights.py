"""Programs that pack the same weights in the same way keep one copy of them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session

DEPTH, COLUMNS = 192, 160
BYTES = DEPTH * COLUMNS * 4


def _weight(seed: int = 0, *, fixed: bool = True) -> np.ndarray:
    weight = np.random.default_rng(seed).normal(size=(DEPTH, COLUMNS)).astype(np.float32)
    weight.flags.writeable = not fixed
    return weight


def _graph(rows: int, *weights: np.ndarray) -> Graph:
    """One product of the rows by each weight: more than one are joined, their panels side by side."""
    b = GraphBuilder("products")
    x = b.input("x", TensorType((rows, DEPTH), f32))
    parameters = [b.parameter(f"w{i}", weight) for i, weight in enumerate(weights)]
    products = [b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,)) for w in parameters]
    return b.build({f"y{i}": b.emit("tanh", y) for i, y in enumerate(products)})


def _compile(graph: Graph, precision: str = "f32") -> CompiledGraph:
    program = Session("cpu", Options(cache=False, precision=precision, threads=2)).compile(graph)
    assert isinstance(program, CompiledGraph)
    return program


def _check(program: CompiledGraph, *weights: np.ndarray) -> None:
    (type,) = program.inputs.values()
    x = np.random.default_rng(5).normal(size=type.sizes).astype(np.float32)
    for weight, y in zip(weights, program.run({"x": x}).values(), strict=True):
        np.testing.assert_allclose(y, np.tanh(x.astype(np.float64) @ weight), atol=2e-5)


def _blocks(program: CompiledGraph) -> set[object]:
    return program.executable._blocks  # type: ignore[attr-defined]  # the CPU's own


def test_two_batch_sizes_keep_one_copy_until_the_last_is_closed() -> None:
    weight = _weight()
    one, two = _compile(_graph(100, weight)), _compile(_graph(200, weight))
    assert (one.report.memory.shared_bytes, two.report.memory.shared_bytes) == (0, BYTES)
    assert one.report.memory.persistent_bytes == two.report.memory.persistent_bytes == BYTES
    assert _blocks(one) == _blocks(two)
    (block,) = map(weakref.ref, _blocks(one))
    one.close()
    _check(two, weight)
    assert block() is not None
    two.close()
    gc.collect()
    assert block() is None
    with _compile(_graph(100, weight)) as three:
        assert three.report.memory.shared_bytes == 0
        _check(three, weight)


def test_joined_products_share_their_panels_with_joined_products_alone() -> None:
    q, k = _weight(1), _weight(2)
    with _compile(_graph(100, q, k)) as both, _compile(_graph(200, q, k)) as again, _compile(_graph(100, q)) as alone:
        assert again.report.memory.shared_bytes == 2 * BYTES
        assert alone.report.memory.shared_bytes == 0
        for program, weights in ((both, (q, k)), (again, (q, k)), (alone, (q,))):
            _check(program, *weights)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda weight: weight.copy(), id="equal"),
        pytest.param(lambda weight: _weight(3), id="other"),
    ],
)
def test_other_arrays_are_packed_for_themselves(other) -> None:
    weight = _weight()
    another = other(weight)
    with _compile(_graph(100, weight)) as one, _compile(_graph(200, another)) as two:
        assert two.report.memory.shared_bytes == 0
        _check(one, weight)
        _check(two, another)


@pytest.mark.parametrize("as_view", [False, True])
def test_an_array_that_somebody_can_write_is_never_shared(as_view: bool) -> None:
    weight = _weight(fixed=False)
    given = weight.view() if as_view else weight
    if as_view:
        given.flags.writeable = False
    with _compile(_graph(100, given)) as one:
        before = weight.copy()
        weight[:] = 1.0
        with _compile(_graph(200, given)) as two:
            _check(one, before)
            _check(two, weight)


def test_what_a_shared_piece_was_packed_from_is_let_go() -> None:
    weight = _weight()
    kept = weakref.ref(weight)
    with _compile(_graph(100, weight)) as one, _compile(_graph(200, weight)) as two:
        assert two.report.memory.shared_bytes == BYTES
        del weight
        gc.collect()
        assert kept() is None
        _check(one, _weight())
        _check(two, _weight())


def test_a_few_rows_read_the_panels_of_a_prompt() -> None:
    """So that decoding adds no copy of the weights to what prefilling needs."""
    weight = _weight()
    with _compile(_graph(128, weight)) as prefill:
        for rows in (1, 4):
            with _compile(_graph(rows, weight)) as decode:
                assert decode.report.memory.shared_bytes == BYTES
                _check(decode, weight)
        _check(prefill, weight)


def test_another_packing_of_the_same_array_is_another_piece() -> None:
    weight = _weight()
    with _compile(_graph(100, weight)) as one, _compile(_graph(100, weight), "int8-dynamic") as two:
        assert two.report.memory.shared_bytes == 0
        _check(one, weight)
