"""Where workers begin: off the processors of those that have begun, and free again once they have."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rlx.driver import CommandStream
from rlx.driver.placement import Placement

HERE = os.sched_getaffinity(0)
SOON = 60.0

pytestmark = pytest.mark.skipif(len(HERE) < 2, reason="needs two processors")


@contextmanager
def sleeper() -> Iterator[int]:
    """A thread that does nothing: its number."""
    enough = threading.Event()
    thread = threading.Thread(target=enough.wait, args=(SOON,))
    thread.start()
    assert thread.native_id is not None
    try:
        yield thread.native_id
    finally:
        enough.set()
        thread.join()


@pytest.fixture
def placement(monkeypatch: pytest.MonkeyPatch) -> Placement:
    made = Placement()
    monkeypatch.setattr(made, "_processor", lambda: min(HERE))  # where every worker of this test begins
    return made


@pytest.mark.parametrize("woken_first", [True, False])
def test_who_is_woken_stays_off_the_processor_of_who_has_begun_until_it_begins(
    placement: Placement, woken_first: bool
) -> None:
    with sleeper() as busy, sleeper() as late:
        if woken_first:
            placement.wake(late)
        placement.wake(busy)
        placement.begin(busy)
        if not woken_first:
            placement.wake(late)
        assert os.sched_getaffinity(late) == HERE - {min(HERE)}
        assert os.sched_getaffinity(busy) == HERE
        placement.begin(late)
        assert os.sched_getaffinity(late) == HERE


def test_who_is_done_keeps_nobody_off(placement: Placement) -> None:
    with sleeper() as busy, sleeper() as late:
        placement.wake(busy)
        placement.begin(busy)
        placement.end(busy)
        placement.wake(late)
        assert os.sched_getaffinity(late) == HERE


def test_a_worker_bound_to_one_processor_by_others_stays_there(placement: Placement) -> None:
    with sleeper() as busy, sleeper() as bound:
        os.sched_setaffinity(bound, {min(HERE)})
        placement.wake(bound)
        placement.begin(busy)
        assert os.sched_getaffinity(bound) == {min(HERE)}


def test_a_worker_that_has_ended_is_passed_over(placement: Placement) -> None:
    with sleeper() as busy, sleeper() as gone:
        placement.wake(gone)
    placement.begin(busy)


def test_streams_that_work_at_once_end_with_all_their_processors() -> None:
    with CommandStream() as one, CommandStream() as other:
        both, workers = threading.Barrier(2), set[int]()

        def work(reads: object, writes: object) -> None:
            both.wait(SOON)
            workers.add(threading.get_native_id())
            assert os.sched_getaffinity(0) == HERE

        for _ in range(200):
            one.run(work)
            other.run(work)
        one.synchronize()
        other.synchronize()
        assert len(workers) == 2
        assert all(os.sched_getaffinity(worker) == HERE for worker in workers)
