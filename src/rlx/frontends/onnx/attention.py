"""Attention and rotary embeddings in their ONNX forms."""

from __future__ import annotations

import math

import numpy as np

from rlx.frontends.onnx.indexing import take
from rlx.frontends.onnx.shape import reshaped, sliced
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value


@handles("Attention")
def attention(site: Site) -> list[Value]:
    b = site.b
    flat = site[0].type.rank == 3
    q = _heads(site, site[0], "q_num_heads")
    k, v = (_heads(site, site[i], "kv_num_heads") for i in (1, 2))
    past = 0
    if site.get(4) is not None:
        past = site[4].type.sizes[2]
        k = b.emit("concatenate", site[4], k, dimension=2)
        v = b.emit("concatenate", site[5], v, dimension=2)
    scale = site.attr("scale", None) or 1 / math.sqrt(q.type.sizes[-1])
    softcap = site.attr("softcap", 0.0)
    mask = _mask(site, q, k, past)
    operands = (q, k, v) if mask is None else (q, k, v, mask)
    result = b.emit("attention", *operands, scale=float(scale), causal=False, softcap=float(softcap))
    if flat:
        result = b.emit("transpose", result, permutation=(0, 2, 1, 3))
        result = reshaped(site, result, (*result.type.sizes[:2], result.type.sizes[2] * result.type.sizes[3]))
    results = [result, k, v]
    if site.wants(3):
        results.append(_scores(site, q, k, mask, float(scale), float(softcap)))
    return results


