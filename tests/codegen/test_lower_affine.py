"""Affine index arithmetic agrees with integers at every point, and comes out affine where it can."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from kernel_interpreter import Machine

from rlx.codegen.kernel import Var
from rlx.codegen.lower.affine import Affine, Space
from rlx.codegen.lower.axes import make_axes, trivial_extents
from rlx.codegen.lower.kernel_builder import KernelBuilder


def value(space: Space, a: Affine, point: dict[str, int]) -> int:
    machine = Machine({})
    machine.env.update({name: np.array(i, np.int64) for name, i in point.items()})
    return int(machine.eval(space.expression(a)))


def points(extents: dict[str, int]):
    for place in itertools.product(*(range(n) for n in extents.values())):
        yield dict(zip(extents, place, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_quotients_and_remainders_are_those_of_the_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = Space()
    extents = {name: int(rng.integers(2, 6)) for name in ("i", "j", "k")[: rng.integers(1, 4)]}
    axes = {name: space.axis(name, n) for name, n in extents.items()}
    coefficients = {name: int(rng.choice([-6, -4, -1, 1, 2, 3, 4, 6, 8, 12])) for name in extents}
    const = int(rng.integers(-9, 10))
    a = space.add(Affine(const), *(space.scale(axes[n], c) for n, c in coefficients.items()))
    by = int(rng.choice([2, 3, 4, 6, 8, 12]))
    quotient, remainder = space.floordiv(a, by), space.mod(a, by)
    again = space.floordiv(space.shift(quotient, -2), 3)
    low, high = space.bounds(quotient)
    for point in points(extents):
        expected = const + sum(c * point[n] for n, c in coefficients.items())
        assert value(space, a, point) == expected
        assert value(space, quotient, point) == expected // by
        assert value(space, remainder, point) == expected % by
        assert value(space, again, point) == (expected // by - 2) // 3
        assert low <= expected // by <= high
        inside = space.within(a, -3, 5)
        if not isinstance(inside, bool):
            machine = Machine({})
            machine.env.update({n: np.array(i, np.int64) for n, i in point.items()})
            inside = bool(machine.eval(inside))
        assert inside == (-3 <= expected < 5)


def test_what_a_reshape_splits_another_merges_without_a_trace() -> None:
    space = Space()
    j = space.axis("j", 96)
    outer, inner = space.delinearize(j, (8, 12))
    assert len(outer.terms) == 1
    assert space.dot((outer, inner), (12, 1)) == j


def test_a_quotient_that_a_split_loop_would_make_affine_is_wished_for() -> None:
    space = Space()
    j = space.axis("j", 96)
    space.floordiv(j, 12)
    ((var, sizes),) = space.splits.items()
    assert isinstance(var, Var)
    assert sizes == {12}

    space = Space()
    outer = space.axis("a", 8)
    assert space.floordiv(space.add(space.scale(outer, 12), space.axis("b", 12)), 12) == outer
    assert not space.splits


@pytest.mark.parametrize(
    ("sizes", "extents", "chunk"),
    [((3, 4, 5), (60,), 0), ((3, 4, 5), (3, 20), 0), ((6, 4), (2, 3, 4), 0), ((7, 9), (63,), 16), ((1, 5, 1), (5,), 2)],
)
def test_axes_of_any_factors_visit_every_index_once_and_in_order(
    sizes: tuple[int, ...], extents: tuple[int, ...], chunk: int
) -> None:
    builder = KernelBuilder()
    axes, index = make_axes(builder, sizes, extents, "i", chunk)
    seen = []

    def walk(rest, machine: Machine) -> None:
        if not rest:
            seen.append(tuple(int(machine.eval(builder.space.expression(a))) for a in index))
            return
        for i in range(int(machine.eval(rest[0].bound))):
            machine.env[rest[0].var.name] = np.array(i, np.int64)
            walk(rest[1:], machine)

    walk(axes, Machine({}))
    assert seen == list(itertools.product(*(range(n) for n in sizes)))
    assert len(seen) == math.prod(sizes)


def test_axes_of_one_iteration_need_no_loop() -> None:
    axes, index = make_axes(KernelBuilder(), (1, 4, 1), trivial_extents((1, 4, 1)), "i")
    assert len(axes) == 1
    assert index[0] == index[2] == Affine()
