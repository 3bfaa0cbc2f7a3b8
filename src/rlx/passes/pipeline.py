"""The passes in order."""

from __future__ import annotations

from collections.abc import Callable

from rlx.ir.graph import Graph
from rlx.passes.channel_maps import fold_channel_maps
from rlx.passes.cse import eliminate_common
from rlx.passes.dead import eliminate_dead
from rlx.passes.fold import fold_constants
from rlx.passes.inline import inline_composites
from rlx.passes.precision import apply_precision
from rlx.passes.simplify import simplify
from rlx.passes.weights_first import weights_first

Pass = Callable[[Graph], Graph]

#: What a level adds to inlining, in order; run until nothing changes.
CLEANUPS: tuple[Pass, ...] = (fold_constants, simplify, fold_channel_maps, eliminate_common, eliminate_dead)
ROUNDS = 4


def optimize(
    graph: Graph,
    *,
    claimed: frozenset[str] = frozenset(),
    level: int = 2,
    precision: str = "f32",
    verify: Callable[[Graph], None] | None = None,
) -> Graph:
    """`graph` in primitives and claimed composites, simplified; outputs keep their bits, but for `precision`.

    claimed: composites that the backend compiles natively: they stay.
    level: 0 only inlines, 1 cleans up once, 2 until nothing changes, and turns products so that attention is found.
    precision: a policy of `rlx.passes.precision`, applied last.
    verify: called with the graph after every pass.
    """

    def run(graph: Graph, step: Pass) -> Graph:
        after = step(graph)
        if verify is not None and after is not graph:
            verify(after)
        return after

    graph = run(graph, lambda g: inline_composites(g, claimed))
    for _ in range((0, 1, ROUNDS)[level]):
        before = graph
        for step in CLEANUPS:
            graph = run(graph, step)
        if graph is before:
            break
    if level == 2:
        graph = run(graph, weights_first)
    return run(graph, lambda g: apply_precision(g, precision))
