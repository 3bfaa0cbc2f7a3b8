"""What type rules are written with: the checks that refuse operands and attributes in the op's own words.

Every function here raises TypeRuleError and nothing else, naming the op, the operand (counted from 0) and both sides.
Sizes may be symbolic: they are compared with `==`, and an order is asked for only where both sides are ints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rlx.errors import TypeRuleError
from rlx.ir.dtypes import ALL, DType, bool_, by_name
from rlx.ir.op import Attrs, Call, RunRegion
from rlx.ir.types import Shape, Size, TensorType

#: A type rule, and a meaning: what the fields `infer` and `evaluate` of a record hold.
Infer = Callable[[Call], tuple[TensorType, ...]]
Evaluate = Callable[[Sequence[np.ndarray], Attrs, RunRegion], tuple[np.ndarray, ...]]

FLOATS: tuple[DType, ...] = tuple(d for d in ALL if d.is_float)
INTEGERS: tuple[DType, ...] = tuple(d for d in ALL if d.is_integer)
COMPLEXES: tuple[DType, ...] = tuple(d for d in ALL if d.is_complex)
BOOL: tuple[DType, ...] = (bool_,)
#: Dtypes that an order is defined on.
ORDERED = BOOL + INTEGERS + FLOATS
#: Dtypes that arithmetic is defined on.
NUMERIC = INTEGERS + FLOATS + COMPLEXES
#: The part of a complex number, and the complex number of a part.
PART_OF = {by_name("c64"): by_name("f32"), by_name("c128"): by_name("f64")}
COMPLEX_OF = {part: whole for whole, part in PART_OF.items()}


def require(condition: bool, message: str, hint: str | None = None) -> None:
    """Refuse with `message` unless `condition` holds."""
    if not condition:
        raise TypeRuleError(message, hint=hint)


def operands(op: str, call: Call, count: int, *, regions: int = 0) -> tuple[TensorType, ...]:
    """The operand types; refuses another number of operands or regions."""
    require(len(call.inputs) == count, f"{op} takes {count} operands, got {len(call.inputs)}")
    require(len(call.regions) == regions, f"{op} takes {regions} regions, got {len(call.regions)}")
    return call.inputs


def at_least(op: str, call: Call, count: int) -> tuple[TensorType, ...]:
    """The operand types; refuses fewer than `count`, or any region."""
    require(len(call.inputs) >= count, f"{op} takes at least {count} operands, got {len(call.inputs)}")
    require(not call.regions, f"{op} takes no regions, got {len(call.regions)}")
    return call.inputs


def require_dtype(op: str, index: int, type: TensorType, accepted: Sequence[DType]) -> None:
    """Refuse operand `index` unless its dtype is one of `accepted`."""
    names = ", ".join(d.name for d in accepted)
    require(type.dtype in accepted, f"{op}: operand {index} is {type}, accepted dtypes are {names}")


def require_same_dtype(op: str, types: Sequence[TensorType], first: int = 0) -> None:
    """Refuse operands (numbered from `first`) whose dtypes differ."""
    for i, t in enumerate(types):
        require(
            t.dtype is types[0].dtype,
            f"{op}: operand {first + i} is {t}, but operand {first} is {types[0]}: their dtypes must be equal",
            "convert one of them; primitives do not promote",
        )


def require_same_shape(op: str, types: Sequence[TensorType], first: int = 0) -> None:
    """Refuse operands (numbered from `first`) whose shapes differ."""
    for i, t in enumerate(types):
        require(
            t.shape == types[0].shape,
            f"{op}: operand {first + i} is {t}, but operand {first} is {types[0]}: their shapes must be equal",
            "broadcast explicitly; primitives do not broadcast",
        )


def require_scalar(op: str, index: int, type: TensorType) -> None:
    """Refuse an operand that has dimensions."""
    require(type.rank == 0, f"{op}: operand {index} is {type}, it must be a scalar")


def ints(op: str, attrs: Attrs, name: str, length: int | None = None) -> tuple[int, ...]:
    """The attribute `name` as a tuple of ints; refuses anything else, or another length."""
    value = attrs[name]
    good = isinstance(value, tuple) and all(isinstance(x, int) and not isinstance(x, bool) for x in value)
    require(good, f"{op}: {name} must be a tuple of ints, got {value!r}")
    require(length is None or len(value) == length, f"{op}: {name} must have {length} entries, got {value!r}")
    return value


def sizes(op: str, attrs: Attrs, name: str, length: int | None = None) -> Shape:
    """The attribute `name` as a shape: ints that are not negative, or symbolic sizes."""
    value = attrs[name]
    good = isinstance(value, tuple) and all(is_size(x) for x in value)
    require(good, f"{op}: {name} must be a tuple of sizes, got {value!r}")
    require(length is None or len(value) == length, f"{op}: {name} must have {length} entries, got {value!r}")
    return value


def is_size(value: object) -> bool:
    """Whether `value` can be a dimension."""
    return isinstance(value, Size) and not isinstance(value, bool) and not (isinstance(value, int) and value < 0)


def pairs(op: str, attrs: Attrs, name: str, length: int) -> tuple[tuple[int, int], ...]:
    """The attribute `name` as (low, high) pairs of ints."""
    value = attrs[name]
    good = isinstance(value, tuple) and all(
        isinstance(p, tuple) and len(p) == 2 and all(isinstance(x, int) for x in p) for p in value
    )
    require(good, f"{op}: {name} must be a tuple of (low, high) pairs, got {value!r}")
    require(len(value) == length, f"{op}: {name} must have {length} pairs, got {value!r}")
    return value


def dimensions(op: str, attrs: Attrs, name: str, rank: int, *, ordered: bool = False) -> tuple[int, ...]:
    """The attribute `name` as distinct dimensions of a tensor of `rank`; `ordered` asks that they increase."""
    value = ints(op, attrs, name)
    for d in value:
        require(0 <= d < rank, f"{op}: {name} {value} names dimension {d} of a tensor of rank {rank}")
    require(len(set(value)) == len(value), f"{op}: {name} {value} names a dimension twice")
    require(not ordered or list(value) == sorted(value), f"{op}: {name} {value} must increase")
    return value


def dimension(op: str, attrs: Attrs, rank: int, name: str = "dimension") -> int:
    """The attribute `name` as one dimension of a tensor of `rank`."""
    value = attrs[name]
    require(isinstance(value, int) and not isinstance(value, bool), f"{op}: {name} must be an int, got {value!r}")
    require(0 <= value < rank, f"{op}: {name} is {value}, the operand has rank {rank}")
    return value


def flag(op: str, attrs: Attrs, name: str) -> bool:
    """The attribute `name` as a bool."""
    require(isinstance(attrs[name], bool), f"{op}: {name} must be a bool, got {attrs[name]!r}")
    return attrs[name]


def whole(op: str, attrs: Attrs, name: str, least: int) -> int:
    """The attribute `name` as an int of at least `least`."""
    value = attrs[name]
    require(isinstance(value, int) and not isinstance(value, bool), f"{op}: {name} must be an int, got {value!r}")
    require(value >= least, f"{op}: {name} is {value}, it must be at least {least}")
    return value


def choice(op: str, attrs: Attrs, name: str, known: Sequence[Any]) -> Any:
    """The attribute `name`, one of `known`."""
    require(attrs[name] in known, f"{op}: {name} is {attrs[name]!r}, it must be one of {', '.join(map(str, known))}")
    return attrs[name]


def dtype(op: str, attrs: Attrs, accepted: Sequence[DType] = ALL, name: str = "dtype") -> DType:
    """The attribute `name` as a DType, one of `accepted`."""
    value = attrs[name]
    require(isinstance(value, DType), f"{op}: {name} must be a DType, got {value!r}")
    names = ", ".join(d.name for d in accepted)
    require(value in accepted, f"{op}: {name} is {value}, accepted dtypes are {names}")
    return value


def require_fits(op: str, what: str, part: Size, whole_size: Size) -> None:
    """Refuse where both are ints and `part` is larger than `whole_size`."""
    fits = not (isinstance(part, int) and isinstance(whole_size, int)) or part <= whole_size
    require(fits, f"{op}: {what} is {part}, the dimension has size {whole_size}")


def without(shape: Shape, removed: Iterable[int]) -> Shape:
    """`shape` less the dimensions `removed`."""
    gone = set(removed)
    return tuple(d for i, d in enumerate(shape) if i not in gone)
