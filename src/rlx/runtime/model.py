"""Models whose dimensions are open: the sizes of a call choose the program, compiled when first seen.

A `CompiledModel` is called as a `CompiledGraph` is, and keeps one for each set of input sizes. Any thread may call;
compiling is done by one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.driver import Buffer, Device
from rlx.driver.fork import renew_in_child
from rlx.errors import DTypeMismatch, MissingInput, NotCompiled, ProgramClosed
from rlx.ir import Dim, TensorType
from rlx.runtime.program import Array, CompiledGraph

if TYPE_CHECKING:
    from rlx.runtime.report import Report


class CompiledModel:
    """A model with open dimensions on one device: one `CompiledGraph` a set of input sizes.

    inputs, outputs: as the model declares them, open dimensions as `Dim` symbols. `report` is that of the program that
    ran last; it raises NotCompiled before the first call.
    """

    def __init__(
        self,
        inputs: Mapping[str, TensorType],
        outputs: Mapping[str, TensorType],
        device: Device,
        compile_for: Callable[[dict[str, tuple[int, ...]]], CompiledGraph],
    ) -> None:
        self.inputs = dict(inputs)
        self.outputs = dict(outputs)
        self.device = device
        self._compile_for = compile_for
        self._programs: dict[tuple[tuple[str, tuple[int, ...]], ...], CompiledGraph] = {}
        self._last: CompiledGraph | None = None
        self._closed = False
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew; see `rlx.driver.fork`."""
        self._lock = threading.Lock()

    def __call__(self, **inputs: Array) -> dict[str, Any]:
        """`run` with the inputs as keywords."""
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Array], out: Mapping[str, np.ndarray | Buffer] | None = None) -> dict[str, Any]:
        """As `CompiledGraph.run`; compiles first where these sizes are new."""
        return self.program_for(inputs).run(inputs, out)

    def program_for(self, inputs: Mapping[str, Array]) -> CompiledGraph:
        """The program that serves inputs of these shapes.

        Raises MissingInput, DTypeMismatch for what is no array; ProgramClosed after `close`; as `Session.compile`.
        """
        shapes = {name: _shape(name, value) for name, value in inputs.items()}
        told = {d for name in shapes for d in (self.inputs[name].shape if name in self.inputs else ())}
        for name, type in self.inputs.items():
            if name not in shapes and any(isinstance(d, Dim) and d not in told for d in type.shape):
                expected = ", ".join(f"{n}: {t}" for n, t in self.inputs.items())
                raise MissingInput(f"input {name!r} is missing", hint=f"the model expects: {expected}")
        key = tuple(sorted(shapes.items()))
        program = self._programs.get(key)
        if program is None:
            with self._lock:
                if self._closed:
                    raise ProgramClosed("the model was closed")
                program = self._programs.get(key) or self._compile_for(shapes)
                self._programs[key] = program
        self._last = program
        return program

    @property
    def report(self) -> Report:
        if self._last is None:
            raise NotCompiled(
                "the model's sizes are open, and nothing has run yet",
                hint="call the program once, or compile with shapes={...}",
            )
        return self._last.report

    def close(self) -> None:
        """Close every program; calls after it raise ProgramClosed."""
        with self._lock:
            self._closed = True
            for program in self._programs.values():
                program.close()
            self._programs.clear()

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs = ", ".join(f"{n}: {t}" for n, t in self.inputs.items())
        return f"<CompiledModel ({inputs}) on {self.device}, {len(self._programs)} programs>"


def _shape(name: str, value: Array) -> tuple[int, ...]:
    if isinstance(value, Buffer):
        return value.type.sizes
    try:
        return tuple(np.shape(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DTypeMismatch(f"input {name!r} is no array: {error}") from error
