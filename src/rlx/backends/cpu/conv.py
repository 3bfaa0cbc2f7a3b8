"""Convolutions as matrix products: weights by rows, output pixels by columns, panels gathered from the image.

out[n, g, o, pixel] = sum over k = (channel, kernel position) of w[g, o, k] * image[n, g, k, pixel]. A kernel of one
position without stride or padding reads the image as it lies; other kernels go through `im2col`, whose panels live in
scratch memory and are read once for each tile of output channels. One image channel a group (depthwise) has a kernel of
its own; transposed convolutions become ordinary ones (conv_phases).
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from llvmlite import ir

from rlx.backends.cpu import gemm_amx
from rlx.backends.cpu.conv_band import Plane
from rlx.backends.cpu.conv_phases import Phases, splits_into_phases
from rlx.backends.cpu.conv_pixels import (
    PixelKernel,
    PixelPlan,
    channels_together,
    is_channels_last,
    pixel_kernel,
    plane_of,
)
from rlx.backends.cpu.conv_schedule import Pixels
from rlx.backends.cpu.depthwise import depthwise_kernel, takes
from rlx.backends.cpu.depthwise_pixels import DepthwisePixels
from rlx.backends.cpu.gemm import ProductKernel
from rlx.backends.cpu.gemm_epilogue import TileWriter
from rlx.backends.cpu.gemm_operand import Panels
from rlx.backends.cpu.gemm_plan import choose_blocks, choose_tile
from rlx.backends.cpu.gemm_view import Dims, MatrixView, dims, split_index
from rlx.backends.cpu.im2col import PanelsOfImage
from rlx.backends.cpu.image_reader import ImageReader
from rlx.backends.cpu.matmul import epilogue_identity, matmul_kernels, panels_of, rows_operand, supported
from rlx.backends.cpu.winograd import WinogradKernel
from rlx.backends.cpu.winograd_plan import plan_winograd
from rlx.codegen.kernel import Cost, Memory, TemplateKernel
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64
from rlx.codegen.lower.templates import ConvKernels, ConvSpec, Epilogue, MatmulSpec
from rlx.codegen.target import Target
from rlx.ir import dtypes
from rlx.ir.graph import Node
from rlx.options import Convolution
from rlx.passes.transposed_conv import is_transposed

#: Features from which on a convolution fills vectors with them.
_FEATURES = 8


def prefers_channels_last(node: Node) -> bool:
    """Whether a convolution runs best where its values lie channels last: the layout pass asks."""
    attrs: Any = node.attrs
    x, w = node.inputs
    out = node.output.type.sizes[2:]
    return (
        x.type.dtype in (dtypes.f32, dtypes.f64, dtypes.f16, dtypes.bf16)
        and len(out) in (1, 2)
        and prod(out) > 1
        and w.type.sizes[0] >= _FEATURES
        and attrs["groups"] in (1, w.type.sizes[0])
        and (attrs["groups"] == 1 or x.type.sizes[1] == attrs["groups"])
        and (is_transposed(node) or all(d == 1 for d in attrs["lhs_dilation"]))
    )


def pixels_of(target: Target, spec: ConvSpec, epilogue: Epilogue, convolution: Convolution = "direct") -> Pixels | None:
    """What a plan is chosen for, where pixels by features are how a spec is computed; else None."""
    if not _is_taken(spec) or not is_channels_last(spec, epilogue) or spec.groups != 1:
        return None
    plane = plane_of(spec, channels_together(target, spec))
    by_pixels = not (takes(spec) and spec.x.strides[1] == 1) and not plan_winograd(target, spec, plane, convolution)
    by_pixels = by_pixels and _product_of_pixels(target, spec, plane) is None
    return Pixels(target, spec, plane) if by_pixels else None


def _is_taken(spec: ConvSpec) -> bool:
    """Whether any kernel here takes a spec: its dtypes, its sizes, and strides that are known."""
    sizes = (spec.batch, spec.channels, spec.features, *spec.size, *spec.kernel, *spec.out)
    if not supported(spec.x_dtype, spec.w_dtype, spec.acc_dtype) or 0 in sizes or not spec.out:
        return False
    strides = (*spec.x.strides, *spec.w.strides, spec.x.offset, spec.w.offset)
    return all(isinstance(s, int) for s in strides) and not spec.x.offset and not spec.w.offset


def conv_kernels(
    target: Target,
    spec: ConvSpec,
    epilogue: Epilogue,
    convolution: Convolution = "direct",
    plan: PixelPlan | None = None,
) -> ConvKernels | None:
    """The kernels for a spec, or None where loops should do it; `convolution` is what `Options` allow.

    plan: one that `pixels_of` the spec allows; the planner's choice where it is None.
    """
    dtype = spec.acc_dtype
    if not _is_taken(spec):
        return None
    if is_channels_last(spec, epilogue):
        if takes(spec) and spec.x.strides[1] == 1:
            return _depthwise_channels_last(target, spec, epilogue)
        if spec.groups == 1:
            plane = plane_of(spec, channels_together(target, spec))
            winograd = plan_winograd(target, spec, plane, convolution)
            if winograd:
                return channels_last_kernels(target, WinogradKernel(target, spec, epilogue, plane, winograd))
            product = _product_of_pixels(target, spec, plane)
            if product is not None:
                return _as_product(target, product, epilogue)
            return channels_last_kernels(target, pixel_kernel(target, spec, epilogue, plan))
    if spec.size[-1] > 1 and spec.x.strides[-1] != 1:
        return None  # gathering pixel by pixel costs more than a dense copy
    if takes(spec):
        return _depthwise(target, spec, epilogue)
    whole, whole_epilogue, left, phases = spec, epilogue, None, ()
    if splits_into_phases(spec):
        rewriting = Phases(spec)
        spec, epilogue = rewriting.spec, rewriting.epilogue(epilogue)
        left, phases = rewriting.weights(target), rewriting.counts
    features, channels = spec.features // spec.groups, spec.channels // spec.groups
    matrices, columns, depth = spec.batch * spec.groups, prod(spec.out), channels * prod(spec.kernel)
    tile = choose_tile(target, dtype, matrices, features, columns, depth)
    if left is None:
        left = rows_operand(target, spec.w, _weights(spec), spec.w_constant, dtype, tile, columns)
    panels: Panels
    if _is_pointwise(spec):
        panels = panels_of(_pixels(spec), dtype, tile, features)
    else:
        panels = PanelsOfImage(ImageReader(spec, dtype, target.lanes(dtype.bits)), tile.columns)
    panels_first = left.lies_well and panels.scratch_bytes > 0
    blocks = choose_blocks(target, dtype, tile, matrices, features, columns, depth, panels_first=panels_first)
    rows = left.read(blocks, features)

    def place(e: FunctionEmitter, matrix: ir.Value, row: ir.Value) -> list[ir.Value]:
        image, group = split_index(e, matrix, (spec.batch, spec.groups))
        feature, *phase = split_index(e, row, (features // prod(phases), *phases))
        return [image, e.integer_add(e.integer_mul(group, I64(features // prod(phases))), feature), *phase]

    kernel = ProductKernel(
        target,
        dtype,
        matrices,
        features,
        columns,
        depth,
        tile,
        blocks,
        rows,
        panels,
        TileWriter(epilogue, place, spec.out, dtype, tile.columns),
    )
    compute = TemplateKernel(
        label="conv",
        args=(spec.x, left.memory, *epilogue.args),
        grid=kernel.grid,
        identity=f"conv {target.name} {conv_identity(whole)} {type(rows).__name__} {left.view.unnamed} "
        f"{type(panels).__name__} {tile} {blocks} {epilogue_identity(whole_epilogue)}",
        emit=kernel.emit,
        cost=conv_cost(whole, whole_epilogue),
        scratch_bytes=kernel.scratch_bytes,
    )
    return ConvKernels(left.pack, left.packed_nbytes, compute, in_place=epilogue is whole_epilogue)


def _product_of_pixels(target: Target, spec: ConvSpec, plane: Plane) -> MatmulSpec | None:
    """Pixels by weights, where a kernel of one position is best computed so: in matrix registers. None elsewhere."""
    one_position = prod(spec.kernel) == 1 and plane.steps == (1, 1) and plane.is_inside
    if plane.together == 1 or not one_position or not plane.holds_words:
        return None
    if not gemm_amx.suits(target, spec.batch * prod(spec.out), plane.words):
        return None
    image, *space, channel = plane.strides
    features, channels, *_ = spec.w.strides
    return MatmulSpec(
        a_dtype=spec.x_dtype,
        b_dtype=spec.w_dtype,
        acc_dtype=spec.acc_dtype,
        batch=(),
        m=(spec.batch, *spec.out),
        n=(spec.features,),
        k=(spec.channels,),
        a=Memory(spec.x.name, spec.x_dtype, (image, *space[2 - len(spec.out) :], channel)),
        b=Memory(spec.w.name, spec.w_dtype, (channels, features)),
        b_constant=spec.w_constant,
    )


def _as_product(target: Target, product: MatmulSpec, epilogue: Epilogue) -> ConvKernels | None:
    image, feature, *space = epilogue.index
    kernels = matmul_kernels(target, product, replace(epilogue, index=(image, *space, feature)))
    if kernels is None:
        return None
    return ConvKernels(kernels.pack, kernels.packed_nbytes, kernels.compute, kernels.in_place)


def _depthwise(target: Target, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels:
    kernel = depthwise_kernel(target, spec, epilogue)
    compute = TemplateKernel(
        label="depthwise_conv",
        args=(spec.x, spec.w, *epilogue.args),
        grid=kernel.grid,
        identity=f"depthwise {target.name} {conv_identity(spec)} {epilogue_identity(epilogue)}",
        emit=kernel.emit,
        cost=conv_cost(spec, epilogue),
        scratch_bytes=kernel.scratch_bytes,
    )
    return ConvKernels(None, 0, compute)


def channels_last_kernels(target: Target, kernel: PixelKernel | WinogradKernel) -> ConvKernels:
    """What the lowering launches for a kernel of channels-last convolutions."""
    spec, epilogue = kernel.spec, kernel.epilogue
    compute = TemplateKernel(
        label="conv" if isinstance(kernel, PixelKernel) else "winograd",
        args=(spec.x, Memory(spec.w.name, spec.acc_dtype, (1,)), *epilogue.args),
        grid=kernel.grid,
        identity=f"pixels {target.name} {conv_identity(spec)} {kernel.plan} {epilogue_identity(epilogue)}",
        emit=lambda e: kernel.emit(e, spec.w.name),
        cost=conv_cost(spec, epilogue),
        scratch_bytes=kernel.scratch_bytes,
    )
    return ConvKernels(kernel.pack(), kernel.packed_bytes, compute, in_place=True)


def _depthwise_channels_last(target: Target, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels:
    kernel = DepthwisePixels(target, spec, epilogue, plane_of(spec))
    compute = TemplateKernel(
        label="depthwise_conv",
        args=(spec.x, Memory(spec.w.name, spec.acc_dtype, (1,)), *epilogue.args),
        grid=kernel.grid,
        identity=f"depthwise pixels {target.name} {conv_identity(spec)} {epilogue_identity(epilogue)}",
        emit=lambda e: kernel.emit(e, spec.w.name),
        cost=conv_cost(spec, epilogue),
    )
    return ConvKernels(kernel.pack(), kernel.packed_bytes, compute)


def conv_identity(spec: ConvSpec) -> str:
    """Text that tells specs apart which need different code."""
    return (
        f"{spec.x_dtype}x{spec.w_dtype}->{spec.acc_dtype} {spec.batch}x{spec.channels}x{spec.size} "
        f"{spec.features}x{spec.kernel}->{spec.out} s={spec.strides} p={spec.padding} l={spec.lhs_dilation} "
        f"r={spec.rhs_dilation} g={spec.groups} x={spec.x.strides} w={spec.w.strides} "
        f"{spec.w_constant}"
    )


def conv_cost(spec: ConvSpec, epilogue: Epilogue) -> Cost:
    """What a convolution must do at least: products with padding and with the gaps of lhs_dilation need not be made."""
    elements = spec.batch * spec.features * prod(spec.out)
    depth = spec.channels // spec.groups * prod(spec.kernel)
    products = spec.batch * spec.features * (spec.channels // spec.groups) * _inside(spec)
    return Cost(
        flops=2.0 * products + elements * epilogue.flops,
        bytes=float(
            spec.batch * spec.channels * prod(spec.size) * spec.x_dtype.itemsize
            + spec.features * depth * spec.w_dtype.itemsize
            + elements * sum(s.memory.dtype.itemsize for s in epilogue.stores)
        ),
        factors=spec.x_dtype.name if spec.x_dtype is spec.w_dtype else "f32",
    )


def _inside(spec: ConvSpec) -> int:
    """Pairs of an output's place and a kernel position at which an element of the image lies."""
    pairs = 1
    for axis, (low, _) in enumerate(spec.padding):
        outputs = np.arange(spec.out[axis])[:, None] * spec.strides[axis]
        at = outputs + np.arange(spec.kernel[axis]) * spec.rhs_dilation[axis] - low
        element, gap = np.divmod(at, spec.lhs_dilation[axis])
        pairs *= int(np.count_nonzero((gap == 0) & (element >= 0) & (element < spec.size[axis])))
    return pairs


