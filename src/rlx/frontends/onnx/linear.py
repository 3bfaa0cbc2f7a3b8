"""Matrix products and convolutions."""

from __future__ import annotations

import itertools
import math

from rlx.frontends.onnx.shape import reshaped, sliced
from rlx.frontends.onnx.site import Site, handles
from rlx.ir.builder import broadcast_shapes
from rlx.ir.dtypes import DType
from rlx.ir.graph import Value


@handles("MatMul")
def matmul(site: Site) -> Value:
    return product(site, site[0], site[1])


def product(site: Site, x: Value, y: Value, dtype: DType | None = None) -> Value:
    """NumPy's `x @ y`, accumulated in `dtype` where one is given."""
    b = site.b
    if x.type.rank == 0 or y.type.rank == 0:
        raise site.misfit(f"operands {x.type} and {y.type} must not be scalars")
    inner = y.type.sizes[-2] if y.type.rank > 1 else y.type.sizes[0]
    if x.type.sizes[-1] != inner:
        raise site.misfit(f"operands {x.type} and {y.type} do not share their inner dimension")
    if x.type.rank == 1 or y.type.rank == 1:
        contract_y = max(y.type.rank - 2, 0)
        return b.emit(
            "dot_general", x, y, lhs_contract=(x.type.rank - 1,), rhs_contract=(contract_y,), preferred_dtype=dtype
        )
    batch_x, batch_y = x.type.sizes[:-2], y.type.sizes[:-2]
    batch = broadcast_shapes(batch_x, batch_y)
    if math.prod(batch_y) == 1 and len(batch_y) <= len(batch_x):
        # One matrix for all rows: a single product of [rows, K] and [K, N].
        y = reshaped(site, y, y.type.sizes[-2:])
        return b.emit("dot_general", x, y, lhs_contract=(x.type.rank - 1,), rhs_contract=(0,), preferred_dtype=dtype)
    x = b.broadcast(x, (*batch, *x.type.sizes[-2:]))
    y = b.broadcast(y, (*batch, *y.type.sizes[-2:]))
    axes = tuple(range(len(batch)))
    return b.emit(
        "dot_general",
        x,
        y,
        lhs_contract=(len(batch) + 1,),
        rhs_contract=(len(batch),),
        lhs_batch=axes,
        rhs_batch=axes,
        preferred_dtype=dtype,
    )


@handles("Gemm")
def gemm(site: Site) -> Value:
    b, x, y = site.b, site[0], site[1]
    if x.type.rank != 2 or y.type.rank != 2:
        raise site.misfit(f"operands {x.type} and {y.type} must be matrices")
    lhs, rhs = (0 if site.attr("transA", 0) else 1), (1 if site.attr("transB", 0) else 0)
    if x.type.sizes[lhs] != y.type.sizes[rhs]:
        raise site.misfit(f"operands {x.type} and {y.type} do not share their inner dimension")
    result = b.emit("dot_general", x, y, lhs_contract=(lhs,), rhs_contract=(rhs,))
    alpha, beta, bias = site.attr("alpha", 1.0), site.attr("beta", 1.0), site.get(2)
    if alpha != 1.0:
        result = b.binary("mul", result, _number(alpha, result))
    if bias is None or beta == 0.0:
        return result
    if beta != 1.0:
        bias = b.binary("mul", bias, _number(beta, bias))
    return b.emit("add", result, b.broadcast(bias, result.type.shape))


def _number(scale: float, like: Value) -> float | int:
    return scale if like.type.dtype.is_float else int(scale)


# -- windows -------------------------------------------------------------------------------------------------------


