"""Products of one left operand by several weights, as one: q, k and v in one kernel, with an epilogue each.

In setup the weights are copied side by side into one matrix, row by row of k, which is also how a tile reads fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from rlx.backends.webgpu.matmul import Part, bind_arguments, offset, product_kernel, template
from rlx.codegen.kernel import Cost, Memory, TemplateKernel
from rlx.codegen.lower import Epilogue, JoinedKernels, MatmulSpec
from rlx.codegen.wgsl import WgslTarget
from rlx.codegen.wgsl.body import BodyEmitter
from rlx.codegen.wgsl.kernel import Shader, module_source, workgroup_grid

_WORKGROUP = 256


def joined_kernels(
    specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue], target: WgslTarget
) -> JoinedKernels | None:
    """The kernels; None where the products are left to themselves."""
    first = specs[0]
    columns = [math.prod(s.n) for s in specs]
    starts = [0, *accumulate(columns)]
    width = starts.pop()
    if any(s.a_dtype is not first.a_dtype or s.acc_dtype is not first.acc_dtype or s.batch for s in specs):
        return None
    weights = Memory("joined", first.b_dtype, (width, 1))
    rows, depth = math.prod(first.m), math.prod(first.k)
    if first.b_dtype.itemsize * max(rows * depth, depth * width, rows * width) > target.max_binding_bytes:
        return None  # a product by itself can be divided
    whole = replace(first, b=replace(weights, strides=_row_major(first.k, width)), n=(width,))
    parts = [Part(start, s.m, s.n, end) for start, s, end in zip(starts, specs, epilogues, strict=True)]
    compute = product_kernel(whole, parts, target)
    if compute is None:
        return None
    size = first.b_dtype.itemsize
    packs = tuple(_pack(spec, replace(weights, writable=True), width, target) for spec in specs)
    return JoinedKernels(packs, tuple(start * size for start in starts), depth * width * size, compute)


def _row_major(k: Sequence[int], width: int) -> tuple[int, ...]:
    """Strides over (*k, n) of rows of `width`."""
    steps = [width]
    for n in reversed(k[1:]):
        steps.insert(0, steps[0] * n)
    return (*steps[-len(k) :], 1) if k else (1,)


def _pack(spec: MatmulSpec, joined: Memory, width: int, target: WgslTarget) -> TemplateKernel:
    """Copies one part's weights to its columns."""
    n, k = math.prod(spec.n), math.prod(spec.k)
    args = (spec.b, joined)
    strides = [int(s) for s in spec.b.strides]

    def shader(bases: Sequence[int]) -> Shader:
        emitter = BodyEmitter(target)
        declarations = bind_arguments(emitter, args, {joined.name}, bases)
        group, across, rows = workgroup_grid(-(-n * k // _WORKGROUP))
        line = emitter.line
        line(f"let flat = i32({group} * {_WORKGROUP}u + local);")
        line(f"if (flat >= {n * k}) {{ return; }}")
        line(f"let k = flat / {n};")
        line(f"let n = flat % {n};")
        source = offset("k", spec.k, strides[: len(spec.k)]) + " + " + offset("n", spec.n, strides[len(spec.k) :])
        line(f"a1[{bases[1]} + k * {width} + n] = a0[{bases[0]} + {source}];")
        return Shader(module_source(declarations, emitter.lines, _WORKGROUP), 2, (across, rows))

    return template("pack", args, n * k, shader, Cost(0.0, 8.0 * n * k))
