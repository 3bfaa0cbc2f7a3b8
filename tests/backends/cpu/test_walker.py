"""The native walker, worker pool, linker and image, on hand-written LLVM kernels: no compiler in between."""

from __future__ import annotations

import ctypes
import os
import threading
from importlib import resources
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from rlx.backends.cpu.image import Image
from rlx.backends.cpu.linker import LinkError, link
from rlx.backends.cpu.pool import TICKET_BYTES, TICKETS, WorkerPool

# y[i] = expf(x[i]) + scratch-independent index; count[0] += end - begin through an atomic, to see every index once.
KERNELS = """
declare float @expf(float)
define void @exp_kernel(ptr %args, ptr %sizes, ptr %scratch, i64 %begin, i64 %end) nounwind {
entry:
  %x = load ptr, ptr %args
  %yp = getelementptr ptr, ptr %args, i64 1
  %y = load ptr, ptr %yp
  %none = icmp sge i64 %begin, %end
  br i1 %none, label %out, label %loop
loop:
  %i = phi i64 [%begin, %entry], [%next, %loop]
  %xi = getelementptr float, ptr %x, i64 %i
  %yi = getelementptr float, ptr %y, i64 %i
  %v = load float, ptr %xi
  %e = call float @expf(float %v)
  store float %e, ptr %yi
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %out
out:
  ret void
}
define void @decrement(ptr %args, ptr %sizes, ptr %scratch, i64 %begin, i64 %end) nounwind {
  %n.p = load ptr, ptr %args
  %flag.pp = getelementptr ptr, ptr %args, i64 1
  %flag.p = load ptr, ptr %flag.pp
  %n = load i64, ptr %n.p
  %m = sub i64 %n, 1
  store i64 %m, ptr %n.p
  %positive = icmp sgt i64 %m, 0
  %byte = zext i1 %positive to i8
  store i8 %byte, ptr %flag.p
  ret void
}
@table = internal global [2 x ptr] [ptr @exp_kernel, ptr @decrement]
define ptr @second() nounwind {
  %p = getelementptr ptr, ptr @table, i64 1
  %f = load ptr, ptr %p
  ret ptr %f
}
"""
LAUNCH, COPY, BRANCH, JUMP, END = 1, 2, 3, 4, 0


@pytest.fixture(scope="module")
def linked():
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    text = resources.files("rlx.backends.cpu").joinpath("walker.ll").read_text()
    text = text.replace("@PAUSE_DECLARATION@", "declare void @llvm.x86.sse2.pause()")
    text = text.replace("@PAUSE@", "call void @llvm.x86.sse2.pause()").replace("@FUTEX@", "202")
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(
        cpu="x86-64", opt=2, reloc="pic", codemodel="small"
    )
    return link(machine.emit_object(llvm.parse_assembly(text + KERNELS)))


@pytest.fixture(scope="module")
def image(linked):
    return Image(linked.data, linked.code_bytes, linked.functions, linked.externals, linked.absolute)


@pytest.fixture
def pool(image):
    made = WorkerPool()
    yield made
    made.stop()


class Machine:
    """A program in the walker's own terms; keeps every array that it points to."""

    def __init__(self, image, pool, records, slots, budget=10**12):
        self.records = np.array(records, np.int64)
        self.table = np.array(slots, np.int64)
        self.bases = np.zeros(1, np.int64)
        self.state = np.zeros(16, np.int64)
        self.state[[1, 2, 4, 5, 6, 7]] = [
            self.records.ctypes.data, 0, self.table.ctypes.data, self.bases.ctypes.data, pool.address, budget,
        ]  # fmt: skip
        self._run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(image.function("rlx_run"))

    def run(self):
        return self._run(self.state.ctypes.data)


def test_an_absolute_address_in_data_is_relocated_to_where_the_image_stands(image):
    second = ctypes.CFUNCTYPE(ctypes.c_void_p)(image.function("second"))
    assert second() == image.function("decrement")


def test_code_pages_are_not_writable(image):
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    holding = [m for m in mapped if int(m[0].split("-")[0], 16) <= image.address < int(m[0].split("-")[1], 16)]
    assert holding and holding[0][1].startswith("r-x")


