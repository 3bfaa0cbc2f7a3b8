"""The registry of custom calls: functions of a stranger that a program may name.

A custom call has a target name and a meaning in NumPy. The registry is process-wide; registering belongs at import
time of whatever brings the target, and afterwards it is only read, from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlx.errors import IRError, nearest
from rlx.ir.graph import Attribute
from rlx.ir.types import TensorType

#: (arrays, attributes) -> arrays; never writes its operands.
CustomEvaluate = Callable[[Sequence[np.ndarray], Mapping[str, Attribute]], Sequence[np.ndarray]]
#: (operand types, attributes) -> result types; raises TypeRuleError.
CustomInfer = Callable[[Sequence[TensorType], Mapping[str, Attribute]], Sequence[TensorType]]


@dataclass(frozen=True)
class CustomCall:
    """One target: its meaning, and the type rule it checks results with, where it has one."""

    name: str
    evaluate: CustomEvaluate
    infer: CustomInfer | None = None


_TARGETS: dict[str, CustomCall] = {}


def register_custom_call(name: str, evaluate: CustomEvaluate, infer: CustomInfer | None = None) -> CustomCall:
    """Make `name` a target of `custom_call`. Raises IRError where the name is taken."""
    if name in _TARGETS:
        raise IRError(f"custom call {name!r} is registered already")
    _TARGETS[name] = CustomCall(name, evaluate, infer)
    return _TARGETS[name]


def find_custom_call(name: str) -> CustomCall | None:
    """The target `name`, or None."""
    return _TARGETS.get(name)


def get_custom_call(name: str) -> CustomCall:
    """The target `name`. Raises IRError where nobody has registered it, naming the nearest."""
    found = _TARGETS.get(name)
    if found is None:
        close = nearest(name, _TARGETS)
        hint = f"did you mean {close!r}?" if close else "register it with rlx.ir.custom.register_custom_call"
        raise IRError(f"no custom call is named {name!r}", hint=hint)
    return found
