"""Whether and how a convolution goes through Winograd's minimal filtering: a small model of time, not a search.

Counted in multiply-adds of one vector: the products, the transforms, transformed inputs that a panel finds no longer in
the second-level cache, and, where they take longer than the products, the transformed weights on their way from memory.
Small images and few channels stay with the direct sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlx.backends.cpu.conv_band import Plane
from rlx.backends.cpu.gemm_tile import registers
from rlx.backends.cpu.winograd_transform import FILTERINGS
from rlx.codegen.lower.templates import ConvSpec
from rlx.codegen.target import Target
from rlx.ir.dtypes import f32
from rlx.options import Convolution

#: Outputs along one dimension of the largest tile that each policy allows.
LARGEST: dict[Convolution, int] = {"direct": 1, "winograd-2x2": 2, "winograd-4x4": 4}
#: A step of the direct sum over one of products; a transform's element; a line of weights from memory; a line of inputs
#: from the third-level cache.
_DIRECT, _ELEMENT, _FETCH, _NEAR = 1.05, 6.0, 10.0, 2.0
#: Independent accumulators that keep the multiply-add units busy; what a load adds; what a tile's end adds a vector.
_CHAINS, _LOAD, _TILE_END = 8, 0.1, 4.0
#: Numbers of threads that splits are balanced for.
_THREADS = (1, 2, 4)


@dataclass(frozen=True)
class WinogradPlan:
    """How a convolution is cut.

    outputs: the filtering's, along one dimension. tiles, panels: of a grid index. rows, vectors: the register tile.
    """

    outputs: int
    tiles: int
    panels: int
    rows: int
    vectors: int


def plan_winograd(target: Target, spec: ConvSpec, plane: Plane, convolution: Convolution) -> WinogradPlan | None:
    """The cheapest plan that `convolution` allows; None where the direct sum is cheaper.

    spec: of one group, taken by the channels-last kernels. Kernels of 3 x 3 without stride and dilation, all in f32,
    whole vectors of channels that are neighbours in memory.
    """
    lanes = target.lanes(32)
    fits = (
        all(dtype is f32 for dtype in (spec.x_dtype, spec.w_dtype, spec.acc_dtype))
        and spec.groups == 1
        and spec.kernel == (3, 3)
        and spec.strides == spec.rhs_dilation == (1, 1)
        and plane.channels % lanes == 0
        and plane.strides[3] == 1
    )
    if not fits:
        return None
    pixels = spec.batch * plane.out[0] * plane.out[1]
    features = -(-spec.features // lanes)
    best, found = _DIRECT * pixels * 9 * plane.channels * features, None
    for outputs in FILTERINGS:
        if outputs <= LARGEST[convolution]:
            cost, plan = _cheapest(target, spec, plane, outputs)
            if cost < best:
                best, found = cost, plan
    return found


def _cheapest(target: Target, spec: ConvSpec, plane: Plane, outputs: int) -> tuple[float, WinogradPlan]:
    lanes, channels = target.lanes(32), plane.channels
    positions = FILTERINGS[outputs].positions
    tiles = spec.batch * -(-plane.out[0] // outputs) * -(-plane.out[1] // outputs)
    most = max(1, min(target.l2 // 4 // (channels * 4), target.l3 // 4 // (positions * channels * 4)))
    best: tuple[float, WinogradPlan] | None = None
    for vectors in (1, 2, 3, 4, 6):
        panels = -(-spec.features // (vectors * lanes))
        if vectors > 1 and (vectors - 1) * lanes >= spec.features:
            break
        limit = (registers(target) - 1 - vectors - (not target.has_fma)) // vectors
        for blocks in range(-(-tiles // most), tiles + 1):
            taken = -(-tiles // blocks)
            if -(-tiles // taken) != blocks or (taken < limit and blocks > -(-tiles // most) and blocks > 8):
                continue
            calls = -(-taken // max(limit, 1))
            rows = -(-taken // calls)
            for share in sorted({-(-panels // n) for n in range(1, panels + 1)}, reverse=True):
                plan = WinogradPlan(outputs, taken, share, rows, vectors)
                cost = _cost(target, plan, positions, channels, blocks, -(-panels // share))
                if best is None or cost < best[0] * 0.999:
                    best = cost, plan
    assert best is not None
    return best


def _cost(target: Target, plan: WinogradPlan, positions: int, channels: int, blocks: int, parts: int) -> float:
    """Time of all items, as the threads that splits are balanced for take it in the mean."""
    inputs = positions * plan.tiles * channels / target.lanes(32)

    def product(rows: int) -> float:
        step = max(rows * plan.vectors, _CHAINS) + _LOAD * (rows + plan.vectors)
        return channels * step + _TILE_END * rows * plan.vectors

    whole, rest = divmod(plan.tiles, plan.rows)
    panel = positions * (whole * product(plan.rows) + (product(rest) if rest else 0.0))
    panel = max(panel, _FETCH * positions * channels * plan.vectors)
    panel += _ELEMENT * positions * plan.tiles * plan.vectors
    if inputs * target.vector_bits // 8 > target.l2 // 2:
        panel += _NEAR * inputs
    work = plan.panels * panel + _ELEMENT * inputs
    items = blocks * parts
    return work * sum(-(-items // threads) * threads for threads in _THREADS) / len(_THREADS)
