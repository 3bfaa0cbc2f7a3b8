"""Choosing the fastest: with contenders whose times are given, and a clock that ticks when they run."""

from collections.abc import Iterator
from itertools import chain, repeat

from rlx.backends.cpu.tournament import HOPELESS, LEAST_ROUNDS, MOST_ROUNDS, Contender, confirm, play


class FakeClock:
    """Stands still but for what the contenders take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def contender(self, times: Iterator[float]) -> Contender:
        """One whose pieces take these times, a piece a run."""

        def run() -> list[float]:
            seconds = next(times)
            self.now += seconds
            return [seconds]

        return Contender(run)

    def steady(self, seconds: float) -> Contender:
        return self.contender(repeat(seconds))


def test_the_fastest_wins_wherever_it_stands():
    for place in range(3):
        clock = FakeClock()
        contenders = [clock.steady(0.9 if i == place else 1.0) for i in range(3)]
        assert play(contenders, 100.0, clock) is contenders[place]


def test_a_hopeless_contender_leaves_after_the_least_rounds_and_the_default_never_does():
    clock = FakeClock()
    default, hopeless, best = clock.steady(3.0), clock.steady(1.01 * HOPELESS), clock.steady(1.0)
    assert play([default, hopeless, best], 1e9, clock) is best
    assert len(hopeless.seconds) == LEAST_ROUNDS
    assert len(default.seconds) == len(best.seconds) == MOST_ROUNDS


def test_interruptions_of_most_rounds_do_not_change_the_winner():
    clock = FakeClock()
    default = clock.steady(1.0)
    faster = clock.contender(chain([0.8], (t for _ in range(MOST_ROUNDS) for t in (0.8, 5.0, 9.0))))
    assert play([default, faster], 1e9, clock) is faster


def test_one_lucky_piece_does_not_win():
    clock = FakeClock()
    default = clock.steady(1.0)
    lucky = clock.contender(chain([1.05, 0.1], repeat(1.05)))
    assert play([default, lucky], 1e9, clock) is default


def test_the_budget_ends_a_tournament_but_for_the_least_rounds():
    clock = FakeClock()
    contenders = [clock.steady(1.0), clock.steady(1.0)]
    play(contenders, 21.0, clock)
    assert [len(c.seconds) for c in contenders] == [11, 11]
    clock = FakeClock()
    contenders = [clock.steady(1.0), clock.steady(1.0)]
    play(contenders, 0.0, clock)
    assert [len(c.seconds) for c in contenders] == [LEAST_ROUNDS] * 2


def test_a_winner_that_is_hardly_faster_is_not_confirmed():
    clock = FakeClock()
    assert confirm(clock.steady(1.0), clock.steady(0.9), 10.0, clock)
    assert not confirm(clock.steady(1.0), clock.steady(0.99), 10.0, clock)


def test_confirming_forgets_the_times_that_made_the_winner():
    clock = FakeClock()
    default, winner = clock.steady(1.0), clock.steady(1.0)
    winner.seconds = [0.1] * 100
    assert not confirm(default, winner, 10.0, clock)
    assert set(winner.seconds) == {1.0}
