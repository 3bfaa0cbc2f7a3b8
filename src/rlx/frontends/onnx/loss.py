"""Losses, for models exported with them."""

from __future__ import annotations

from rlx.frontends.onnx.reduce import total
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value


@handles("NegativeLogLikelihoodLoss")
def nll_loss(site: Site) -> Value:
    return _nll(site, site[0])


@handles("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(site: Site) -> list[Value]:
    log_probabilities = site.b.emit("log_softmax", site[0], axis=1)
    return [_nll(site, log_probabilities), log_probabilities]


def _nll(site: Site, x: Value) -> Value:
    """-x at the target class, weighted; classes are axis 1 of `x`, and an ignored target weighs nothing."""
    b, target, weights = site.b, site[1], site.get(2)
    dtype, shape = x.type.dtype, x.type.shape
    others = tuple(a for a in range(x.type.rank) if a != 1)
    spread = b.emit("broadcast_in_dim", b.convert(target, dtypes.i64), shape=shape, broadcast_dims=others)
    chosen = b.emit("eq", b.iota(shape, 1, dtypes.i64), spread)
    zeros = b.full(shape, 0, dtype)
    picked = total(site, b.emit("select", chosen, x, zeros), (1,))
    if weights is None:
        weight = b.full(picked.type.shape, 1, dtype)
    else:
        each = b.emit("broadcast_in_dim", weights, shape=shape, broadcast_dims=(1,))
        weight = total(site, b.emit("select", chosen, each, zeros), (1,))
    ignored = site.attr("ignore_index", None)
    if ignored is not None:
        skip = b.binary("eq", target, ignored)
        weight = b.emit("select", skip, b.full(weight.type.shape, 0, dtype), weight)
    loss = b.emit("mul", b.emit("neg", picked), weight)
    reduction = site.choice("reduction", "mean", ("none", "sum", "mean"))
    if reduction == "none":
        return loss
    axes = tuple(range(loss.type.rank))
    summed = total(site, loss, axes)
    return summed if reduction == "sum" else b.emit("div", summed, total(site, weight, axes))
