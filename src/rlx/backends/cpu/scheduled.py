"""Templates under given schedules, which also tell what there is to schedule.

A site is one product or convolution as the lowering asks for it, whatever its schedule: its text names all that the
time of its kernel depends on but the schedule and the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rlx.backends.cpu.conv import conv_identity, conv_kernels, pixels_of
from rlx.backends.cpu.conv_pixels import PixelPlan
from rlx.backends.cpu.gemm_joined import joined_kernels, joined_product
from rlx.backends.cpu.gemm_schedule import Schedule
from rlx.backends.cpu.matmul import epilogue_identity, matmul_kernels, matmul_product
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.lower.templates import (
    ConvKernels,
    ConvSpec,
    Epilogue,
    JoinedKernels,
    MatmulKernels,
    MatmulSpec,
)
from rlx.codegen.target import Target
from rlx.options import Convolution

#: What a kernel is made under.
Choice = Schedule | PixelPlan


class Choices(Protocol):
    """What there is to choose for one kernel; any two choices give the same bits."""

    @property
    def default(self) -> Choice:
        """The planner's choice."""
        ...

    def other_tiles(self) -> list[Any]:
        """Choices with other tiles than the default's, the most promising first."""
        ...

    def other_cuts(self, choice: Any) -> list[Any]:
        """Choices with the same tile that differ from one in one respect."""
        ...

    def allows(self, choice: Any) -> bool:
        """Whether there is code for a choice."""
        ...


class ScheduledTemplates(CpuTemplates):
    """`CpuTemplates` with a schedule for each site in `schedules`, and the planner's choice for the others.

    choices: site -> what there is to choose, in the order in which the lowering asked.
    sites: identity of a kernel -> its site.
    One lowering's; not for several threads.
    """

    def __init__(self, target: Target, convolution: Convolution, schedules: Mapping[str, Any]) -> None:
        super().__init__(target, convolution)
        self.schedules = schedules
        self.choices: dict[str, Choices] = {}
        self.sites: dict[str, str] = {}

    def matmul(self, spec: MatmulSpec, epilogue: Epilogue) -> MatmulKernels | None:
        product = matmul_product(self.target, spec)
        if product is None:
            return super().matmul(spec, epilogue)
        site = f"matmul {_of_spec(spec)} {epilogue_identity(epilogue)}"
        kernels = matmul_kernels(self.target, spec, epilogue, self.schedules.get(site))
        if kernels is not None:
            self._note(site, product, kernels.compute.identity)
        return kernels

    def joined(self, specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue]) -> JoinedKernels | None:
        product = joined_product(self.target, specs, epilogues)
        if product is None:
            return None
        parts = [*map(_of_spec, specs), *map(epilogue_identity, epilogues)]
        site = f"{'paired' if product.paired else 'joined'} {' '.join(parts)}"
        kernels = joined_kernels(self.target, specs, epilogues, self.schedules.get(site))
        if kernels is not None:
            self._note(site, product, kernels.compute.identity)
        return kernels

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels | None:
        pixels = pixels_of(self.target, spec, epilogue, self.convolution)
        if pixels is None:
            return super().conv(spec, epilogue)
        site = f"conv {conv_identity(spec)} {epilogue_identity(epilogue)}"
        kernels = conv_kernels(self.target, spec, epilogue, self.convolution, self.schedules.get(site))
        if kernels is not None:
            self._note(site, pixels, kernels.compute.identity)
        return kernels

    @property
    def chosen(self) -> dict[str, str]:
        """Identity of each kernel that runs a given schedule -> that schedule, in words."""
        return {kernel: str(self.schedules[site]) for kernel, site in self.sites.items() if site in self.schedules}

    def _note(self, site: str, choices: Choices, identity: str) -> None:
        self.choices.setdefault(site, choices)
        self.sites[identity] = site


def _of_spec(spec: MatmulSpec) -> str:
    """A spec's dtypes, sizes, strides and constants, without names."""
    sizes = "x".join(str(list(group)) for group in (spec.batch, spec.m, spec.n, spec.k))
    a = f"a{list(spec.a.strides)}{' constant' if spec.a_constant else ''}"
    b = f"b{list(spec.b.strides)}{' constant' if spec.b_constant else ''}"
    return f"{spec.a_dtype}x{spec.b_dtype}->{spec.acc_dtype} {sizes} {a} {b}"
