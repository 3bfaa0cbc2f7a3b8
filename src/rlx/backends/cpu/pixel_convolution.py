"""What the kernels of channels-last convolutions have in common: an image read in place, and sums of one dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlx.backends.cpu.conv_band import Plane
from rlx.codegen.lower.templates import ConvSpec, Epilogue
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType


@dataclass(frozen=True, eq=False)
class PixelConvolution:
    """A convolution of `plane` for `target`, whose image and result lie channels last."""

    target: Target
    spec: ConvSpec
    epilogue: Epilogue
    plane: Plane

    @property
    def dtype(self) -> DType:
        """Of the sums."""
        return self.spec.acc_dtype

    @property
    def lanes(self) -> int:
        """Features in one register."""
        return self.target.lanes(self.dtype.bits)


class PanelPlan(Protocol):
    """What says how wide a panel is."""

    @property
    def vectors(self) -> int:
        """Registers of features in a panel."""
        ...


@dataclass(frozen=True, eq=False)
class PanelConvolution(PixelConvolution):
    """One whose packed weights lie in panels of features."""

    plan: PanelPlan

    @property
    def width(self) -> int:
        """Features of a panel."""
        return self.plan.vectors * self.lanes

    @property
    def panels(self) -> int:
        return -(-self.spec.features // self.width)
