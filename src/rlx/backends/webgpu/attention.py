"""Attention as one kernel (`attention_shader`): which attentions are, and how launches divide them.

Launches divide attention by batches and queries, whose keys stay whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rlx.backends.webgpu.attention_shader import KEYS, AttentionShader, Blocks
from rlx.backends.webgpu.division import Ranges
from rlx.backends.webgpu.matmul import template
from rlx.backends.webgpu.shares import Share, axes_of
from rlx.codegen.kernel import Cost, Memory, Store, TemplateKernel
from rlx.codegen.lower import AttentionSpec, Epilogue
from rlx.codegen.wgsl import WgslTarget
from rlx.codegen.wgsl.interval import Interval
from rlx.codegen.wgsl.kernel import Shader
from rlx.ir import dtypes

_LONGEST = 256


def attention_kernel(spec: AttentionSpec, epilogue: Epilogue, target: WgslTarget) -> TemplateKernel | None:
    """The kernel, with arguments (q, k, v, *scores.args, *epilogue.args); None where it is left to other kernels."""
    batch, m, n, d, e = (math.prod(s) for s in (spec.batch, spec.m, spec.n, spec.d, spec.e))
    if spec.cleared or spec.dtype is not dtypes.f32 or m < 8 or n < 8 or not 0 < d <= _LONGEST or e > _LONGEST:
        return None
    args = (spec.q, spec.k, spec.v, *spec.scores.args, *epilogue.args)
    blocks = Blocks.of(m, d, e, target.workgroup_bytes)
    if len(args) > target.max_bindings or blocks is None:
        return None
    if target.max_turns and blocks.turns(d, e) * (-(-n // KEYS) + 1) > target.max_turns:
        return None
    scored = batch * m * n
    flops = scored * (2.0 * (d + e) + 8 + spec.scores.flops) + batch * m * e * epilogue.flops
    cost = Cost(flops, 4.0 * batch * (m * d + n * d + n * e + m * e))

    division = _Division(spec, epilogue, args, target)
    if not _can_be_bound(division, target):
        return None  # one query's keys are too many bindings: products can be divided further
    kernel = template("attention", args, batch * m * e, lambda bases: division.shader({}, bases), cost)
    return replace(kernel, division=division)


def _can_be_bound(division: _Division, target: WgslTarget) -> bool:
    """Whether one query's launch binds few enough parts of its operands, wherever they will lie."""
    count = 0
    for memory, reach in zip(division.args, division.touched(dict.fromkeys(division.axes, (0, 1))), strict=True):
        size = 0 if reach is None else (reach[1] - reach[0] + 1) * memory.dtype.itemsize
        count += 1 if size <= target.max_binding_bytes else 2 + size // target.max_binding_bytes
    return count <= target.max_bindings


class _Division:
    """How attention can be divided: by batches and queries. See `division.Division`."""

    handed = ()

    def __init__(self, spec: AttentionSpec, epilogue: Epilogue, args: tuple[Memory, ...], target: WgslTarget) -> None:
        self.spec, self.epilogue, self.args, self.target = spec, epilogue, args, target
        self.groups = {"batch": spec.batch, "m": spec.m, "n": spec.n, "d": spec.d, "e": spec.e}
        self.axes = axes_of({"batch": spec.batch, "m": spec.m})

    def touched(self, ranges: Ranges) -> list[Interval | None]:
        share, spec, end = Share(self.groups, ranges), self.spec, self.epilogue
        scores = spec.scores
        score = (Store(Memory("none", spec.dtype, ()), (), scores.value),)
        return [
            share.reach(("batch", "m", "d"), spec.q.strides),
            share.reach(("batch", "n", "d"), spec.k.strides),
            share.reach(("batch", "n", "e"), spec.v.strides),
            *share.touched_by(score, scores.index, ("batch", "m", "n"), scores.args),
            *share.touched_by(end.stores, end.index, ("batch", "m", "e"), end.args),
        ]

    def shader(self, ranges: Ranges, bases: Sequence[int]) -> Shader:
        share, spec = Share(self.groups, ranges), self.spec
        (q, k, v), rest = bases[:3], bases[3:]
        q += share.shift(("batch", "m", "d"), spec.q.strides)
        k += share.shift(("batch", "n", "d"), spec.k.strides)
        v += share.shift(("batch", "n", "e"), spec.v.strides)
        causal = spec.causal
        if causal is not None and len(spec.m) == 1:
            causal += share.starts["m"][0]
        part = replace(spec, batch=share.sizes["batch"], m=share.sizes["m"], causal=causal)
        m, d, e = (math.prod(sizes) for sizes in (part.m, part.d, part.e))
        blocks = Blocks.of(m, d, e, self.target.workgroup_bytes)
        assert blocks is not None, "there are blocks for more queries"
        return AttentionShader(part, self.epilogue, self.args, self.target, blocks, (q, k, v, *rest), share).shader()
