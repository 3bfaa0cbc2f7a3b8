"""Programs as a user calls them: what they give, what they refuse and in which words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rlx.driver import Buffer, Device
from rlx.errors import (
    DeviceNotFound,
    DTypeMismatch,
    InputMismatch,
    IRError,
    MissingInput,
    NotAModel,
    NotCompiled,
    ProgramClosed,
    ShapeMismatch,
    UnknownInput,
)
from rlx.ir import Dim, Graph, GraphBuilder, TensorType, dtypes
from rlx.options import OptionError, Options
from rlx.runtime import Session


def linear(rows: int | Dim = 3) -> tuple[Graph, np.ndarray, np.ndarray]:
    """relu(x @ w + b) with x [rows, 5], w [5, 4]."""
    rng = np.random.default_rng(0)
    w, c = rng.normal(size=(5, 4)).astype("f4"), rng.normal(size=4).astype("f4")
    b = GraphBuilder("linear", source="linear.model")
    x = b.input("x", TensorType((rows, 5), dtypes.f32))
    y = b.emit("dot_general", x, b.parameter("w", w), lhs_contract=(1,), rhs_contract=(0,))
    y = b.emit("relu", b.binary("add", y, b.parameter("c", c)))
    return b.build({"y": y}), w, c


@pytest.fixture(scope="module")
def session():
    return Session("cpu", Options(cache=False))


@pytest.fixture(scope="module")
def program(session):
    return session.compile(linear()[0])


def expected(x):
    _, w, c = linear()
    return np.maximum(x.astype("f8") @ w + c, 0)


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(3, 5)).astype("f4")


def test_a_program_computes_what_the_graph_says(program, x):
    out = program.run({"x": x})
    assert list(out) == ["y"] and out["y"].dtype == np.float32
    np.testing.assert_allclose(out["y"], expected(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(program(x=x)["y"], out["y"])


def test_each_call_gives_arrays_of_its_own(program, x):
    first = program(x=x)["y"]
    kept = first.copy()
    program(x=-x)
    np.testing.assert_array_equal(first, kept)


def test_out_is_written_and_handed_back(program, x):
    mine = np.full((3, 4), np.nan, "f4")
    out = program.run({"x": x}, out={"y": mine})
    assert out["y"] is mine
    np.testing.assert_allclose(mine, expected(x), rtol=1e-5, atol=1e-6)


def test_an_out_that_overlaps_an_input_does_not_disturb_it(session):
    b = GraphBuilder()
    v = b.input("x", TensorType((64,), dtypes.f32))
    reversed_sum = session.compile(b.build({"y": b.emit("add", b.emit("rev", v, dimensions=(0,)), v)}))
    x = np.arange(64, dtype="f4")
    want = x[::-1] + x
    reversed_sum.run({"x": x}, out={"y": x})
    np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.zeros((4, 3), "f4"), ShapeMismatch),
        (np.zeros((3, 4), "f8"), DTypeMismatch),
        (np.zeros((3, 8), "f4")[:, ::2], ShapeMismatch),
    ],
)
def test_an_out_that_does_not_fit_is_refused(program, x, array, error):
    with pytest.raises(error, match=r"out\['y'\]"):
        program.run({"x": x}, out={"y": array})


def test_strided_and_misaligned_inputs_are_read_right(program, x):
    strided = np.zeros((5, 3), "f4").T
    strided[:] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    misaligned = raw[1:].view("f4").reshape(3, 5)
    misaligned[:] = x
    for odd in (strided, misaligned):
        np.testing.assert_array_equal(program(x=odd)["y"], program(x=x)["y"])


def test_buffers_in_give_buffers_out(program, x):
    out = program.run({"x": Buffer.from_numpy(x)})
    assert isinstance(out["y"], Buffer) and out["y"].device == Device("cpu")
    np.testing.assert_array_equal(out["y"].numpy(), program(x=x)["y"])


def test_a_missing_input_lists_what_is_expected(program):
    with pytest.raises(MissingInput) as info:
        program.run({})
    assert str(info.value) == (
        "MissingInput [RLX-R010]: input 'x' is missing\n"
        "  compiled from linear.model\n"
        "  the program expects: x: f32[3, 5]"
    )


def test_an_unknown_input_suggests_the_nearest(session, x):
    b = GraphBuilder()
    mask = b.input("attention_mask", TensorType((3,), dtypes.f32))
    with pytest.raises(UnknownInput) as info:
        session.compile(b.build({"y": mask})).run({"attention_maks": np.zeros(3, "f4")})
    assert "no input 'attention_maks'; it has: attention_mask" in str(info.value)
    assert "did you mean 'attention_mask'?" in str(info.value)


def test_an_input_too_many_is_refused(program, x):
    with pytest.raises(UnknownInput, match="no input 'z'; it has: x"):
        program.run({"x": x, "z": x})


def test_a_wrong_shape_shows_both_sides(program):
    with pytest.raises(ShapeMismatch) as info:
        program(x=np.zeros((3, 6), "f4"))
    assert "input 'x' has shape (3, 6), the program expects (3, 5)" in str(info.value)
    assert "shapes={'x': (3, 6)}" in str(info.value)


def test_a_wrong_dtype_shows_both_sides_and_is_never_converted(program):
    with pytest.raises(DTypeMismatch) as info:
        program(x=np.zeros((3, 5)))
    assert "input 'x' has dtype float64, the program expects float32" in str(info.value)
    assert "x.astype('float32')" in str(info.value)


def test_what_numpy_makes_no_array_of_is_refused(session, program):
    for called in (program, session.compile(linear(Dim("rows"))[0])):
        with pytest.raises(DTypeMismatch, match="'x' is no array"):
            called(x=[[1.0], [2.0, 3.0]])


def test_an_array_for_an_output_beside_buffers_is_refused(program, x):
    with pytest.raises(DTypeMismatch, match=r"out\['y'\] is a ndarray where others are Buffers"):
        program.run({"x": Buffer.from_numpy(x)}, out={"y": np.empty((3, 4), np.float32)})


def test_a_closed_program_says_so(session, x):
    program = session.compile(linear()[0])
    program.close()
    program.close()
    with pytest.raises(ProgramClosed):
        program(x=x)


def test_a_device_that_is_not_there_lists_those_that_are():
    with pytest.raises(DeviceNotFound) as info:
        Session("cpu:7")
    assert "no device 'cpu:7'" in str(info.value) and "cpu:0" in str(info.value)
    with pytest.raises(DeviceNotFound, match="quantum"):
        Session("quantum")


@pytest.mark.parametrize(
    "choice",
    [
        {"threads": 0}, {"threads": 1000}, {"threads": True}, {"precision": "f8"}, {"target": "mmx"},
        {"cache_bytes": 0}, {"cache_bytes": "1"}, {"cache_bytes": 1.5}, {"cache_dir": None}, {"affinity": 5},
        {"tune_seconds": "1"}, {"tune_seconds": float("nan")}, {"optimize": "no"}, {"cache": "0"}, {"tune": "no"},
        {"verify": 1}, {"host_fallback": None}, {"debug_memory": "yes"},
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_honoured_is_refused(choice):
    (name,) = choice
    with pytest.raises(OptionError, match=name):
        Options(**choice)


@pytest.mark.parametrize("sizes", [(2.7, 5), ("a", 5), 3])
def test_sizes_that_are_no_whole_numbers_are_refused(session, sizes):
    with pytest.raises(InputMismatch, match="'x'.*whole numbers"):
        session.compile(linear(Dim("rows"))[0], shapes={"x": sizes})


def test_sizes_for_an_unknown_input_are_refused_before_the_first_call(session):
    with pytest.raises(IRError, match="'z', which is no input"):
        session.compile(linear(Dim("rows"))[0], shapes={"z": (1,)})


def test_what_is_no_model_is_refused_and_a_path_is_to_be_loaded(session):
    with pytest.raises(NotAModel, match=r"rlx.load\('model.onnx'\)"):
        session.compile("model.onnx")
    with pytest.raises(NotAModel, match="None is no model"):
        session.compile(None)


def test_options_are_an_options_object():
    with pytest.raises(OptionError, match="expected an Options"):
        Session("cpu", {"threads": 1})


def test_a_closed_model_with_open_sizes_compiles_no_more(session, x):
    model = session.compile(linear(Dim("rows"))[0])
    model(x=x)
    model.close()
    for rows in (3, 2):
        with pytest.raises(ProgramClosed):
            model(x=x[:rows])


def test_open_sizes_compile_at_the_first_call_once_a_size(session):
    program = session.compile(linear(Dim("rows"))[0])
    with pytest.raises(NotCompiled):
        _ = program.report
    for rows in (1, 2, 7, 2):
        x = np.random.default_rng(rows).normal(size=(rows, 5)).astype("f4")
        np.testing.assert_allclose(program(x=x)["y"], expected(x), rtol=1e-5, atol=1e-6)
    assert "3 programs" in repr(program)
    assert str(program.inputs["x"]) == "f32[rows, 5]"


def test_the_result_is_the_same_to_the_bit_for_any_number_of_threads():
    b = GraphBuilder()
    x = b.input("x", TensorType((200, 300), dtypes.f32))
    y = b.emit("dot_general", x, x, lhs_contract=(1,), rhs_contract=(1,))
    total = b.emit("reduce_sum", b.emit("softmax", y, axis=1), dimensions=(0,))
    everything = b.emit("reduce_sum", x, dimensions=(0, 1))
    graph = b.build({"y": y, "total": total, "everything": everything})
    data = np.random.default_rng(2).normal(size=(200, 300)).astype("f4")
    runs = [Session("cpu", Options(cache=False, threads=n)).compile(graph).run({"x": data}) for n in (1, 2, 3, 5)]
    for name in graph.output_names:
        assert len({run[name].tobytes() for run in runs}) == 1, name


def test_two_threads_that_share_a_program_get_their_own_answers(program):
    failures = []

    def work(seed):
        x = np.random.default_rng(seed).normal(size=(3, 5)).astype("f4")
        want = expected(x)
        for _ in range(300):
            if not np.allclose(program(x=x)["y"], want, rtol=1e-5, atol=1e-6):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_a_forked_child_can_run_the_parent_s_program(x):
    program = Session("cpu", Options(cache=False, threads=2)).compile(linear()[0])
    want = program(x=x)["y"]
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(program(x=x)["y"], want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


#: Python drops an interrupt that arrives inside a finaliser or a callback of the garbage collector, and only warns.
DROPPED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, as it does unless a test runner has switched it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@DROPPED
def test_a_run_stops_for_ctrl_c_and_the_program_stays_usable(session, interruptible):
    """A loop that never ends by itself: only the signal ends it."""
    state = TensorType((), dtypes.f32)
    test = GraphBuilder("test")
    test_x = test.input("x", state)
    region_test = test.build([test.emit("lt", test_x, test.constant(1.0, dtypes.f32))])
    body = GraphBuilder("body")
    body_x = body.input("x", state)
    region_body = body.build([body.emit("mul", body_x, body.constant(1.0, dtypes.f32))])
    b = GraphBuilder()
    start = b.input("x", state)
    program = session.compile(
        b.build({"y": b.emit("while_loop", start, num_carry=1, regions=(region_test, region_body))})
    )
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        program(x=np.float32(0))
    assert time.monotonic() - began < 20
    assert program(x=np.float32(3))["y"] == 3


@DROPPED
def test_compiling_stops_for_ctrl_c_without_leaving_files_and_can_be_done_again(tmp_path, x, interruptible):
    """The signal arrives at several moments of a compilation; whichever it hits, nothing half-done is left."""
    from rlx.runtime import session as module

    options = Options(cache=True, cache_dir=tmp_path / "cache")
    interrupted = 0
    for delay in (0.005, 0.03, 0.08, 0.15):
        module._memory.clear()
        timer = threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            timer.start()
            Session("cpu", options).compile(linear()[0])
            timer.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted += 1
        left = list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else []
        assert all(path.suffix == ".rlxc" for path in left)
        for path in left:
            path.unlink()
    assert interrupted >= 2  # see DROPPED
    module._memory.clear()
    np.testing.assert_allclose(
        Session("cpu", options).compile(linear()[0])(x=x)["y"], expected(x), rtol=1e-5, atol=1e-6
    )


CACHED = """
import sys, numpy as np
sys.path[:0] = {path!r}
from tests_linear import linear
from rlx.runtime import Session
program = Session("cpu").compile(linear()[0])
print(program.report.cache, "llvmlite" in sys.modules, float(program(x=np.ones((3, 5), "f4"))["y"].sum()))
"""


def test_a_second_process_finds_the_program_without_importing_llvm(tmp_path):
    source = "import numpy as np\nfrom rlx.ir import GraphBuilder, Dim, Graph, TensorType, dtypes\n"
    import inspect

    (tmp_path / "tests_linear.py").write_text(source + inspect.getsource(linear))
    code = CACHED.format(path=[str(tmp_path), *sys.path])
    env = {**os.environ, "RLX_CACHE_DIR": str(tmp_path / "cache"), "RLX_CACHE": "1"}
    first, second = (
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    )
    assert first[:2] == ["compiled", "True"] and second[:2] == ["disk", "False"]
    assert first[2] == second[2]


def test_a_damaged_cache_entry_is_compiled_again_and_never_run(tmp_path, x):
    from rlx.runtime import session as module

    options = Options(cache=True, cache_dir=tmp_path / "cache")
    module._memory.clear()
    Session("cpu", options).compile(linear()[0])
    (entry,) = (tmp_path / "cache").iterdir()
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 0xFF
    entry.write_bytes(data)
    module._memory.clear()
    again = Session("cpu", options).compile(linear()[0])
    assert again.report.cache == "compiled"
    np.testing.assert_allclose(again(x=x)["y"], expected(x), rtol=1e-5, atol=1e-6)


def test_the_report_tells_what_binding_the_weights_took(session):
    start = time.perf_counter()
    report = session.compile(linear()[0]).report
    passed = time.perf_counter() - start
    assert 0 < report.binding_seconds < report.seconds < passed
    assert f"{report.binding_seconds:.3f} of them binding weights" in report.text()
