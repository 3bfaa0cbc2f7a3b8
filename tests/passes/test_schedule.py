"""Orders of work: valid, never with a higher peak than program order, smaller where that is easy to see."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.passes.schedule import Work, order_work, peak


def _random_work(rng: np.random.Generator, count: int) -> Work:
    """Each unit makes one buffer and reads those of a few earlier units."""
    after = [
        sorted(set(rng.integers(max(0, i - 6), i, rng.integers(0, 3)).tolist())) if i else [] for i in range(count)
    ]
    return Work(
        after=after,
        touches=[[*earlier, i] for i, earlier in enumerate(after)],
        sizes=rng.integers(1, 100, count).tolist(),
        inside=(rng.integers(0, 100, count) * (rng.random(count) < 0.2)).tolist(),
    )


def _peak(work: Work, order: list[int]) -> int:
    """By the definition: at each unit, all buffers touched both up to here and from here on."""
    most = 0
    for at, unit in enumerate(order):
        begun = {b for u in order[: at + 1] for b in work.touches[u]}
        needed = {b for u in order[at:] for b in work.touches[u]}
        most = max(most, sum(work.sizes[b] for b in begun & needed) + work.inside[unit])
    return most


def _orders(work: Work, taken: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """All valid orders."""
    if len(taken) == len(work.after):
        return [taken]
    ready = [u for u in range(len(work.after)) if u not in taken and set(work.after[u]) <= set(taken)]
    return [order for unit in ready for order in _orders(work, (*taken, unit))]


@pytest.mark.parametrize("seed", range(40))
def test_an_order_is_valid_and_never_peaks_above_program_order(seed: int) -> None:
    work = _random_work(np.random.default_rng(seed), 30)
    order = order_work(work)
    assert sorted(order) == list(range(30))
    place = {unit: at for at, unit in enumerate(order)}
    assert all(place[earlier] < place[unit] for unit in range(30) for earlier in work.after[unit])
    assert _peak(work, order) <= _peak(work, list(range(30)))
    assert peak(work, order) == _peak(work, order)


def test_orders_of_small_work_are_mostly_the_best_there_are() -> None:
    best = gained = 0
    for seed in range(40):
        work = _random_work(np.random.default_rng(1000 + seed), 7)
        found, least = peak(work, order_work(work)), min(peak(work, order) for order in _orders(work))
        best += found == least
        gained += found < peak(work, range(7))
    assert best >= 36
    assert gained >= 10


def test_branches_that_program_order_makes_side_by_side_run_one_after_the_other() -> None:
    # four times: widen the input to 100 bytes, then reduce that to 1; the sum reads the four
    wide, narrow, total = [0, 1, 2, 3], [4, 5, 6, 7], 8
    work = Work(
        after=[*([] for _ in wide), *([w] for w in wide), narrow],
        touches=[*([w] for w in wide), *([w, n] for w, n in zip(wide, narrow, strict=True)), [*narrow, total]],
        sizes=[100] * 4 + [1] * 4 + [1],
        inside=[0] * 9,
    )
    assert peak(work, range(9)) == 401
    assert peak(work, order_work(work)) == 104


def test_work_that_no_order_improves_keeps_its_order() -> None:
    chain = Work(after=[[], [0], [1]], touches=[[0], [0, 1], [1]], sizes=[8, 8], inside=[0, 0, 0])
    assert order_work(chain) == [0, 1, 2]
    free = Work(after=[[], [], []], touches=[[0], [1], [2]], sizes=[8, 8, 8], inside=[0, 0, 0])
    assert order_work(free) == [0, 1, 2]
    assert order_work(Work([], [], [], [])) == []
