"""Convolutions as tiles of one product, the image unfolded as it is loaded; or one output an invocation.

In tiles, rows are a group's features, columns the places of the output, k the channels and places of the kernel: an
implicit GEMM (Chetlur et al., cuDNN, 2014). Groups of few features, depthwise ones above all, have nothing to share:
there each invocation sums one output by itself, neighbours along the image's last dimension.

Any stride, padding, dilation of kernel or image, and number of groups; f32, i32 and u32.

Launches divide a convolution by images, groups, a group's features, and a group's channels, whose sums are handed on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlx.backends.webgpu.division import Ranges
from rlx.backends.webgpu.matmul import TAKEN, MatrixSide, bind_arguments, hand_on, template
from rlx.backends.webgpu.shares import Share, axes_of, row_major
from rlx.backends.webgpu.tiles import INVOCATIONS, Product, tile_for, turns
from rlx.backends.webgpu.touches import touched_by
from rlx.codegen.kernel import Cost, Memory, TemplateKernel
from rlx.codegen.lower import ConvSpec, Epilogue
from rlx.codegen.wgsl import WgslTarget
from rlx.codegen.wgsl.body import BodyEmitter
from rlx.codegen.wgsl.expression import parts_of
from rlx.codegen.wgsl.interval import Interval
from rlx.codegen.wgsl.kernel import Shader, module_source, workgroup_grid
from rlx.codegen.wgsl.types import literal, register_type

#: Invocations of a workgroup of the direct kernel.
_ALONE = 64
#: Products of one sum that one invocation should not walk alone.
_LONG = 8192
#: The groups of a result's dimensions, as a product has them.
_OUTPUTS = ("batch", "m", "n")


def conv_kernel(spec: ConvSpec, epilogue: Epilogue, target: WgslTarget) -> TemplateKernel | None:
    """The kernel of a convolution, with arguments (x, w, *epilogue.args); None where it is left to loops."""
    if spec.x_dtype not in TAKEN or spec.w_dtype is not spec.x_dtype or spec.acc_dtype is not spec.x_dtype:
        return None
    args = (spec.x, spec.w, *epilogue.args)
    if len(args) > target.max_bindings:
        return None
    features, places = spec.features // spec.groups, spec.batch * math.prod(spec.out)
    k = spec.channels // spec.groups * math.prod(spec.kernel)
    tiled = features >= 8 and k >= 8 and turns(k) <= (target.max_turns or turns(k))
    if k == 0 or (places < 16 and k >= 64) or (not tiled and k >= _LONG):  # workgroups share the loops' rows
        return None
    outputs = spec.groups * features * places
    image = spec.batch * spec.channels * math.prod(spec.size)
    cost = Cost(outputs * (2.0 * k + epilogue.flops), 4.0 * (image + spec.features * k + outputs))
    division = _Division(spec, epilogue, args, target, tiled=tiled)
    label = "conv" if tiled else "direct_conv"
    kernel = template(label, args, outputs, lambda bases: division.shader({}, bases), cost)
    return replace(kernel, division=division)


class _Division:
    """How a convolution can be divided: see `division.Division`.

    Its dimensions are those of the product: batch, the groups; m, a group's features; n, images and their places; k, a
    group's channels, along which parts hand on their sums. Places and the kernel stay whole.
    """

    def __init__(
        self, spec: ConvSpec, epilogue: Epilogue, operands: tuple[Memory, ...], target: WgslTarget, *, tiled: bool
    ) -> None:
        self.spec, self.epilogue, self.operands, self.target = spec, epilogue, operands, target
        self.emit = _tiled if tiled else _direct
        self.features, self.channels = spec.features // spec.groups, spec.channels // spec.groups
        self.groups = {
            "batch": (spec.groups,), "m": (self.features,), "n": (spec.batch, *spec.out), "k": (self.channels,)
        }  # fmt: skip
        self.axes = {
            axis: turns for axis, turns in axes_of(self.groups).items() if axis in ("batch0", "m0", "n0", "k0")
        }
        self.args = (*operands, Memory("sums", spec.acc_dtype, (1,), writable=True))
        self.handed = (spec.batch * spec.features * math.prod(spec.out),)

    def touched(self, ranges: Ranges) -> list[Interval | None]:
        share, spec, end = Share(self.groups, ranges), self.spec, self.epilogue
        images = Share({**self.groups, "n": (spec.batch, *spec.size)}, ranges)
        weights = Share({**self.groups, "kernel": spec.kernel}, ranges)
        x, w = _steps(spec.x), _steps(spec.w)
        (group,), (feature,) = share.starts["batch"], share.starts["m"]
        last = (group + share.sizes["batch"][0] - 1) * self.features + feature + share.sizes["m"][0] - 1
        extents = {
            end.index[0].name: (share.starts["n"][0], share.starts["n"][0] + share.sizes["n"][0] - 1),
            end.index[1].name: (group * self.features + feature, last),
            **{var.name: (0, n - 1) for var, n in zip(end.index[2:], spec.out, strict=True)},
        }
        found = touched_by(end.stores, extents)
        return [
            images.reach(("batch", "k", "n"), (self.channels * x[1], x[1], x[0], *x[2:])),
            weights.reach(("batch", "m", "k", "kernel"), (self.features * w[0], *w)),
            *(found.get(memory.name, (0, 0)) for memory in end.args),
            *([] if share.whole("k") else [share.reach(_OUTPUTS, row_major(self._results))]),
        ]

    @property
    def _results(self) -> tuple[int, ...]:
        return tuple(n for name in _OUTPUTS for n in self.groups[name])

    def shader(self, ranges: Ranges, bases: Sequence[int]) -> Shader:
        share, spec = Share(self.groups, ranges), self.spec
        (groups,), (features,), (channels,) = (share.sizes[name] for name in ("batch", "m", "k"))
        args = self.operands if share.whole("k") else self.args
        x, w = _steps(spec.x), _steps(spec.w)
        x_base = bases[0] + share.shift(("batch", "k", "n"), (self.channels * x[1], x[1], x[0], *(0 for _ in spec.out)))
        w_base = bases[1] + share.shift(("batch", "m", "k"), (self.features * w[0], w[0], w[1]))
        part = replace(
            spec, batch=share.sizes["n"][0], groups=groups, features=groups * features, channels=groups * channels
        )
        work = _Part(part, share, self.channels * x[1], self.features * w[0], self.epilogue, args)
        return self.emit(work, self.target, (x_base, w_base, *bases[2:]))


@dataclass(frozen=True)
class _Part:
    """A launch's convolution: `spec` of its own sizes. x_group, w_group: elements from one group to the next."""

    spec: ConvSpec
    share: Share
    x_group: int
    w_group: int
    epilogue: Epilogue
    args: tuple[Memory, ...]


