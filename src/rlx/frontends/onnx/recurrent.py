"""LSTM, GRU and RNN: ONNX's recurrent layers are RLX's composites, operand by operand."""

from __future__ import annotations

from rlx.frontends.onnx.site import Site, handles
from rlx.ir.graph import Value

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
    attrs = {name: tuple(site.attr(name)) for name in _LISTS if name in site.node.attrs}
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