def window_padding(
    site: Site, sizes: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """(low, high) padding of each spatial axis, from `auto_pad` and `pads`."""
    auto = site.choice("auto_pad", "NOTSET", ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", ""))
    count = len(sizes)
    if auto == "VALID":
        return ((0, 0),) * count
    if auto.startswith("SAME"):
        result = []
        for size, k, s, d in zip(sizes, window, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            less, more = total // 2, total - total // 2
            result.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return tuple(result)
    pads = site.attr("pads", (0,) * (2 * count))
    return tuple((pads[i], pads[i + count]) for i in range(count))


def spatial(site: Site, name: str, count: int) -> tuple[int, ...]:
    """An attribute with one number a spatial axis, ones by default."""
    given = tuple(site.attr(name, (1,) * count)) or (1,) * count
    if len(given) != count:
        raise site.misfit(f"{name}={given} does not fit {count} spatial axes")
    return given


@handles("Conv")
def conv(site: Site) -> Value:
    result = convolution(site, site[0], site[1])
    return add_channels(site, result, site.get(2))


def convolution(site: Site, x: Value, w: Value) -> Value:
    """The convolution that the node's attributes describe, without bias."""
    sizes, window = x.type.sizes[2:], w.type.sizes[2:]
    if x.type.rank < 3 or w.type.rank != x.type.rank:
        raise site.misfit(f"data {x.type} and weights {w.type} must have the same rank, at least 3")
    strides, dilations = spatial(site, "strides", len(sizes)), spatial(site, "dilations", len(sizes))
    return site.b.emit(
        "conv_general",
        x,
        w,
        strides=strides,
        padding=window_padding(site, sizes, window, strides, dilations),
        lhs_dilation=(1,) * len(sizes),
        rhs_dilation=dilations,
        groups=site.attr("group", 1),
    )


def add_channels(site: Site, x: Value, bias: Value | None) -> Value:
    """`x` [N, C, ...] plus `bias` [C]."""
    if bias is None:
        return x
    spread = site.b.emit("broadcast_in_dim", bias, shape=x.type.shape, broadcast_dims=(1,))
    return site.b.emit("add", x, spread)


@handles("ConvTranspose")
def conv_transpose(site: Site) -> Value:
    """The gradient of a convolution: the data spread out by the strides, convolved with the flipped kernel."""
    b, x, w = site.b, site[0], site[1]
    sizes, window = x.type.sizes[2:], w.type.sizes[2:]
    count, groups = len(sizes), site.attr("group", 1)
    strides, dilations = spatial(site, "strides", count), spatial(site, "dilations", count)
    extra = tuple(site.attr("output_padding", (0,) * count))
    padding = tuple(
        (d * (k - 1) - low, d * (k - 1) - high + more)
        for d, k, (low, high), more in zip(
            dilations, window, _transposed_padding(site, sizes, window, strides, dilations, extra), extra, strict=True
        )
    )
    # [g * C, M, *K] -> [g * M, C, *K], flipped.
    channels, out = w.type.sizes[0] // groups, w.type.sizes[1]
    grouped = reshaped(site, w, (groups, channels, out, *window))
    swapped = b.emit("transpose", grouped, permutation=(0, 2, 1, *range(3, 3 + count)))
    kernel = reshaped(site, swapped, (groups * out, channels, *window))
    if any(k > 1 for k in window):
        kernel = b.emit("rev", kernel, dimensions=tuple(range(2, 2 + count)))
    result = b.emit(
        "conv_general",
        x,
        kernel,
        strides=(1,) * count,
        padding=padding,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        groups=groups,
    )
    return add_channels(site, result, site.get(2))


def _transposed_padding(
    site: Site,
    sizes: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    extra: tuple[int, ...],
) -> list[tuple[int, int]]:
    """What a transposed convolution cuts off at each end, as ONNX derives it from `output_shape` or `auto_pad`."""
    auto = site.choice("auto_pad", "NOTSET", ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", ""))
    target = site.attr("output_shape", None)
    count = len(sizes)
    if target is None and not auto.startswith("SAME"):
        pads = site.attr("pads", (0,) * (2 * count)) if auto != "VALID" else (0,) * (2 * count)
        return [(pads[i], pads[i + count]) for i in range(count)]
    wanted = target[-count:] if target is not None else [n * s for n, s in zip(sizes, strides, strict=True)]
    result = []
    for n, k, s, d, e, goal in zip(sizes, window, strides, dilations, extra, wanted, strict=True):
        total = s * (n - 1) + e + (k - 1) * d + 1 - goal
        half = total // 2
        result.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
    return result


@handles("Col2Im")
def col2im(site: Site) -> Value:
    """Adds blocks back into the image that they were cut from: one spread-out pad for each place in the block."""
    b, x = site.b, site[0]
    image, block = site.ints(1, "image shape"), site.ints(2, "block shape")
    count = len(image)
    strides, dilations = spatial(site, "strides", count), spatial(site, "dilations", count)
    pads = site.attr("pads", (0,) * (2 * count))
    padded = tuple(n + pads[i] + pads[i + count] for i, n in enumerate(image))
    blocks = tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded, block, strides, dilations, strict=True))
    batch, places = x.type.sizes[0], math.prod(block)
    channels = x.type.sizes[1] // places
    columns = reshaped(site, x, (batch, channels, places, *blocks))
    zero = b.constant(0, x.type.dtype)
    result: Value | None = None
    for place, offset in enumerate(itertools.product(*map(range, block))):
        part = reshaped(site, sliced(site, columns, 2, place, place + 1), (batch, channels, *blocks))
        low = tuple(o * d - pads[i] for i, (o, d) in enumerate(zip(offset, dilations, strict=True)))
        spread = tuple((n - 1) * s + 1 for n, s in zip(blocks, strides, strict=True))
        high = tuple(n - lo - wide for n, lo, wide in zip(image, low, spread, strict=True))
        interior = (0, 0, *(s - 1 for s in strides))
        placed = b.emit("pad", part, zero, low=(0, 0, *low), high=(0, 0, *high), interior=interior)
        result = placed if result is None else b.emit("add", result, placed)
    if result is None:
        raise site.misfit("an empty block")
    return result


@handles("Det")
def determinant(site: Site) -> Value:
    """By expansion along the first row, which small matrices allow."""
    x = site[0]
    size = x.type.sizes[-1]
    if x.type.rank < 2 or x.type.sizes[-2] != size:
        raise site.misfit(f"{x.type} is not a square matrix")
    if size > _LARGEST_DETERMINANT:
        raise site.unsupported(f"matrices of {size} rows", f"at most {_LARGEST_DETERMINANT} rows are supported")
    return _minor(site, x, 0, tuple(range(size)))


#: Rows up to which a determinant is expanded: 5! / 2 products.
_LARGEST_DETERMINANT = 5


def _minor(site: Site, x: Value, row: int, columns: tuple[int, ...]) -> Value:
    b, rank = site.b, x.type.rank
    lead = x.type.sizes[:-2]
    if not columns:
        return b.full(lead, 1, x.type.dtype)
    line = sliced(site, x, rank - 2, row, row + 1)
    result: Value | None = None
    for i, column in enumerate(columns):
        element = reshaped(site, sliced(site, line, rank - 1, column, column + 1), lead)
        term = b.emit("mul", element, _minor(site, x, row + 1, columns[:i] + columns[i + 1 :]))
        if result is None:
            result = term
        else:
            result = b.emit("sub" if i % 2 else "add", result, term)
    assert result is not None  # there is a column
    return result
