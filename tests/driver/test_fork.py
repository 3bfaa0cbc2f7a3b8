"""A forked child: everything idle works, everything pending has failed, nothing hangs."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")

PREAMBLE = """
import os, sys, threading, time
import numpy as np
from rlx.driver import *
from rlx.errors import DeviceError
from rlx.ir.dtypes import f32
from rlx.ir.types import TensorType
FOUR = TensorType((4,), f32)

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def _run(program: str) -> None:
    """Run in a process of its own, which a hang ends after a while."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + textwrap.dedent(program)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_stream_with_a_worker_works_in_the_child_and_in_the_parent() -> None:
    _run("""
    stream, buffer = CommandStream(), Buffer.empty(FOUR)
    stream.fill(buffer, 1)
    stream.synchronize()
    def work():
        stream.fill(buffer, 2)
        stream.run_now(lambda i, o: None)
        stream.synchronize()
        assert buffer.numpy().sum() == 8
    in_child(work)
    assert buffer.numpy().sum() == 4
    stream.fill(buffer, 3)
    stream.synchronize()
    assert buffer.numpy().sum() == 12
    """)


def test_work_pending_at_the_fork_fails_in_the_child_and_goes_on_in_the_parent() -> None:
    _run("""
    stream, buffer, gate = CommandStream(), Buffer.empty(FOUR), threading.Event()
    done = stream.record(Event("done"))
    stream.run(lambda i, o: gate.wait(30))
    stream.fill(buffer, 5)
    event = stream.record(Event("pending"))
    def work():
        done.wait()
        for wait in (event.wait, event.query, stream.synchronize):
            try:
                wait()
            except DeviceError as error:
                assert "fork" in str(error), error
            else:
                raise AssertionError(wait)
        stream.reset()
        stream.fill(buffer, 7)
        stream.synchronize()
        assert buffer.numpy().sum() == 28
    in_child(work)
    gate.set()
    event.wait(30)
    assert buffer.numpy().sum() == 20
    """)


def test_locks_that_another_thread_held_at_the_fork_are_free_in_the_child() -> None:
    _run("""
    memory, stop = device_memory(HOST), threading.Event()
    stream = CommandStream()
    def busy():
        while not stop.is_set():
            b = Buffer.empty(FOUR)
            stream.fill(b, 1)
            stream.run_now(lambda i, o: None)
            memory.statistics
    threads = [threading.Thread(target=busy) for _ in range(2)]
    for t in threads: t.start()
    time.sleep(0.05)
    def work():
        for _ in range(20):
            with Buffer.empty(FOUR) as b:
                b.fill(2)
        memory.statistics
        stream.reset()
        stream.fill(Buffer.empty(FOUR), 1)
        stream.synchronize()
        registry.problems()
    for _ in range(15):
        in_child(work)
    stop.set()
    for t in threads: t.join()
    """)


def test_another_threads_run_now_does_not_block_the_child() -> None:
    _run("""
    stream, inside, gate = CommandStream(), threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: stream.run_now(lambda i, o: (inside.set(), gate.wait(30))))
    thread.start()
    inside.wait(30)
    def work():
        log = []
        stream.run_now(lambda i, o: log.append(1))
        assert log == [1]
    in_child(work)
    gate.set()
    thread.join(30)
    """)


def test_host_memory_made_before_the_fork_is_the_childs_own_copy() -> None:
    _run("""
    big = Buffer.empty(TensorType((1 << 20,), f32))
    big.fill(1)
    def work():
        big.fill(2)
        assert big.numpy().sum() == 2 << 20
    in_child(work)
    assert big.numpy().sum() == 1 << 20
    """)