def _strides(memory: Memory) -> list[int]:
    return [s for s in memory.strides if isinstance(s, int)]


def _weights(spec: ConvSpec) -> MatrixView:
    """w as a batch over (image, group) of matrices (features of the group) x (channels, kernel)."""
    strides = _strides(spec.w)
    features, channels = spec.features // spec.groups, spec.channels // spec.groups
    return MatrixView(
        spec.w.name,
        spec.w_dtype,
        Dims((spec.batch, spec.groups), (0, features * strides[0])),
        dims((features,), strides[:1]),
        dims((channels, *spec.kernel), strides[1:]),
    )


def _is_pointwise(spec: ConvSpec) -> bool:
    return (
        prod(spec.kernel) == 1
        and spec.out == spec.size
        and all(s == 1 for s in (*spec.strides, *spec.lhs_dilation))
        and all(low == high == 0 for low, high in spec.padding)
    )


def _pixels(spec: ConvSpec) -> MatrixView:
    """x as a batch over (image, group) of matrices (channels of the group) x (pixels)."""
    strides = _strides(spec.x)
    channels = spec.channels // spec.groups
    return MatrixView(
        spec.x.name,
        spec.x_dtype,
        Dims((spec.batch, spec.groups), (strides[0], channels * strides[1])),
        dims((channels,), strides[1:2]),
        dims(spec.size, strides[2:]),
    )
