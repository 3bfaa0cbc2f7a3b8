"""The activations that recurrent cells name, as ONNX lists them, with their two scaling values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlx.errors import TypeRuleError, nearest
from rlx.ir.builder import GraphBuilder
from rlx.ir.graph import Value
from rlx.ir.op import Attrs
from rlx.ir.ops.signature import require

Formula = Callable[[GraphBuilder, Value, float, float], Value]


@dataclass(frozen=True)
class _Kind:
    """alpha, beta: defaults; None where the function has no such value."""

    formula: Formula
    alpha: float | None = None
    beta: float | None = None


def _affine(b: GraphBuilder, x: Value, alpha: float, beta: float) -> Value:
    return b.binary("add", b.binary("mul", x, alpha), beta)


def _scaled_tanh(b: GraphBuilder, x: Value, alpha: float, beta: float) -> Value:
    return b.binary("mul", b.emit("tanh", b.binary("mul", x, beta)), alpha)


_KINDS = {
    "relu": _Kind(lambda b, x, alpha, beta: b.emit("relu", x)),
    "tanh": _Kind(lambda b, x, alpha, beta: b.emit("tanh", x)),
    "sigmoid": _Kind(lambda b, x, alpha, beta: b.emit("logistic", x)),
    "affine": _Kind(_affine, 1.0, 0.0),
    "leakyrelu": _Kind(lambda b, x, alpha, beta: b.emit("leaky_relu", x, alpha=alpha), 0.01),
    "thresholdedrelu": _Kind(lambda b, x, alpha, beta: b.emit("thresholded_relu", x, alpha=alpha), 1.0),
    "scaledtanh": _Kind(_scaled_tanh, 1.0, 1.0),
    "hardsigmoid": _Kind(lambda b, x, alpha, beta: b.emit("hard_sigmoid", x, alpha=alpha, beta=beta), 0.2, 0.5),
    "elu": _Kind(lambda b, x, alpha, beta: b.emit("elu", x, alpha=alpha), 1.0),
    "softsign": _Kind(lambda b, x, alpha, beta: b.emit("softsign", x)),
    "softplus": _Kind(lambda b, x, alpha, beta: b.emit("softplus", x)),
}


@dataclass(frozen=True)
class CellActivation:
    """One named activation with its values bound; call it to emit it."""

    formula: Formula
    alpha: float
    beta: float

    def __call__(self, b: GraphBuilder, x: Value) -> Value:
        return self.formula(b, x, self.alpha, self.beta)


def cell_activations(op: str, attrs: Attrs, defaults: tuple[str, ...], directions: int) -> list[CellActivation]:
    """The activations of all directions, one direction after another.

    attrs: `activations` names them (case does not matter; empty: `defaults` in each direction); `activation_alpha` and
    `activation_beta` are used up in order by those functions that have such a value, and its default follows.
    Raises TypeRuleError for an unknown name or a wrong count.
    """
    names = attrs["activations"] or defaults * directions
    good = isinstance(names, tuple) and all(isinstance(n, str) for n in names)
    require(good, f"{op}: activations must be a tuple of names, got {names!r}")
    count = len(defaults) * directions
    require(len(names) == count, f"{op}: {count} activations are needed, got {len(names)}: {', '.join(names)}")
    alphas, betas = (list(_numbers(op, attrs, key)) for key in ("activation_alpha", "activation_beta"))
    bound = []
    for name in names:
        kind = _KINDS.get(name.lower())
        if kind is None:
            close = nearest(name.lower(), _KINDS)
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(_KINDS)}"
            raise TypeRuleError(f"{op}: no activation is named {name!r}", hint=hint)
        alpha = kind.alpha if kind.alpha is None or not alphas else alphas.pop(0)
        beta = kind.beta if kind.beta is None or not betas else betas.pop(0)
        bound.append(CellActivation(kind.formula, alpha or 0.0, beta or 0.0))
    return bound


def _numbers(op: str, attrs: Attrs, key: str) -> tuple[float, ...]:
    value = attrs[key]
    good = isinstance(value, tuple) and all(isinstance(x, float | int) for x in value)
    require(good, f"{op}: {key} must be a tuple of numbers, got {value!r}")
    return value