@pytest.mark.parametrize("chunk", [1, 3, 2000])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("grid", [1, 2, 5, 6, 7, 8, 1000])
def test_every_index_of_a_grid_runs_whatever_the_number_of_threads(image, pool, threads, grid, chunk):
    pool.ensure(threads - 1, image)
    x = np.linspace(-3, 3, grid, dtype=np.float32)
    y = np.full(grid + 1, np.nan, np.float32)
    slots = [x.ctypes.data, y.ctypes.data]
    machine = Machine(
        image, pool, [[LAUNCH, image.function("exp_kernel"), 0, grid, min(threads, grid), 1, 0, chunk], [0] * 8], slots
    )
    for _ in range(20):
        y[:] = np.nan
        assert machine.run() == 0
        np.testing.assert_allclose(y[:grid], np.exp(x), rtol=3e-7)
        assert np.isnan(y[grid])


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("grid", [7, 8, 1000])
def test_threads_have_equal_shares_and_those_of_absent_workers_are_taken_by_the_caller(image, pool, threads, grid):
    ctypes.c_int64.from_address(pool.address).value = threads - 1  # of whom none was started
    x = np.linspace(-3, 3, grid, dtype=np.float32)
    y = np.full(grid, np.nan, np.float32)
    machine = Machine(
        image,
        pool,
        [[LAUNCH, image.function("exp_kernel"), 0, grid, threads, 1, 0, 3], [0] * 8],
        [x.ctypes.data, y.ctypes.data],
    )
    for _ in range(3):
        y[:] = np.nan
        assert machine.run() == 0
        np.testing.assert_allclose(y, np.exp(x), rtol=3e-7)
    words = [(ctypes.c_int64 * 8).from_address(pool.address + TICKETS + TICKET_BYTES * i) for i in range(threads)]
    first, past = [w[5] for w in words], [w[6] for w in words]
    assert [*first, grid] == [0, *past]
    assert max(np.subtract(past, first)) - min(np.subtract(past, first)) <= 1


def test_a_parked_worker_wakes_for_the_next_launch(image, pool):
    pool.ensure(1, image)
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    machine = Machine(
        image,
        pool,
        [[LAUNCH, image.function("exp_kernel"), 0, 64, 2, 1, 0, 16], [0] * 8],
        [x.ctypes.data, y.ctypes.data],
    )
    sleeping = ctypes.c_int32.from_address(pool.address + TICKETS + TICKET_BYTES + 64)
    for _ in range(3):
        deadline = threading.Event()
        for _ in range(500):
            if sleeping.value:
                break
            deadline.wait(0.01)
        assert sleeping.value == 1
        y[:] = 0
        machine.run()
        assert (y == y[0]).all() and y[0] > 2.7


def test_a_loop_runs_until_its_flag_falls_and_a_spent_budget_pauses_between_records(image, pool):
    n, flag = np.array([5], np.int64), np.array([1], np.uint8)
    records = [
        [BRANCH, 0, 2, 0, 0, 20, 3, 0],
        [LAUNCH, image.function("decrement"), 0, 1, 1, 1, 0, 0],
        [JUMP, 0, 0, 0, 0, 20, 0, 0],
        [END] * 8,
    ]
    slots = [n.ctypes.data, flag.ctypes.data, flag.ctypes.data]
    machine = Machine(image, pool, records, slots)
    assert machine.run() == 0 and n[0] == 0
    n[0], flag[0] = 5, 1
    paused = Machine(image, pool, records, slots, budget=0)
    pauses = 0
    while paused.run():
        pauses += 1
    assert n[0] == 0 and pauses == 5 * 3 + 1


def test_a_branch_skips_the_arm_not_taken(image, pool):
    a, b, out = np.array([1.0]), np.array([2.0]), np.zeros(1)
    flag = np.zeros(1, np.uint8)
    records = [
        [BRANCH, 0, 0, 0, 0, 0, 3, 0],
        [COPY, 0, 1, 8, 0, 0, 0, 0],
        [JUMP, 0, 0, 0, 0, 0, 4, 0],
        [COPY, 0, 3, 8, 0, 0, 0, 0],
        [END] * 8,
    ]
    slots = [flag.ctypes.data, out.ctypes.data, a.ctypes.data, out.ctypes.data, b.ctypes.data]
    machine = Machine(image, pool, records, slots)
    for value, expected in ((0, 2.0), (1, 1.0)):
        flag[0] = value
        machine.run()
        assert out[0] == expected


