"""Where workers run: bound to the processors of `Options.affinity`, and asleep between runs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.options import OptionError, Options
from rlx.runtime import CompiledGraph, Session

HERE = tuple(sorted(os.sched_getaffinity(0)))
TWO = pytest.mark.skipif(len(HERE) < 2, reason="needs two processors")


def square(side: int = 256) -> Graph:
    """A product that is worth two threads."""
    b = GraphBuilder("square")
    x = b.input("x", TensorType((side, side), f32))
    return b.build({"y": b.emit("dot_general", x, x, lhs_contract=(1,), rhs_contract=(0,))})


def run(options: Options, x: np.ndarray) -> np.ndarray:
    with Session("cpu", options).compile(square()) as program:
        assert isinstance(program, CompiledGraph)
        return program(x=x)["y"]


def new_workers(before: set[threading.Thread]) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("rlx-worker") and t not in before]


def nanoseconds_used(thread: threading.Thread) -> int:
    """Time that the thread has had a processor."""
    return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0])


@TWO
@pytest.mark.parametrize("affinity", [HERE[:2], HERE[1::-1]])
def test_each_worker_is_bound_to_its_processor_and_the_caller_to_none(affinity: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal((256, 256), np.float32)
    alone, before = run(Options(threads=1, cache=False), x), set(threading.enumerate())
    given = run(Options(threads=2, affinity=affinity, cache=False), x)
    (worker,) = new_workers(before)
    assert worker.native_id is not None
    assert os.sched_getaffinity(worker.native_id) == {affinity[1]}
    assert tuple(sorted(os.sched_getaffinity(0))) == HERE
    assert given.tobytes() == alone.tobytes()
    run(Options(threads=2, affinity=affinity, cache=False), x)
    assert new_workers(before) == [worker]  # one pool an affinity


def test_a_processor_that_is_not_there_is_refused_and_the_caller_stays_where_it_was() -> None:
    missing = max(HERE) + 4096
    with pytest.raises(OptionError, match=rf"may not use: {missing}\b"):
        run(Options(threads=2, affinity=(HERE[0], missing), cache=False), np.ones((256, 256), np.float32))
    assert tuple(sorted(os.sched_getaffinity(0))) == HERE


@pytest.mark.parametrize(
    ("affinity", "says"),
    [((0,), "1 processors for 2 threads"), ((), "0 processors"), ((0, 0), "different"), ((0, -1), "different")],
)
def test_what_cannot_be_an_affinity_is_refused_at_once(affinity: tuple[int, ...], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Options(threads=2, affinity=affinity)


def test_a_device_without_threads_refuses_an_affinity() -> None:
    with pytest.raises(OptionError, match="reference:0 has no threads to bind"):
        Session("reference", Options(threads=1, affinity=(0,)))


def test_an_affinity_changes_no_cache_key() -> None:
    assert Options(threads=1, affinity=(0,)).key() == Options(threads=1).key()


@TWO
def test_workers_that_have_no_work_use_no_processor() -> None:
    """So that NumPy's and PyTorch's threads have the machine to themselves between runs."""
    before = set(threading.enumerate())
    # An affinity of its own has a pool of its own, whose launches are this test's alone.
    options = Options(threads=2, affinity=(HERE[1], HERE[0]), cache=False)
    with Session("cpu", options).compile(square()) as program:
        x = np.ones((256, 256), np.float32)
        program(x=x)
        workers = new_workers(before) or [t for t in threading.enumerate() if t.name.startswith("rlx-worker")]
        used = [nanoseconds_used(t) for t in workers]
        for _ in range(20):
            program(x=x)
        time.sleep(0.1)  # the spin is over
        working = [nanoseconds_used(t) for t in workers]
        time.sleep(0.3)
        assert [nanoseconds_used(t) for t in workers] == working
        assert any(after > earlier for after, earlier in zip(working, used, strict=True))  # they did work
