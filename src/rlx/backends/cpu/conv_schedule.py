"""What there is to choose about a channels-last convolution: for one `Pixels`, which plans there are.

No choice changes an answer: the order of sums depends on nothing but the convolution (see `conv_tile`).
The planner's choice is the default. The others are found as those of products are (see `gemm_schedule`): other tiles,
each cut as the planner would cut it; then other cuts of one plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from rlx.backends.cpu.conv_band import Plane
from rlx.backends.cpu.conv_pixels import PixelPlan, choose_tile, most_pixels, plan_tile, tile_costs
from rlx.codegen.lower.templates import ConvSpec
from rlx.codegen.target import Target

#: Tiles are alternatives that the model of cycles puts within this factor of the best, and so many at most.
_WITHIN, _TILES = 1.3, 6


@dataclass(frozen=True, eq=False)
class Pixels:
    """What a plan is chosen for: a convolution that `PixelKernel` computes."""

    target: Target
    spec: ConvSpec
    plane: Plane

    def __str__(self) -> str:
        spec = self.spec
        kernel, out = ("x".join(map(str, sizes)) for sizes in (spec.kernel, spec.out))
        return f"{f'{spec.batch} of ' if spec.batch > 1 else ''}{spec.channels}->{spec.features}, {kernel} at {out}"

    @cached_property
    def default(self) -> PixelPlan:
        """The planner's choice."""
        return plan_tile(self.target, self.spec, self.plane, choose_tile(self.target, self.spec, self.plane))

    def other_tiles(self) -> list[PixelPlan]:
        """Plans with other tiles than the default's, the most promising first."""
        costs = sorted(tile_costs(self.target, self.spec, self.plane), key=lambda found: found[0])
        tiles = [tile for cost, tile in costs if cost <= _WITHIN * costs[0][0]]
        plans = [plan_tile(self.target, self.spec, self.plane, tile) for tile in tiles]
        return [plan for plan in plans if plan != self.default][:_TILES]

    def other_cuts(self, plan: PixelPlan) -> list[PixelPlan]:
        """Plans with the tile of `plan` that differ from it in the bands or in the blocks."""
        height, panels = self.plane.out[0], self._panels(plan)
        lines = -(-plan.band // plan.rows)
        bands = {min(height, n * plan.rows) for n in (lines // 2, lines * 2, -(-height // plan.rows)) if n}
        blocks = {n for n in (1, plan.panels // 2, min(panels, plan.panels * 2), panels) if n}
        found = [replace(plan, band=band) for band in sorted(bands)]
        found += [replace(plan, panels=block) for block in sorted(blocks)]
        return [other for other in found if other != plan and self.allows(other)]

    def allows(self, plan: PixelPlan) -> bool:
        """Whether there is code for a plan."""
        height, width = self.plane.out
        if min(plan.rows, plan.columns, plan.vectors, plan.band, plan.panels) < 1:
            return False
        if plan.rows > height or plan.columns > width or (plan.rows > 1 and plan.columns != width):
            return False
        if plan.rows * plan.columns > most_pixels(self.target, plan.vectors):
            return False
        if plan.band != height and (plan.band > height or plan.band % plan.rows):
            return False
        return plan.panels <= self._panels(plan)

    def _panels(self, plan: PixelPlan) -> int:
        return -(-self.spec.features // (plan.vectors * self.target.lanes(self.spec.acc_dtype.bits)))