def _steps(memory: Memory) -> list[int]:
    return [int(s) for s in memory.strides]


class _Image:
    """Where the image's elements are: the place of an output and a place of the kernel give an address and a condition.

    `at` names the variables of one output's place.
    """

    def __init__(self, spec: ConvSpec) -> None:
        self.spec = spec
        self.strides = [int(s) for s in spec.x.strides]
        self.dilated = [(n - 1) * step + 1 for n, step in zip(spec.size, spec.lhs_dilation, strict=True)]

    def begin(self, line: Callable[[str], None], at: str, start: str, batch: str, out: Sequence[str]) -> None:
        """Variables for the output at `out` of `batch`, in the channels that begin at `start`."""
        terms = [start, f"{batch} * {self.strides[0]}"]
        for d, place in enumerate(out):
            low = self.spec.padding[d][0]
            line(f"let {at}_{d} = {place} * {self.spec.strides[d]} - {low};")
            if self.spec.lhs_dilation[d] == 1:
                terms.append(f"{at}_{d} * {self.strides[2 + d]}")
        line(f"let {at}_a = {' + '.join(terms)};")

    def element(self, at: str, channel: str, kernel: Sequence[str]) -> tuple[str, list[str]]:
        """(address, what must hold for there to be an element) at a channel of the group and a place of the kernel."""
        spec, tests = self.spec, []
        terms = [f"{at}_a", f"{channel} * {self.strides[1]}"]
        for d, place in enumerate(kernel):
            step, dilation, stride = spec.rhs_dilation[d], spec.lhs_dilation[d], self.strides[2 + d]
            position = f"({at}_{d} + {place} * {step})"
            low, reach = spec.padding[d][0], (spec.out[d] - 1) * spec.strides[d] + (spec.kernel[d] - 1) * step
            if low > 0 or reach - low >= self.dilated[d]:
                tests.append(f"u32({position}) < {self.dilated[d]}u")
            if dilation == 1:
                terms.append(f"{place} * {step * stride}")
            else:
                tests.append(f"{position} % {dilation} == 0")
                terms.append(f"{position} / {dilation} * {stride}")
        return " + ".join(terms), tests