def _heads(site: Site, x: Value, attribute: str) -> Value:
    """[B, H, S, D], from that or from [B, S, H * D]."""
    if x.type.rank == 4:
        return x
    batch, length, width = x.type.sizes
    heads = site.attr(attribute)
    split = reshaped(site, x, (batch, length, heads, width // heads))
    return site.b.emit("transpose", split, permutation=(0, 2, 1, 3))


def _mask(site: Site, q: Value, k: Value, past: int) -> Value | None:
    """All that keeps queries from keys, as one mask: bool, or an additive one in q's dtype."""
    b = site.b
    length, total = q.type.sizes[2], k.type.sizes[2]
    allowed = _window(site, length, total, past)
    given = site.get(3)
    if given is None:
        return allowed
    short = total - given.type.sizes[-1]
    boolean = given.type.dtype is dtypes.bool_
    if short > 0:
        fill = b.constant(False if boolean else -np.inf, given.type.dtype)
        high = (*(0,) * (given.type.rank - 1), short)
        zeros = (0,) * given.type.rank
        given = b.emit("pad", given, fill, low=zeros, high=high, interior=zeros)
    if allowed is None:
        return given
    if boolean:
        return b.binary("and", given, allowed)
    allowed, given = b.lift(allowed, given)
    return b.emit("select", allowed, given, b.full(given.type.shape, -np.inf, given.type.dtype))


def _window(site: Site, length: int, total: int, past: int) -> Value | None:
    """Which keys a query may see by position: [S, T], or [B, 1, S, T] where the valid lengths differ by batch row."""
    b, valid = site.b, site.get(6)
    left, right = site.attr("left_window_size", -1), site.attr("right_window_size", -1)
    if site.attr("is_causal", 0):
        right = 0
    shape: tuple[int, ...] = (length, total)
    position: Value | None = None
    allowed: Value | None = None
    if valid is not None:
        batch = valid.type.sizes[0]
        shape = (batch, 1, length, total)
        valid = b.emit("broadcast_in_dim", b.convert(valid, dtypes.i64), shape=shape, broadcast_dims=(0,))
        allowed = b.emit("lt", b.iota(shape, 3, dtypes.i64), valid)
        position = b.binary("sub", valid, length) if not past else b.full(shape, past, dtypes.i64)
    if left < 0 and right < 0:
        return allowed
    rank = len(shape)
    offset = b.full(shape, past, dtypes.i64) if position is None else position
    query = b.emit("add", b.iota(shape, rank - 2, dtypes.i64), offset)
    key = b.iota(shape, rank - 1, dtypes.i64)
    if right >= 0:
        inside = b.emit("le", key, b.binary("add", query, right))
        allowed = inside if allowed is None else b.emit("and", allowed, inside)
    if left >= 0:
        inside = b.emit("ge", key, b.binary("sub", query, left))
        allowed = inside if allowed is None else b.emit("and", allowed, inside)
    return allowed


def _scores(site: Site, q: Value, k: Value, mask: Value | None, scale: float, softcap: float) -> Value:
    """The fourth output: scores as `qk_matmul_output_mode` says: 0 raw, 1 capped, 2 also masked, 3 after softmax."""
    b, dtype = site.b, q.type.dtype
    mode = site.attr("qk_matmul_output_mode", 0)
    batch, heads, _, width = q.type.sizes
    groups = k.type.sizes[1]
    total = k.type.sizes[2]
    spread = (batch, groups, heads // groups, total, width)
    k = b.emit("broadcast_in_dim", k, shape=spread, broadcast_dims=(0, 1, 3, 4))
    k = reshaped(site, k, (batch, heads, total, width))
    x = b.emit("dot_general", b.convert(q, dtypes.f32), b.convert(k, dtypes.f32),
               lhs_contract=(3,), rhs_contract=(3,), lhs_batch=(0, 1), rhs_batch=(0, 1))  # fmt: skip
    x = b.binary("mul", x, scale)
    if mode >= 1 and softcap:
        x = b.binary("mul", b.emit("tanh", b.binary("div", x, softcap)), softcap)
    if mode >= 2 and mask is not None:
        x = _masked(site, x, mask)
    if mode == 3:
        largest = b.emit("reduce_max", x, dimensions=(3,))
        nothing = b.emit("broadcast_in_dim", b.binary("eq", largest, -np.inf), shape=x.type.shape,
                         broadcast_dims=(0, 1, 2))  # fmt: skip
        weights = b.emit("softmax", x, axis=3)
        x = b.emit("select", nothing, b.full(x.type.shape, 0, x.type.dtype), weights)
    return b.convert(x, dtype)


def _masked(site: Site, x: Value, mask: Value) -> Value:
    b = site.b
    if mask.type.dtype is not dtypes.bool_:
        return b.binary("add", x, b.convert(mask, x.type.dtype))
    keep = b.broadcast(mask, x.type.shape)
    return b.emit("select", keep, x, b.full(x.type.shape, -np.inf, x.type.dtype))


@handles("RotaryEmbedding")
def rotary_embedding(site: Site) -> Value:
    """Pairs of elements of each head, turned by the angle of their position."""
    b, x = site.b, site[0]
    flat = x.type.rank == 3
    if flat:
        batch, length, width = x.type.sizes
        heads = site.attr("num_heads")
        x = b.emit("transpose", reshaped(site, x, (batch, length, heads, width // heads)), permutation=(0, 2, 1, 3))
    size = site.attr("rotary_embedding_dim", 0) or x.type.sizes[-1]
    turned, rest = sliced(site, x, 3, 0, size), sliced(site, x, 3, size, x.type.sizes[3])
    half = (*turned.type.sizes[:3], size // 2)
    cos, sin = (_angles(site, site[i], half) for i in (1, 2))
    interleaved = bool(site.attr("interleaved", 0))
    if interleaved:
        first, second = (sliced(site, turned, 3, i, size, 2) for i in (0, 1))
    else:
        first, second = sliced(site, turned, 3, 0, size // 2), sliced(site, turned, 3, size // 2, size)
    real = b.emit("sub", b.emit("mul", cos, first), b.emit("mul", sin, second))
    imaginary = b.emit("add", b.emit("mul", sin, first), b.emit("mul", cos, second))
    if interleaved:
        pairs = [reshaped(site, v, (*half, 1)) for v in (real, imaginary)]
        turned = reshaped(site, b.emit("concatenate", *pairs, dimension=4), turned.type.sizes)
    else:
        turned = b.emit("concatenate", real, imaginary, dimension=3)
    result = turned if rest.type.sizes[3] == 0 else b.emit("concatenate", turned, rest, dimension=3)
    if flat:
        result = reshaped(site, b.emit("transpose", result, permutation=(0, 2, 1, 3)), site[0].type.sizes)
    return result


def _angles(site: Site, cache: Value, shape: tuple[int, ...]) -> Value:
    """Cosines or sines [B, H, S, D / 2], from a table by position or given for each position."""
    positions = site.get(3)
    if positions is not None:
        cache = take(site, cache, positions, 0)
    return site.b.emit("broadcast_in_dim", cache, shape=shape, broadcast_dims=(0, 2, 3))
