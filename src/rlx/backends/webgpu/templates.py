"""Kernels that loops cannot express well, for WebGPU: none yet takes a spec, so products run as loops."""

from __future__ import annotations

from rlx.codegen.lower import ConvKernels, ConvSpec, Epilogue, MatmulKernels, MatmulSpec
from rlx.codegen.wgsl import WgslTarget


class WebGpuTemplates:
    """See `rlx.codegen.lower.Templates`."""

    def __init__(self, target: WgslTarget) -> None:
        self.target = target

    def matmul(self, spec: MatmulSpec, epilogue: Epilogue) -> MatmulKernels | None:
        return None

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels | None:
        return None
