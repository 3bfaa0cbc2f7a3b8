"""Ops that move or make elements without computing: reshape, slice, pad, concatenate, constants."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from rlx.frontends.onnx.partial import FOLD_LIMIT
from rlx.frontends.onnx.site import Site, handles
from rlx.frontends.onnx.tensors import dtype_of
from rlx.ir import dtypes
from rlx.ir.builder import broadcast_shapes
from rlx.ir.graph import Value


@handles("Shape")
def shape(site: Site) -> Value:
    sizes = site[0].type.sizes[site.attr("start", 0) : site.attr("end", None)]
    return site.b.literal(np.array(sizes, dtype=np.int64))


@handles("Size")
def size(site: Site) -> Value:
    return site.b.literal(np.array(site[0].type.elements, dtype=np.int64))


def reshaped(site: Site, x: Value, shape: tuple[int, ...]) -> Value:
    """`x` with another shape; itself where it has that shape."""
    return x if x.type.shape == shape else site.b.emit("reshape", x, shape=shape)


@handles("Reshape")
def reshape(site: Site) -> Value:
    x, target = site[0], list(site.ints(1, "shape"))
    sizes = x.type.sizes
    if not site.attr("allowzero", 0):
        for axis, n in enumerate(target):
            if n == 0:
                if axis >= len(sizes):
                    raise site.misfit(f"shape {tuple(target)} keeps axis {axis} of {x.type}, which has no such axis")
                target[axis] = sizes[axis]
    if target.count(-1) > 1:
        raise site.misfit(f"shape {tuple(target)} leaves two sizes open")
    if -1 in target:
        rest = math.prod(n for n in target if n != -1)
        if rest == 0 or x.type.elements % rest:
            raise site.misfit(f"{x.type} has {x.type.elements} elements, which do not fill {tuple(target)}")
        target[target.index(-1)] = x.type.elements // rest
    return reshaped(site, x, tuple(target))


@handles("Flatten")
def flatten(site: Site) -> Value:
    x = site[0]
    axis = site.attr("axis", 1)
    axis = axis + x.type.rank if axis < 0 else axis
    sizes = x.type.sizes
    return reshaped(site, x, (math.prod(sizes[:axis]), math.prod(sizes[axis:])))


@handles("Squeeze")
def squeeze(site: Site) -> Value:
    x, given = site[0], site.maybe_ints(1, "axes")
    sizes = x.type.sizes
    axes = (
        {site.normalize(a, len(sizes)) for a in given}
        if given is not None
        else {a for a, n in enumerate(sizes) if n == 1}
    )
    for axis in axes:
        if sizes[axis] != 1:
            raise site.misfit(f"axis {axis} of {x.type} has size {sizes[axis]}, only size 1 can be squeezed")
    return reshaped(site, x, tuple(n for a, n in enumerate(sizes) if a not in axes))


@handles("Unsqueeze")
def unsqueeze(site: Site) -> Value:
    x, given = site[0], site.ints(1, "axes")
    rank = x.type.rank + len(given)
    axes = {site.normalize(a, rank) for a in given}
    old = iter(x.type.sizes)
    return reshaped(site, x, tuple(1 if a in axes else next(old) for a in range(rank)))


@handles("Transpose")
def transpose(site: Site) -> Value:
    x = site[0]
    order = site.attr("perm", tuple(reversed(range(x.type.rank))))
    permutation = tuple(site.normalize(a, x.type.rank) for a in order)
    if permutation == tuple(range(x.type.rank)):
        return x
    return site.b.emit("transpose", x, permutation=permutation)


@handles("Expand")
def expand(site: Site) -> Value:
    x = site[0]
    return site.b.broadcast(x, broadcast_shapes(x.type.shape, site.ints(1, "shape")))


@handles("Concat")
def concat(site: Site) -> Value:
    operands = site.operands()
    axis = site.axis("axis", 0, operands[0].type.rank)
    return operands[0] if len(operands) == 1 else site.b.emit("concatenate", *operands, dimension=axis)


@handles("Split")
def split(site: Site) -> list[Value]:
    x = site[0]
    axis = site.axis("axis", 0, x.type.rank)
    length, parts = x.type.sizes[axis], len(site.node.outputs)
    sizes = site.maybe_ints(1, "split sizes")
    if sizes is None:
        parts = site.attr("num_outputs", parts)
        chunk = -(-length // parts)
        sizes = tuple(min(chunk, max(length - i * chunk, 0)) for i in range(parts))
    if sum(sizes) != length:
        raise site.misfit(f"split sizes {sizes} do not add up to axis {axis} of {x.type}")
    ends = np.cumsum((0, *sizes)).tolist()
    return [sliced(site, x, axis, lo, hi) for lo, hi in pairwise(ends)]


def sliced(site: Site, x: Value, axis: int, start: int, limit: int, stride: int = 1) -> Value:
    """`x[start:limit:stride]` along one axis; itself where that is all of it."""
    sizes = x.type.sizes
    if (start, limit, stride) == (0, sizes[axis], 1):
        return x
    starts, limits, strides = [0] * len(sizes), list(sizes), [1] * len(sizes)
    starts[axis], limits[axis], strides[axis] = start, limit, stride
    return site.b.emit("slice", x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))


@handles("Slice")
def slice_(site: Site) -> Value:
    x = site[0]
    begins, ends = site.ints(1, "starts"), site.ints(2, "ends")
    axes = site.maybe_ints(3, "axes") or tuple(range(len(begins)))
    steps = site.maybe_ints(4, "steps") or (1,) * len(begins)
    sizes = x.type.sizes
    starts, limits, strides = [0] * len(sizes), list(sizes), [1] * len(sizes)
    backwards = []
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=True):
        axis = site.normalize(axis, len(sizes))
        if step == 0:
            raise site.misfit(f"step 0 on axis {axis}")
        # Python's own rule for clamping, which is ONNX's too.
        picked = range(*slice(begin, _end(end, step, sizes[axis]), step).indices(sizes[axis]))
        if step < 0:
            picked = picked[::-1]
            backwards.append(axis)
        starts[axis], strides[axis] = (picked[0] if picked else 0), abs(step)
        limits[axis] = picked[-1] + 1 if picked else 0
    if starts != [0] * len(sizes) or limits != list(sizes) or strides != [1] * len(sizes):
        x = site.b.emit("slice", x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))
    return site.b.emit("rev", x, dimensions=tuple(backwards)) if backwards else x


def _end(end: int, step: int, length: int) -> int | None:
    """None where a backward slice runs through element 0, which no number says in Python."""
    return None if step < 0 and end < -length else end


@handles("Pad")
def pad(site: Site) -> Value:
    x = site[0]
    mode = site.choice("mode", "constant", ("constant", "edge", "reflect", "wrap"))
    given = site.ints(1, "pads")
    axes = site.maybe_ints(3, "axes")
    picked = range(x.type.rank) if axes is None else [site.normalize(a, x.type.rank) for a in axes]
    low, high = [0] * x.type.rank, [0] * x.type.rank
    for i, axis in enumerate(picked):
        low[axis], high[axis] = given[i], given[i + len(given) // 2]
    if mode == "constant":
        if not any(low) and not any(high):
            return x
        fill = site.get(2)
        fill = site.b.constant(0, x.type.dtype) if fill is None else site.b.convert(fill, x.type.dtype)
        fill = reshaped(site, fill, ())
        return site.b.emit("pad", x, fill, low=tuple(low), high=tuple(high), interior=(0,) * x.type.rank)
    for axis, (lo, hi) in enumerate(zip(low, high, strict=True)):
        if lo or hi:
            x = _pad_axis(site, x, axis, lo, hi, mode)
    return x


def _pad_axis(site: Site, x: Value, axis: int, low: int, high: int, mode: str) -> Value:
    """One axis padded from its own elements: runs of equal, rising or falling indices become slices."""
    length = x.type.sizes[axis]
    if length == 0:
        raise site.misfit(f"axis {axis} of {x.type} is empty and cannot be padded with mode {mode!r}")
    where = np.arange(-low, length + high)
    if mode == "edge":
        where = where.clip(0, length - 1)
    elif mode == "wrap":
        where = where % length
    else:
        period = max(2 * (length - 1), 1)
        where = where % period
        where = np.where(where >= length, period - where, where)
    pieces = [_run(site, x, axis, run) for run in _runs(where)]
    return pieces[0] if len(pieces) == 1 else site.b.emit("concatenate", *pieces, dimension=axis)


def _runs(indices: np.ndarray) -> list[np.ndarray]:
    """`indices` cut so that each run is flat, or rises or falls by one."""
    runs, start = [], 0
    while start < len(indices):
        stop = start + 1
        if stop < len(indices):
            step = indices[stop] - indices[start]
            while abs(step) <= 1 and stop < len(indices) and indices[stop] - indices[stop - 1] == step:
                stop += 1
        runs.append(indices[start:stop])
        start = stop
    return runs


def _run(site: Site, x: Value, axis: int, run: np.ndarray) -> Value:
    first, last = int(run[0]), int(run[-1])
    if first == last:
        one = sliced(site, x, axis, first, first + 1)
        shape = tuple(len(run) if a == axis else n for a, n in enumerate(x.type.sizes))
        dims = tuple(range(x.type.rank))
        return one if len(run) == 1 else site.b.emit("broadcast_in_dim", one, shape=shape, broadcast_dims=dims)
    if first < last:
        return sliced(site, x, axis, first, last + 1)
    return site.b.emit("rev", sliced(site, x, axis, last, first + 1), dimensions=(axis,))


@handles("Tile")
def tile(site: Site) -> Value:
    x, repeats = site[0], site.ints(1, "repeats")
    sizes = x.type.sizes
    if all(r == 1 for r in repeats):
        return x
    # [a, b] -> [1, a, 1, b] -> [r, a, s, b] -> [r * a, s * b]
    spread = tuple(n for r, d in zip(repeats, sizes, strict=True) for n in (r, d))
    kept = tuple(range(1, 2 * len(sizes), 2))
    y = site.b.emit("broadcast_in_dim", x, shape=spread, broadcast_dims=kept)
    return reshaped(site, y, tuple(r * d for r, d in zip(repeats, sizes, strict=True)))


@handles("Constant")
def constant(site: Site) -> Value:
    attrs = site.node.attrs
    if "value" in attrs:
        return site.scope.weight(site.node.outputs[0], attrs["value"])
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, dtype in kinds.items():
        if name in attrs:
            return site.scope.weight(site.node.outputs[0], np.array(attrs[name], dtype=dtype))
    raise site.unsupported(" and ".join(attrs) or "no value", "tensors and numbers are supported")


@handles("ConstantOfShape")
def constant_of_shape(site: Site) -> Value:
    fill = site.attr("value", np.zeros(1, np.float32)).reshape(())
    return site.b.broadcast(site.b.literal(fill), site.ints(0, "shape"))


@handles("Range")
def range_(site: Site) -> Value:
    start, limit, step = (site.array(i, what).reshape(()).item() for i, what in enumerate(("start", "limit", "delta")))
    count = max(int(np.ceil((limit - start) / step)), 0)
    dtype = site[0].type.dtype
    if count <= FOLD_LIMIT:
        return site.b.literal((start + np.arange(count) * step).astype(dtype.numpy))
    return site.b.binary("add", site.b.binary("mul", site.b.iota((count,), 0, dtype), step), start)


@handles("EyeLike")
def eye_like(site: Site) -> Value:
    x, b = site[0], site.b
    code = site.attr("dtype", None)
    dtype = x.type.dtype if code is None else dtype_of(code, what="EyeLike")
    rows, columns = (b.iota(x.type.sizes, axis, dtypes.i32) for axis in (0, 1))
    return b.convert(b.emit("eq", b.binary("add", rows, site.attr("k", 0)), columns), dtype)


@handles("Trilu")
def trilu(site: Site) -> Value:
    b, x = site.b, site[0]
    k = int(site.array(1, "diagonal").reshape(())) if site.get(1) is not None else 0
    plane = x.type.sizes[-2:]
    rows, columns = (b.iota(plane, axis, dtypes.i32) for axis in (0, 1))
    offset = b.emit("sub", columns, rows)
    k = min(max(k, -(2**31)), 2**31 - 1)
    keep = b.binary("ge" if site.attr("upper", 1) else "le", offset, k)
    return b.emit("select", b.broadcast(keep, x.type.shape), x, b.full(x.type.shape, 0, x.type.dtype))


@handles("DepthToSpace")
def depth_to_space(site: Site) -> Value:
    x, block = site[0], site.attr("blocksize")
    n, c, h, w = x.type.sizes
    out = c // (block * block)
    if site.choice("mode", "DCR", ("DCR", "CRD")) == "DCR":
        split, order = (n, block, block, out, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (n, out, block, block, h, w), (0, 1, 4, 2, 5, 3)
    y = site.b.emit("transpose", reshaped(site, x, split), permutation=order)
    return reshaped(site, y, (n, out, h * block, w * block))


@handles("SpaceToDepth")
def space_to_depth(site: Site) -> Value:
    x, block = site[0], site.attr("blocksize")
    n, c, h, w = x.type.sizes
    split = reshaped(site, x, (n, c, h // block, block, w // block, block))
    depth_last = site.choice("mode", "DCR", ("DCR", "CRD")) == "CRD"
    y = site.b.emit("transpose", split, permutation=(0, 1, 3, 5, 2, 4) if depth_last else (0, 3, 5, 1, 2, 4))
    return reshaped(site, y, (n, c * block * block, h // block, w // block))


@handles("CenterCropPad")
def center_crop_pad(site: Site) -> Value:
    x, target = site[0], site.ints(1, "shape")
    rank = x.type.rank
    axes = [site.normalize(a, rank) for a in site.attr("axes", tuple(range(rank)))]
    for axis, wanted in zip(axes, target, strict=True):
        length = x.type.sizes[axis]
        if wanted < length:
            start = (length - wanted) // 2
            x = sliced(site, x, axis, start, start + wanted)
        elif wanted > length:
            low, high = [0] * rank, [0] * rank
            low[axis] = (wanted - length) // 2
            high[axis] = wanted - length - low[axis]
            zero = site.b.constant(0, x.type.dtype)
            x = site.b.emit("pad", x, zero, low=tuple(low), high=tuple(high), interior=(0,) * rank)
    return x