def test_a_run_that_finds_the_pool_taken_works_alone_and_leaves_it_taken(image, pool):
    pool.ensure(1, image)
    x, y = np.ones(8, np.float32), np.zeros(8, np.float32)
    machine = Machine(
        image, pool, [[LAUNCH, image.function("exp_kernel"), 0, 8, 2, 1, 0, 2], [0] * 8], [x.ctypes.data, y.ctypes.data]
    )
    owner = ctypes.c_int32.from_address(pool.address + 64)
    owner.value = 1
    launches = ctypes.c_int64.from_address(pool.address + 80)
    before = launches.value
    machine.run()
    assert owner.value == 1 and launches.value == before and (y > 2.7).all()
    owner.value = 0
    machine.run()
    assert owner.value == 0 and launches.value == before + 1


def test_a_function_that_the_system_lacks_is_named(linked):
    with pytest.raises(OSError, match="no_such_function"):
        Image(linked.data, linked.code_bytes, linked.functions, {"no_such_function": 4096}, ())


@pytest.mark.parametrize("cut", [0, 10, 63])
def test_what_is_no_object_file_is_refused(cut):
    with pytest.raises(LinkError):
        link(b"\x7fELF"[:cut].ljust(cut, b"x"))


def test_a_forked_child_starts_without_the_parent_s_workers(image, pool):
    pool.ensure(1, image)
    address = pool.address
    child = os.fork()
    if child == 0:
        os._exit(0 if pool.workers == 0 and pool.address != address else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_interrupt_while_a_worker_starts_loses_neither_it_nor_its_code(image, monkeypatch):
    pool = WorkerPool()
    start = threading.Thread.start
    started = []

    def interrupted(thread):
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.ensure(1, image)
    assert pool.workers == 1 and pool._images == [image]
    pool.stop()
    assert len(started) == 1 and not started[0].is_alive()


@pytest.fixture
def two_processors():
    """The caller's processor, which it is bound to meanwhile, and another one."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("needs two processors")
    here, other = sorted(allowed)[:2]
    os.sched_setaffinity(0, {here})
    yield here, other
    os.sched_setaffinity(0, allowed)


def _launch_of_two(image, pool):
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    records = [[LAUNCH, image.function("exp_kernel"), 0, 64, 2, 1, 0, 16], [0] * 8]
    Machine(image, pool, records, [x.ctypes.data, y.ctypes.data]).run()
    assert (y > 2.7).all()


@pytest.mark.parametrize("lay_down", ["here", "elsewhere"])
def test_a_sleeping_worker_is_kept_off_the_caller_s_processor_if_it_lay_down_there(
    image, pool, two_processors, lay_down
):
    here, other = two_processors
    known, over = threading.Event(), threading.Event()
    sleeper = threading.Thread(target=lambda: (os.sched_setaffinity(0, {here, other}), known.set(), over.wait()))
    sleeper.start()
    known.wait()
    ctypes.c_int64.from_address(pool.address).value = 1  # a worker of whom there is the thread alone
    state = (ctypes.c_int32 * 4).from_address(pool.address + TICKETS + TICKET_BYTES + 64)
    state[:] = 1, sleeper.native_id, 0, 1 + (here if lay_down == "here" else other)
    try:
        _launch_of_two(image, pool)
        allowed = os.sched_getaffinity(sleeper.native_id)
    finally:
        over.set()
        sleeper.join()
    assert allowed == ({other} if lay_down == "here" else {here, other})
    assert state[2] == (1 + here if lay_down == "here" else 0)


def test_a_worker_takes_the_processor_back_that_it_was_kept_off(image, pool, two_processors):
    here, other = two_processors
    pool.ensure(1, image)
    state = (ctypes.c_int32 * 4).from_address(pool.address + TICKETS + TICKET_BYTES + 64)
    pause = threading.Event()

    def wait_for(holds):
        for _ in range(500):
            if holds():
                return
            pause.wait(0.01)
        raise AssertionError("the worker does not come to rest")

    wait_for(lambda: state[0] == 1)
    os.sched_setaffinity(state[1], {other})
    state[2] = 1 + here
    _launch_of_two(image, pool)
    wait_for(lambda: state[2] == 0)
    assert os.sched_getaffinity(state[1]) == {here, other}


def test_a_worker_of_an_affinity_is_never_moved(image, two_processors):
    here, other = two_processors
    pool = WorkerPool((here, other))
    pool.ensure(1, image)
    try:
        _launch_of_two(image, pool)
        assert ctypes.c_int32.from_address(pool.address + TICKETS + TICKET_BYTES + 68).value == 0
    finally:
        pool.stop()
