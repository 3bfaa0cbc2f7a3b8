"""Templates under given schedules, which also tell what there is to schedule.

A site is one product as the lowering asks for it, whatever its schedule: its text names all that the time of its kernel
depends on but the schedule and the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlx.backends.cpu.gemm_joined import joined_kernels, joined_product
from rlx.backends.cpu.gemm_schedule import Product, Schedule
from rlx.backends.cpu.matmul import epilogue_identity, matmul_kernels, matmul_product
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.codegen.lower.templates import Epilogue, JoinedKernels, MatmulKernels, MatmulSpec
from rlx.codegen.target import Target
from rlx.options import Convolution


class ScheduledTemplates(CpuTemplates):
    """`CpuTemplates` with a schedule for each site in `schedules`, and the planner's choice for the others.

    products: site -> what its schedules are chosen for, in the order in which the lowering asked.
    sites: identity of a kernel -> its site.
    One lowering's; not for several threads.
    """

    def __init__(self, target: Target, convolution: Convolution, schedules: Mapping[str, Schedule]) -> None:
        super().__init__(target, convolution)
        self.schedules = schedules
        self.products: dict[str, Product] = {}
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

    @property
    def chosen(self) -> dict[str, str]:
        """Identity of each kernel that runs a given schedule -> that schedule, in words."""
        return {kernel: str(self.schedules[site]) for kernel, site in self.sites.items() if site in self.schedules}

    def _note(self, site: str, product: Product, identity: str) -> None:
        self.products.setdefault(site, product)
        self.sites[identity] = site


def _of_spec(spec: MatmulSpec) -> str:
    """A spec's dtypes, sizes, strides and constants, without names."""
    sizes = "x".join(str(list(group)) for group in (spec.batch, spec.m, spec.n, spec.k))
    a = f"a{list(spec.a.strides)}{' constant' if spec.a_constant else ''}"
    b = f"b{list(spec.b.strides)}{' constant' if spec.b_constant else ''}"
    return f"{spec.a_dtype}x{spec.b_dtype}->{spec.acc_dtype} {sizes} {a} {b}"
