"""What the CPU offers beyond loops: `CpuTemplates` turns specs into kernels of our own for one target.

A spec is refused (None: the lowering writes plain loops) where it holds no element, its strides are known at run time
only, or its dtype is one that vectors do not hold (complex, bool, integers other than 32-bit sums).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlx.backends.cpu.attention import attention_kernel
from rlx.backends.cpu.conv import conv_kernels
from rlx.backends.cpu.gemm_joined import joined_kernels
from rlx.backends.cpu.matmul import matmul_kernels
from rlx.codegen.kernel import TemplateKernel
from rlx.codegen.lower.templates import (
    AttentionSpec,
    ConvKernels,
    ConvSpec,
    Epilogue,
    JoinedKernels,
    MatmulKernels,
    MatmulSpec,
)
from rlx.codegen.target import Target
from rlx.options import Convolution


class CpuTemplates:
    """The matrix, convolution and attention templates for `target`; pure, so any thread may use it.

    convolution: what `Options.convolution` allows.
    """

    def __init__(self, target: Target, convolution: Convolution = "direct") -> None:
        self.target = target
        self.convolution: Convolution = convolution

    def matmul(self, spec: MatmulSpec, epilogue: Epilogue) -> MatmulKernels | None:
        return matmul_kernels(self.target, spec, epilogue)

    def joined(self, specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue]) -> JoinedKernels | None:
        return joined_kernels(self.target, specs, epilogues)

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels | None:
        return conv_kernels(self.target, spec, epilogue, self.convolution)

    def attention(self, spec: AttentionSpec, epilogue: Epilogue) -> TemplateKernel | None:
        return attention_kernel(self.target, spec, epilogue)
