"""What a handler sees, and the table of handlers.

A handler imports one ONNX op: `@handles("Add")` on a function from a `Site` to the node's outputs. It reads operands
(`site[0]`), arguments that must be numbers (`site.ints(1, "shape")`), and attributes (`site.attr("axis", 0)`), and
emits ops through `site.b`. Handlers see only the newest form of each op; `rlx.frontends.onnx.upgrade` has rewritten
older ones. Shapes that do not fit raise TypeRuleError, attribute values without a rule UnsupportedModel, missing
operands or attributes InvalidModel, and numbers unknown at import DataDependentShape; all name the node.

The table fills at the first look at it, which imports the modules of handlers: a model whose program is known is loaded
without them. After that it is only read, from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rlx.errors import DataDependentShape, FrontendError, InvalidModel, TypeRuleError, UnsupportedModel
from rlx.frontends.onnx.node import STANDARD, ModelNode
from rlx.frontends.onnx.partial import PartialBuilder
from rlx.ir.graph import Value

if TYPE_CHECKING:
    from rlx.frontends.onnx.scope import Scope

_MISSING = object()


class Site:
    """One node, at the moment of its import. `site[i]` is operand i; `b` is the builder to emit into."""

    __slots__ = ("b", "node", "scope")

    def __init__(self, node: ModelNode, scope: Scope) -> None:
        self.node = node
        self.scope = scope
        self.b: PartialBuilder = scope.builder

    # -- operands --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.node.inputs)

    def get(self, index: int) -> Value | None:
        """Operand `index`, None where it is absent."""
        if index >= len(self.node.inputs):
            return None
        operand = self.node.inputs[index]
        if isinstance(operand, np.ndarray):
            return self.b.literal(operand)
        return self.scope.lookup(operand) if operand else None

    def __getitem__(self, index: int) -> Value:
        value = self.get(index)
        if value is None:
            raise InvalidModel(f"{self.node.full_name} lacks its operand {index}")
        return value

    def operands(self) -> list[Value]:
        """All operands that are present, in order."""
        found = (self.get(i) for i in range(len(self)))
        return [value for value in found if value is not None]

    def array(self, index: int, what: str) -> np.ndarray:
        """Operand `index` as data: `what` it means. Raises DataDependentShape where only a run can tell."""
        value = self[index]
        found = self.b.data_of(value)
        if found is None:
            raise self.depends(value, what)
        return found

    def maybe_array(self, index: int, what: str) -> np.ndarray | None:
        """As `array`, None where the operand is absent."""
        return None if self.get(index) is None else self.array(index, what)

    def ints(self, index: int, what: str) -> tuple[int, ...]:
        """Operand `index` as numbers, flattened."""
        return tuple(int(x) for x in self.array(index, what).reshape(-1))

    def maybe_ints(self, index: int, what: str) -> tuple[int, ...] | None:
        """As `ints`, None where the operand is absent."""
        return None if self.get(index) is None else self.ints(index, what)

    # -- attributes and outputs ------------------------------------------------------------------------------------

    def attr(self, name: str, default: Any = _MISSING) -> Any:
        """The attribute `name`. Raises InvalidModel where it is absent and has no default."""
        found = self.node.attrs.get(name, default)
        if found is _MISSING:
            raise InvalidModel(f"{self.node.full_name} lacks its attribute {name!r}")
        return found

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """A text attribute that must be one of `allowed`. Raises UnsupportedModel for another value."""
        value = self.attr(name, default)
        if value not in allowed:
            raise self.unsupported(f"{name}={value!r}", f"supported: {', '.join(allowed)}")
        return value

    def wants(self, index: int) -> bool:
        """Whether output `index` has a name, so that something may read it."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index])

    def axis(self, name: str, default: int, rank: int) -> int:
        """An axis attribute as a number in [0, rank)."""
        return self.normalize(self.attr(name, default), rank)

    def normalize(self, axis: int, rank: int) -> int:
        """`axis` counted from the front. Raises TypeRuleError where it is outside [-rank, rank)."""
        if not -rank <= axis < rank:
            raise TypeRuleError(f"axis {axis} of {self.node.full_name} is outside a tensor of rank {rank}")
        return axis % rank if rank else 0

    # -- errors ----------------------------------------------------------------------------------------------------

    def unsupported(self, what: str, hint: str | None = None) -> UnsupportedModel:
        """The error for a form of this op that has no rule."""
        return UnsupportedModel(f"{self.node.full_name} (opset {self.node.opset}) with {what} has no rule", hint=hint)

    def misfit(self, why: str) -> TypeRuleError:
        """The error for operands whose shapes or dtypes do not fit."""
        return TypeRuleError(f"{self.node.full_name}: {why}")

    def depends(self, value: Value, what: str) -> FrontendError:
        """The error for `what` being needed at import while `value` is known only at run time."""
        roots = self.scope.roots(value)
        example = ", ".join(f"{name!r}: array" for name in roots)
        return DataDependentShape(
            f"the {what} of {self.node.full_name} node {self.node.location.name!r} is known only when the model runs",
            hint=f"it follows from {', '.join(map(repr, roots))}: fix it at import, values={{{example}}}"
            if roots
            else "it follows from weights or from random numbers",
        )


Outputs = Value | Sequence[Value | None]
Handler = Callable[[Site], Outputs]
AnyHandler = TypeVar("AnyHandler", bound=Handler)
_HANDLERS: dict[tuple[str, str], Handler] = {}
#: Modules of this package that register handlers.
_MODULES = (
    "attention",
    "control",
    "detection",
    "einsum",
    "elementwise",
    "indexing",
    "linear",
    "loss",
    "normalization",
    "pooling",
    "quantize",
    "recurrent",
    "reduce",
    "resize",
    "sampling",
    "shape",
)


def handles(*names: str, domain: str = STANDARD) -> Callable[[AnyHandler], AnyHandler]:
    """Register a function as the rule of these ops."""

    def register(handler: AnyHandler) -> AnyHandler:
        for name in names:
            _HANDLERS[(domain, name)] = handler
        return handler

    return register


@cache
def handlers() -> Mapping[tuple[str, str], Handler]:
    """(domain, op) -> rule, for all ops that RLX imports."""
    for module in _MODULES:
        import_module(f"rlx.frontends.onnx.{module}")
    return _HANDLERS
