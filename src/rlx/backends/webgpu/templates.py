"""Kernels that loops cannot express well, for WebGPU: matrix products, convolutions, attention."""

from __future__ import annotations

from collections.abc import Sequence

from rlx.backends.webgpu.attention import attention_kernel
from rlx.backends.webgpu.conv import conv_kernel
from rlx.backends.webgpu.joined import joined_kernels
from rlx.backends.webgpu.matmul import tiled_matmul
from rlx.codegen.kernel import TemplateKernel
from rlx.codegen.lower import AttentionSpec, ConvKernels, ConvSpec, Epilogue, JoinedKernels, MatmulKernels, MatmulSpec
from rlx.codegen.wgsl import WgslTarget


class WebGpuTemplates:
    """See `rlx.codegen.lower.Templates`."""

    def __init__(self, target: WgslTarget) -> None:
        self.target = target

    def matmul(self, spec: MatmulSpec, epilogue: Epilogue) -> MatmulKernels | None:
        kernel = tiled_matmul(spec, epilogue, self.target)
        return None if kernel is None else MatmulKernels(None, 0, kernel)

    def joined(self, specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue]) -> JoinedKernels | None:
        paired = len(epilogues) < len(specs)
        return None if paired else joined_kernels(specs, epilogues, self.target)

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels | None:
        kernel = conv_kernel(spec, epilogue, self.target)
        return None if kernel is None else ConvKernels(None, 0, kernel)

    def attention(self, spec: AttentionSpec, epilogue: Epilogue) -> TemplateKernel | None:
        return attention_kernel(spec, epilogue, self.target)