class _Unfolded:
    """The image as the right side of a product: see `tiles.Operand`. order: of k's dimensions, as places in (C, *K)."""

    def __init__(self, spec: ConvSpec, order: Sequence[int], start: str, zero: str, kind: str, depth: int) -> None:
        self.spec, self.order, self.start, self.zero, self.kind = spec, order, start, zero, kind
        self.image = _Image(spec)
        sizes = (spec.channels // spec.groups, *spec.kernel)
        self.sizes = [sizes[d] for d in order]
        self.k = math.prod(sizes)
        self.ragged = self.k % depth != 0
        self.along_k = order[-1] == 0

    def begin(self, line: Callable[[str], None], piece: int, outer: str) -> None:
        for c in range(4):
            line(f"let n{piece}_{c} = {outer} + {c};")
            batch, *out = parts_of(f"n{piece}_{c}", (self.spec.batch, *self.spec.out))
            self.image.begin(line, f"x{piece}_{c}", self.start, batch, out)

    def load(self, line: Callable[[str], None], piece: int, k: str, into: str) -> None:
        line("{")
        line(f"let k = {k};")
        for d, part in zip(self.order, parts_of("k", self.sizes), strict=True):
            line(f"let k_{d} = {part};")
        for c in range(4):
            kernel = [f"k_{d + 1}" for d in range(len(self.spec.kernel))]
            address, tests = self.image.element(f"x{piece}_{c}", "k_0", kernel)
            tests += [f"k < {self.k}"] if self.ragged else []
            line(f"let e{c} = {_where(tests, f'a0[{address}]', self.zero)};")
        line(f"{into} = vec4<{self.kind}>(e0, e1, e2, e3);")
        line("}")


def _tiled(part: _Part, target: WgslTarget, bases: Sequence[int]) -> Shader:
    spec, args = part.spec, part.args
    features, places = spec.features // spec.groups, spec.batch * math.prod(spec.out)
    kind, zero = register_type(spec.acc_dtype, target), literal(0, spec.acc_dtype, target)
    rank = len(spec.kernel)
    channels_last = spec.x.strides[1] == 1 and spec.channels > spec.groups
    order = (*range(1, rank + 1), 0) if channels_last else tuple(range(rank + 1))
    tile = tile_for(spec.groups, features, places, large=not target.max_turns)
    right = _Unfolded(spec, order, "x_start", zero, kind, tile.depth)
    steps = _steps(spec.w)
    weights = _joined([(right.sizes[i], steps[1 + d]) for i, d in enumerate(order)])
    rows, between = ((features,), (steps[0],)), (part.w_group,)
    left = MatrixSide("a1", True, "w_start", rows, weights, bases[1], between, zero, kind, tile.depth)
    product = Product(spec.groups, features, places, right.k, kind, zero, tile, left, right, target.workgroup_bytes)
    emitter = BodyEmitter(target)
    line = emitter.line
    stored = {s.memory.name for s in part.epilogue.stores}
    declarations = bind_arguments(emitter, args, stored, bases, (1,) if left.vector else ())
    declarations += product.declarations()
    group, across, down = workgroup_grid(product.groups)
    product.place(line, group)
    line(f"let w_start = {bases[1]} + batch * {part.w_group};")
    line(f"let x_start = {bases[0]} + batch * {part.x_group};")
    product.sums(line)
    product.finish(emitter, lambda: _store(emitter, part, bases[-1]))
    source = module_source(declarations, emitter.lines, INVOCATIONS)
    return Shader(source, len(args), (across, down))


def _direct(part: _Part, target: WgslTarget, bases: Sequence[int]) -> Shader:
    spec, args = part.spec, part.args
    features, channels = spec.features // spec.groups, spec.channels // spec.groups
    places, image = math.prod(spec.out), _Image(spec)
    total = spec.batch * spec.features * places
    zero = literal(0, spec.acc_dtype, target)
    emitter = BodyEmitter(target)
    line = emitter.line
    declarations = bind_arguments(emitter, args, {s.memory.name for s in part.epilogue.stores}, bases)
    group, across, down = workgroup_grid(-(-total // _ALONE))
    line(f"let flat = i32({group} * {_ALONE}u + local);")
    line(f"if (flat >= {total}) {{ return; }}")
    number, feature, *out = parts_of("flat", (spec.batch, spec.features, *spec.out))
    line(f"let feature = {feature};")
    line(f"let batch = feature / {features};")
    line(f"let m = feature % {features};")
    image.begin(line, "x", f"{bases[0]} + batch * {part.x_group}", number, out)
    line(f"let w_start = {bases[1]} + batch * {part.w_group} + m * {spec.w.strides[0]};")
    line(f"var total = {zero};")
    names = ["c", *(f"k{d}" for d in range(len(spec.kernel)))]
    for name, n in zip(names, (channels, *spec.kernel), strict=True):
        line(f"for (var {name} = 0i; {name} < {n}; {name} = {name} + 1i) {{")
    address, tests = image.element("x", "c", names[1:])
    weight = " + ".join(["w_start", *(f"{n} * {s}" for n, s in zip(names, spec.w.strides[1:], strict=True))])
    line(f"let e = {_where(tests, f'a0[{address}]', zero)};")
    line(f"total = total + e * a1[{weight}];")
    for _ in names:
        line("}")
    line(f"let n = flat / {spec.features * places} * {places} + flat % {places};")
    _store(emitter, part, bases[-1])
    source = module_source(declarations, emitter.lines, _ALONE)
    return Shader(source, len(args), (across, down))


def _store(emitter: BodyEmitter, part: _Part, base: int) -> None:
    """The epilogue for the sum `total` of feature `m` of group `batch`, at `n`, which counts over (N, *S').

    base: of the memory in which parts hand on their sums, the last argument's.
    """
    spec, share = part.spec, part.share
    total = hand_on(emitter.line, share, "k", _OUTPUTS, len(part.args) - 1, base)
    if not total:
        return
    (group,), (feature,) = share.starts["batch"], share.starts["m"]
    number, *out = parts_of("n", (spec.batch, *spec.out))
    whole = share.groups["m"][0]
    emitter.bind_value(part.epilogue.acc, total)
    places = (f"{number} + {share.starts['n'][0]}", f"(batch + {group}) * {whole} + m + {feature}", *out)
    sizes = (share.groups["n"][0], share.groups["batch"][0] * whole, *spec.out)
    for var, place, size in zip(part.epilogue.index, places, sizes, strict=True):
        emitter.bind_index(var, place, size)
    emitter.body(part.epilogue.stores)


def _where(tests: Sequence[str], value: str, zero: str) -> str:
    return f"select({zero}, {value}, {' && '.join(tests)})" if tests else value


def _joined(dimensions: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """(sizes, strides) of the same walk through memory, in as few dimensions as it takes."""
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in dimensions:
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    return sizes, strides
