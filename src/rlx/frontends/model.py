"""What every frontend hands on: a model whose shapes may be open, and the way to a graph.

A `Model` is what a file says, before any size is chosen. `specialize` picks sizes and makes a `rlx.ir.Graph`, with
shape arithmetic done, branches on known conditions taken and weights as parameters. A model is immutable and may be
shared by threads; weights stay where they were read (a buffer, or a memory-mapped file) and are shared by all graphs.

Open dimensions are `rlx.ir.Dim` symbols: the name that the file gives, or `<input>_<axis>`. The same symbol in two
places means the same size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from rlx.errors import InputMismatch, OpenShape, nearest
from rlx.ir.dim import Dim
from rlx.ir.dtypes import DType
from rlx.ir.graph import Graph
from rlx.ir.types import TensorType

_NO_VALUES: Mapping[str, np.ndarray] = {}
#: The only dimension of a type whose rank the model does not declare; printed `f32[...]`.
ANY_RANK = "..."


class Model(ABC):
    """A model as its file declares it.

    name: the graph's name in the file, or the file's stem.
    source: the path as the user gave it, for messages.
    inputs: name -> type in the file's order; optional inputs are not among them.
    outputs: name -> declared type, in the file's order.
    defaults: optional inputs and the values they take; give one in `values` to replace it.
    """

    name: str
    source: str
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    defaults: Mapping[str, np.ndarray]

    @abstractmethod
    def specialize(
        self, shapes: Mapping[str, tuple[int, ...]] = {}, values: Mapping[str, np.ndarray] = _NO_VALUES
    ) -> Graph:
        """The graph for these input shapes.

        shapes: input -> sizes. Inputs that the model declares in full, or whose dims follow from the others, may be
            left out. An optional input named here becomes an ordinary input.
        values: inputs fixed to constants: they are inputs of the graph no longer.

        Raises InputMismatch for an unknown name, a contradicted size or dtype, or one symbol with two sizes;
        OpenShape where a size is still unknown; DataDependentShape, UnknownModelOp, UnsupportedModel or InvalidModel
        where the model's content cannot be imported.
        """

    def default(self, name: str, type: TensorType) -> np.ndarray | None:
        """The value that input `name` of this type takes where a call leaves it out; None where it must be given."""
        return None

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {type}" for name, type in self.inputs.items())
        outputs = ", ".join(f"{name}: {type}" for name, type in self.outputs.items())
        return f"<{type(self).__name__} {self.name!r} ({inputs}) -> ({outputs})>"


def solve_shapes(
    declared: Mapping[str, TensorType], shapes: Mapping[str, tuple[int, ...]], *, where: str
) -> dict[str, tuple[int, ...]]:
    """Sizes for every declared input, from what the model says and what the caller gives.

    Each given shape is matched with its declaration; a symbol takes the size found first and must keep it everywhere.
    `where` says in errors which model this is. Raises InputMismatch and OpenShape as `Model.specialize` tells.
    """
    bound: dict[Dim, tuple[int, str]] = {}
    for name, sizes in shapes.items():
        if name not in declared:
            raise unknown_input(name, declared, where=where)
        expected = declared[name]
        if expected.shape == (Dim(ANY_RANK),):
            continue
        if len(sizes) != expected.rank:
            raise InputMismatch(
                f"input {name!r} is given the shape {tuple(sizes)} of rank {len(sizes)}, "
                f"the model declares {expected} of rank {expected.rank}",
                where=where,
            )
        for axis, (size, dim) in enumerate(zip(sizes, expected.shape, strict=True)):
            if isinstance(dim, int):
                if size != dim:
                    raise InputMismatch(
                        f"input {name!r} is given the shape {tuple(sizes)}, the model declares {expected}: "
                        f"axis {axis} is {size} against {dim}",
                        where=where,
                    )
                continue
            place = f"axis {axis} of {name!r}"
            if (dim.lo is not None and size < dim.lo) or (dim.hi is not None and size > dim.hi):
                bound_text = f"at most {dim.hi}" if dim.hi is not None and size > dim.hi else f"at least {dim.lo}"
                raise InputMismatch(
                    f"dimension {str(dim)!r} is {size} by {place}, the model allows {bound_text}", where=where
                )
            first_size, first_place = bound.setdefault(dim, (int(size), place))
            if first_size != size:
                raise InputMismatch(
                    f"dimension {str(dim)!r} is {size} by {place} {tuple(sizes)}, but {first_size} by {first_place}",
                    where=where,
                    hint="the model gives both the same name, so they must be equal",
                )
    return {
        name: tuple(int(d) for d in shapes[name]) if name in shapes else _closed(name, type, bound, where)
        for name, type in declared.items()
    }


def _closed(name: str, type: TensorType, bound: Mapping[Dim, tuple[int, str]], where: str) -> tuple[int, ...]:
    open_dims = [str(d) for d in type.shape if isinstance(d, Dim) and d not in bound]
    if open_dims:
        example = tuple(1 if isinstance(d, Dim) else d for d in type.shape)
        raise OpenShape(
            f"input {name!r} is {type} and no size is given for {', '.join(map(repr, open_dims))}",
            where=where,
            hint=f"give its shape, for example shapes={{{name!r}: {example}}}",
        )
    return tuple(bound[d][0] if isinstance(d, Dim) else d for d in type.shape)


def unknown_input(name: str, known: Mapping[str, object], *, where: str) -> InputMismatch:
    """The error for a name that is no input, with the nearest known one."""
    close = nearest(name, known)
    listing = ", ".join(known) or "none"
    return InputMismatch(
        f"the model has no input {name!r}; it has: {listing}",
        where=where,
        hint=f"did you mean {close!r}?" if close else None,
    )


def check_value(name: str, array: np.ndarray, dtype: DType, *, where: str) -> np.ndarray:
    """`array` as the fixed value of input `name`. Raises InputMismatch where its dtype is not the declared one."""
    array = np.asarray(array)
    if array.dtype != dtype.numpy:
        raise InputMismatch(
            f"input {name!r} is given a value of dtype {array.dtype}, the model declares {dtype}",
            where=where,
            hint=f"convert it: value.astype({dtype.numpy.name!r})",
        )
    return array
