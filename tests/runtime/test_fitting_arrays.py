"""Calls after the first: native code itself tells arrays that fit from all else, which takes the careful way."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from rlx.errors import DTypeMismatch, MissingInput, ProgramClosed, RLXError, ShapeMismatch, UnknownInput
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32, i64
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session

RNG = np.random.default_rng(41)
X = RNG.standard_normal((4, 6), np.float32)
N = RNG.integers(-9, 9, 6)


def _compile(layers: int) -> CompiledGraph:
    """y = tanh(...tanh(x)) * n; its launches are brief or not, by their number."""
    b = GraphBuilder("two inputs")
    x, n = b.input("x", TensorType((4, 6), f32)), b.input("n", TensorType((6,), i64))
    for _ in range(layers):
        x = b.emit(
            "tanh",
            b.emit("dot_general", x, b.constant(np.eye(6, dtype=np.float32)), lhs_contract=(1,), rhs_contract=(0,)),
        )
    scale = b.emit("broadcast_in_dim", b.convert(n, f32), shape=(4, 6), broadcast_dims=(1,))
    program = Session("cpu", Options(threads=1, cache=False)).compile(
        b.build({"y": b.emit("mul", x, scale), "x2": b.emit("neg", x)})
    )
    assert isinstance(program, CompiledGraph)
    program(x=X, n=N)  # from here on calls are quick
    return program


@pytest.fixture(scope="module", params=[1, 40], ids=["brief", "long"])
def program(request: pytest.FixtureRequest) -> CompiledGraph:
    made = _compile(request.param)
    assert made.executable._steps.brief == (request.param == 1)
    return made


def _misaligned(array: np.ndarray) -> np.ndarray:
    raw = np.empty(array.nbytes + 1, np.uint8)
    raw[1:] = array.view(np.uint8).reshape(-1)
    return raw[1:].view(array.dtype).reshape(array.shape)


class _Named(np.ndarray):
    """A class of arrays that is not NumPy's own."""


SAME = {
    "itself": X,
    "in Fortran's order": np.asfortranarray(X),
    "every second row": np.repeat(X, 2, axis=0)[::2],
    "misaligned": _misaligned(X),
    "of another class": X.view(_Named),
    "read-only": np.frombuffer(X.tobytes(), np.float32).reshape(4, 6),
    "with a dtype of its own": X.view(np.dtype(np.float32, metadata={"unit": "m"})),
    "nested lists": None,
}


@pytest.mark.parametrize("name", SAME)
def test_whatever_the_array_the_answer_is_the_same(program: CompiledGraph, name: str) -> None:
    expected = {key: value.tobytes() for key, value in program.run({"x": X.copy(), "n": N.copy()}).items()}
    array = SAME[name]
    if array is None:
        array = _Arraylike()
    for _ in range(2):
        got = program(n=N, x=array)
        assert list(got) == ["y", "x2"]
        assert {key: value.tobytes() for key, value in got.items()} == expected


class _Arraylike:
    """What np.asarray takes, and no array."""

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return X


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"x": X}, MissingInput),
        ({}, MissingInput),
        ({"x": X, "m": N}, UnknownInput),
        ({"x": X, "n": N, "m": N}, UnknownInput),
        ({"x": X.astype(np.float64), "n": N}, DTypeMismatch),
        ({"x": X.astype(">f4"), "n": N}, DTypeMismatch),
        ({"x": X, "n": N.astype(np.int32)}, DTypeMismatch),
        ({"x": X[:, :5], "n": N}, ShapeMismatch),
        ({"x": X.T.copy(), "n": N}, ShapeMismatch),
        ({"x": X[None], "n": N}, ShapeMismatch),
        ({"x": X[0], "n": N}, ShapeMismatch),
        ({"x": X, "n": N[:, None]}, ShapeMismatch),
        ({"x": X, "n": np.int64(3)}, ShapeMismatch),
        ({"x": X, "n": 3}, ShapeMismatch),
        ({"x": None, "n": N}, DTypeMismatch),
        ({"x": "x", "n": N}, DTypeMismatch),
    ],
)
def test_what_does_not_fit_is_refused_after_the_first_call_as_before(
    program: CompiledGraph, inputs: dict[str, object], error: type[RLXError]
) -> None:
    with pytest.raises(error):
        program(**inputs)
    with pytest.raises(error):
        program.run(inputs)


def test_a_quick_call_and_a_run_into_the_caller_s_arrays_do_not_disturb_each_other() -> None:
    program = _compile(1)
    contents = [RNG.standard_normal((4, 6), np.float32) for _ in range(8)]
    expected = [program.run({"x": x, "n": N})["y"].tobytes() for x in contents]
    wrong: list[int] = []

    def call(quick: bool) -> None:
        out = {"y": np.empty((4, 6), np.float32), "x2": np.empty((4, 6), np.float32)}
        for turn in range(3000):
            at = turn % 8
            got = program(x=contents[at], n=N) if quick else program.run({"x": contents[at], "n": N}, out)
            if got["y"].tobytes() != expected[at]:
                wrong.append(at)

    threads = [threading.Thread(target=call, args=(quick,)) for quick in (True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_of_quick_calls_are_apart(program: CompiledGraph) -> None:
    first, second = program(x=X, n=N), program(x=-X, n=N)
    assert not any(np.may_share_memory(a, b) for a in first.values() for b in second.values())
    assert not np.array_equal(first["x2"], second["x2"])


def test_a_closed_program_refuses_quick_calls_too() -> None:
    program = _compile(1)
    program.close()
    with pytest.raises(ProgramClosed):
        program(x=X, n=N)


def test_arrays_that_fit_do_not_take_the_careful_way(program: CompiledGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(program, "_run_arrays", ran.append)
    program(n=N, x=X)
    program.run({"x": X, "n": N})
    assert not ran
    program(n=N, x=np.asfortranarray(X))
    assert len(ran) == 1
