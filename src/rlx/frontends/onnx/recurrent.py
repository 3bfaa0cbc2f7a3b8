"""Recurrent layers: LSTM, GRU and RNN are RLX's composites, operand by operand; newer layers that carry a state."""

from __future__ import annotations

from typing import Any

from rlx.frontends.onnx.linear import add_channels
from rlx.frontends.onnx.shape import reshaped, sliced
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value
from rlx.ir.types import TensorType

#: op -> composite and the names of its operands from the fourth on.
_CELLS = {
    "LSTM": ("lstm", ("b", "sequence_lens", "initial_h", "initial_c", "p")),
    "GRU": ("gru", ("b", "sequence_lens", "initial_h")),
    "RNN": ("rnn", ("b", "sequence_lens", "initial_h")),
}
#: Attributes whose ONNX names and defaults the composites share.
_LISTS = ("activations", "activation_alpha", "activation_beta")


@handles("LSTM", "GRU", "RNN")
def recurrent(site: Site) -> list[Value]:
    b = site.b
    composite, optional = _CELLS[site.node.op]
    batch_first = bool(site.attr("layout", 0))
    operands = {name: site.get(i + 3) for i, name in enumerate(optional)}
    present = {name: value for name, value in operands.items() if value is not None}
    x = site[0]
    if batch_first:
        x = b.emit("transpose", x, permutation=(1, 0, 2))
        for name in ("initial_h", "initial_c"):
            if name in present:
                present[name] = b.emit("transpose", present[name], permutation=(1, 0, 2))
    attrs: dict[str, Any] = {name: tuple(site.attr(name)) for name in _LISTS if name in site.node.attrs}
    if "clip" in site.node.attrs:
        raise site.unsupported(f"clip={site.attr('clip')}", "recurrent layers are imported without clipping")
    if composite == "gru" and site.attr("linear_before_reset", 0):
        attrs["linear_before_reset"] = True
    if composite == "lstm" and site.attr("input_forget", 0):
        attrs["input_forget"] = True
    direction = site.choice("direction", "forward", ("forward", "reverse", "bidirectional"))
    results = b.emit_many(
        composite, x, site[1], site[2], *present.values(), optional=tuple(present), direction=direction, **attrs
    )
    if not batch_first:
        return list(results)
    # [T, D, N, H] -> [N, T, D, H] and [D, N, H] -> [N, D, H]
    orders = [(2, 0, 1, 3)] + [(1, 0, 2)] * (len(results) - 1)
    return [b.emit("transpose", v, permutation=order) for v, order in zip(results, orders, strict=True)]


@handles("CausalConvWithState")
def causal_conv(site: Site) -> list[Value]:
    """A depthwise convolution over [past, x]; the new state is what the next call needs of it."""
    b, x, w, bias = site.b, site[0], site[1], site.get(2)
    batch, channels, _ = x.type.sizes
    reach = w.type.sizes[2] - 1
    past = site.get(3)
    past = b.full((batch, channels, reach), 0, x.type.dtype) if past is None else past
    padded = b.emit("concatenate", past, x, dimension=2)
    y = b.emit(
        "conv_general",
        padded,
        w,
        strides=(1,),
        padding=((0, 0),),
        lhs_dilation=(1,),
        rhs_dilation=(1,),
        groups=channels,
    )
    y = add_channels(site, y, bias)
    if site.choice("activation", "none", ("none", "silu", "swish")) != "none":
        y = b.emit("silu", y)
    length = padded.type.sizes[2]
    return [y, sliced(site, padded, 2, length - reach, length)]


@handles("LinearAttention")
def linear_attention(site: Site) -> list[Value]:
    """Attention by a running state [B, H, K, V]: decay it, write k v^T into it, read it with q; a scan over time."""
    b, dtype = site.b, site[0].type.dtype
    rule = site.choice("update_rule", "gated_delta", ("linear", "gated", "delta", "gated_delta"))
    q_heads, heads = site.attr("q_num_heads"), site.attr("kv_num_heads")
    q, k, v = (_by_time(site, site[i], n) for i, n in ((0, q_heads), (1, heads), (2, heads)))
    length, batch, _, width = q.type.sizes
    depth = v.type.sizes[3]
    past = site.get(3)
    state_dtype = dtype if past is None else past.type.dtype
    shape = (batch, heads, width, depth)
    state = b.full(shape, 0, dtypes.f32) if past is None else b.convert(past, dtypes.f32)
    scale = site.attr("scale", 0.0) or width**-0.5
    sequences = [q, k, v]
    if "gated" in rule:
        sequences.append(_by_time(site, site[4], heads))
    if "delta" in rule:
        sequences.append(_by_time(site, site[5], min(site[5].type.sizes[2], heads)))
    body = site.scope.region("step")
    s = body.builder
    carried = s.input("state", TensorType(shape, dtypes.f32))
    slices = [s.input(f"x{i}", TensorType(x.type.shape[1:], x.type.dtype)) for i, x in enumerate(sequences)]
    query, key, value, *gates = slices
    now = carried
    if "gated" in rule:
        decay = s.emit("exp", gates.pop(0))
        decay = s.broadcast(decay, (batch, heads, width))
        now = s.emit("mul", now, s.emit("broadcast_in_dim", decay, shape=shape, broadcast_dims=(0, 1, 2)))
    if "delta" in rule:
        found = s.emit("dot_general", now, key, lhs_contract=(2,), rhs_contract=(2,), lhs_batch=(0, 1),
                       rhs_batch=(0, 1))  # fmt: skip
        value = s.emit("mul", s.broadcast(gates.pop(0), value.type.shape), s.emit("sub", value, found))
    rows = s.emit("broadcast_in_dim", key, shape=shape, broadcast_dims=(0, 1, 2))
    columns = s.emit("broadcast_in_dim", value, shape=shape, broadcast_dims=(0, 1, 3))
    now = s.emit("add", now, s.emit("mul", rows, columns))
    grouped = s.emit("reshape", query, shape=(batch, heads, q_heads // heads, width))
    read = s.emit("dot_general", grouped, now, lhs_contract=(3,), rhs_contract=(2,), lhs_batch=(0, 1),
                  rhs_batch=(0, 1))  # fmt: skip
    read = s.binary("mul", s.emit("reshape", read, shape=(batch, q_heads, depth)), scale)
    region = s.region([carried, *slices], [now, read])
    last, ys = b.emit_many(
        "scan", state, *sequences, regions=(region,), num_carry=1, num_xs=len(sequences), length=length, reverse=False
    )
    packed = b.emit("transpose", ys, permutation=(1, 0, 2, 3))
    return [
        b.convert(reshaped(site, packed, (batch, length, q_heads * depth)), dtype),
        b.convert(last, state_dtype),
    ]


def _by_time(site: Site, x: Value, heads: int) -> Value:
    """[B, T, H * D] -> [T, B, H, D] in f32."""
    batch, length, width = x.type.sizes
    split = reshaped(site, x, (batch, length, heads, width // heads))
    return site.b.convert(site.b.emit("transpose", split, permutation=(1, 0, 2, 3)), dtypes.f32)
