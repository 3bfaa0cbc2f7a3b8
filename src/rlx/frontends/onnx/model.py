"""ONNX models: what the file declares, graphs for given shapes, and what decides them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from rlx.errors import InvalidModel, ModelNotFound
from rlx.frontends.model import ANY_RANK, Model, check_value, solve_shapes, unknown_input
from rlx.frontends.onnx.identity import identity_of, weights_of
from rlx.frontends.onnx.node import DecodedModel, check_outputs, read_model
from rlx.frontends.onnx.partial import PartialBuilder
from rlx.frontends.onnx.scope import Scope, is_weight
from rlx.ir.dim import Dim
from rlx.ir.dtypes import f32
from rlx.ir.graph import Graph
from rlx.ir.types import TensorType, type_of

#: The file format's version from which initializers need not be listed as inputs; listed ones are then defaults.
_OPTIONAL_INPUTS_SINCE = 4


class OnnxModel(Model):
    """A decoded ONNX file. `specialize` imports it for given shapes; see `rlx.frontends.model.Model`."""

    def __init__(self, decoded: DecodedModel, source: str) -> None:
        check_outputs(decoded, source)
        graph = decoded.graph
        self.decoded = decoded
        self.source = source
        self.name = graph.name or Path(source).stem
        self.inputs = {n: t for n, t in graph.inputs.items() if t is not None and n not in graph.initializers}
        unknown = TensorType((Dim(ANY_RANK),), f32)
        self.outputs = {name: type or unknown for name, type in graph.outputs.items()}
        optional = decoded.ir_version >= _OPTIONAL_INPUTS_SINCE
        self.defaults = {n: graph.initializers[n] for n in graph.inputs if optional and n in graph.initializers}
        self._looked_at_weights = False

    @property
    def identity(self) -> str | None:
        """A digest of all that decides the graphs but sizes and weights' values; None once one depended on these."""
        return None if self._looked_at_weights else self._identity

    @cached_property
    def _identity(self) -> str:
        return identity_of(self.decoded)

    @cached_property
    def weights(self) -> Mapping[str, np.ndarray]:
        """The file's weights by name: parameters of the graphs."""
        return weights_of(self.decoded)

    def specialize(self, shapes: Mapping[str, tuple[int, ...]] = {}, values: Mapping[str, np.ndarray] = {}) -> Graph:
        where = f"in {self.source}"
        declared = self._declared(shapes, values, where)
        fixed = {n: check_value(n, array, declared[n].dtype, where=where) for n, array in values.items()}
        sizes = solve_shapes(declared, {**shapes, **{n: a.shape for n, a in fixed.items()}}, where=where)
        builder = PartialBuilder(self.name, source=self.source)
        scope = Scope(self.decoded, builder)
        for name, type in declared.items():
            if name in fixed:
                array = fixed[name]
                scope.names[name] = builder.parameter(name, array) if is_weight(array) else builder.literal(array, name)
            else:
                scope.names[name] = builder.input(name, TensorType(sizes[name], type.dtype))
        results = scope.import_graph(self.decoded.graph)
        self._looked_at_weights |= builder.looked_at_weights
        return builder.build({name: builder.write(v) for name, v in zip(self.outputs, results, strict=True)})

    def _declared(
        self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray], where: str
    ) -> dict[str, TensorType]:
        """The inputs of this specialisation: the required ones and those optional ones that the caller gives."""
        known = {**self.inputs, **self.defaults}
        for name in (*shapes, *values):
            if name not in known:
                raise unknown_input(name, known, where=where)
            if name in shapes and name in values and tuple(shapes[name]) != np.shape(values[name]):
                raise InvalidModel(f"input {name!r} is given both a shape and a value of another shape", where=where)
        optional = {n: type_of(self.defaults[n]) for n in (*shapes, *values) if n in self.defaults}
        return {**self.inputs, **optional}


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """The ONNX model in the file `path`. External data is memory-mapped from the file's folder, and from there only.

    Raises ModelNotFound, NotAModel, DamagedModel, InvalidModel, UnsupportedModel or ExternalDataRefused.
    """
    place = Path(path)
    if not place.is_file():
        raise ModelNotFound(f"there is no file {str(path)!r}")
    return OnnxModel(read_model(place), str(path))
