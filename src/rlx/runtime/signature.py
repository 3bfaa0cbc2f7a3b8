"""What a program takes and gives, and the checks that a call's arrays and Buffers pass before anything runs.

Names, shapes, dtypes, devices and overlaps are held to the program's types; nothing is converted. Messages name the
input or output and, where it is known, what the program was compiled from. Immutable: any thread may check.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlx.driver import Buffer, Device
from rlx.errors import (
    BufferReadOnly,
    DonationError,
    DTypeMismatch,
    MissingInput,
    ShapeMismatch,
    UnknownInput,
    nearest,
)
from rlx.ir import TensorType
from rlx.runtime.donation import check_buffers, overlap

Array = Any  # what np.asarray takes


@dataclass(frozen=True)
class Signature:
    """Of one program.

    inputs, outputs: names -> types, in the model's order. defaults: arrays of inputs that a call may leave out.
    donated: inputs that calls consume. in_inputs: output -> the donated input in whose memory it is given.
    where: "compiled from" what, or None.
    """

    device: Device
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    defaults: Mapping[str, np.ndarray]
    donated: Collection[str]
    in_inputs: Mapping[str, str]
    where: str | None

    def complete(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs with the defaults of those left out, on the device where any of the others is a Buffer."""
        left_out = {name: array for name, array in self.defaults.items() if name not in inputs}
        left_out |= {name: left_out[name].copy() for name in self.donated if name in left_out}
        if any(isinstance(v, Buffer) for v in inputs.values()):
            return {**inputs, **{n: Buffer.from_numpy(a).to(self.device) for n, a in left_out.items()}}
        return {**inputs, **left_out}

    def arrays(self, inputs: Mapping[str, Array]) -> list[np.ndarray]:
        """The inputs as C-contiguous, aligned arrays, in order.

        Raises MissingInput, UnknownInput, DTypeMismatch, ShapeMismatch.
        """
        arrays = [self._array(name, type, inputs) for name, type in self.inputs.items()]
        if len(inputs) != len(arrays):
            self._refuse_unknown(inputs)
        return arrays

    def output_arrays(self, out: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The arrays given for outputs, writable as they are and apart.

        Raises UnknownInput, DTypeMismatch, ShapeMismatch.
        """
        self._refuse_unknown_outputs(out)
        for name, array in out.items():
            type = self.outputs[name]
            if not isinstance(array, np.ndarray) or array.dtype != type.dtype.numpy:
                raise DTypeMismatch(f"out[{name!r}] is not a {type.dtype.numpy} array", where=self.where)
            if array.shape != type.sizes:
                raise ShapeMismatch(
                    f"out[{name!r}] has shape {array.shape}, the program gives {type.sizes}", where=self.where
                )
            if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
                raise ShapeMismatch(f"out[{name!r}] is not a writable C-contiguous array", where=self.where)
        given = dict(out)
        names = list(given)
        for i, name in enumerate(names):
            if any(np.may_share_memory(given[name], given[other]) for other in names[:i]):
                raise ShapeMismatch(f"out[{name!r}] overlaps another output", where=self.where)
        return given

    def buffers(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any], *, copies: bool = False
    ) -> tuple[list[Buffer], list[Buffer]]:
        """Inputs and outputs in order, new Buffers for outputs that are not given.

        copies: an input that overlaps an output is copied; else it is refused. Raises as `arrays`; BufferReadOnly;
        DonationError where a donated input cannot be overwritten.
        """
        self._refuse_unknown(inputs)
        self._refuse_unknown_outputs(out)
        feeds: list[Buffer] = []
        for name, type in self.inputs.items():
            buffer = inputs.get(name)
            if buffer is None:
                raise MissingInput(f"input {name!r} is missing", where=self.where)
            self._check_buffer(f"input {name!r}", buffer, type)
            feeds.append(buffer)
        named = dict(zip(self.inputs, feeds, strict=True))
        check_buffers(self.donated, named, out)
        sinks: list[Buffer] = []
        for name, type in self.outputs.items():
            buffer = out.get(name)
            if buffer is None:
                lies = self.in_inputs.get(name)
                buffer = Buffer.empty(type, self.device) if lies is None else named[lies]
            self._check_buffer(f"out[{name!r}]", buffer, type)
            if buffer.readonly:
                raise BufferReadOnly(f"out[{name!r}] is read-only", where=self.where)
            if any(overlap(buffer, other) for other in sinks):
                raise ShapeMismatch(f"out[{name!r}] overlaps another output", where=self.where)
            sinks.append(buffer)
        if out:
            for at, (name, feed) in enumerate(zip(self.inputs, feeds, strict=True)):
                if any(overlap(feed, sink) for sink in out.values()):
                    if not copies:
                        raise ShapeMismatch(f"input {name!r} overlaps an output", where=self.where)
                    feeds[at] = feed.copy()
        return feeds, sinks

    def check_bound(self, outputs: Mapping[str, object]) -> None:
        """That a runner is given memory for each output that does not lie in a donated input, and for no other.

        Raises MissingInput, DonationError.
        """
        for name in self.outputs:
            if name not in self.in_inputs:
                if name not in outputs:
                    raise MissingInput(f"output {name!r} is missing: a runner needs memory for each", where=self.where)
            elif name in outputs:
                raise DonationError(
                    f"output {name!r} lies in the donated input {self.in_inputs[name]!r}, it cannot be bound elsewhere",
                    where=self.where,
                    hint=f"leave {name!r} out, and read it in the input after each call",
                )

    def _array(self, name: str, type: TensorType, inputs: Mapping[str, Array]) -> np.ndarray:
        shape, dtype = type.sizes, type.dtype.numpy
        try:
            array = np.asarray(inputs[name])
        except KeyError:
            self._refuse_unknown(inputs)
            expected = ", ".join(f"{n}: {t}" for n, t in self.inputs.items())
            raise MissingInput(
                f"input {name!r} is missing", where=self.where, hint=f"the program expects: {expected}"
            ) from None
        except (TypeError, ValueError, RuntimeError) as error:
            raise DTypeMismatch(f"input {name!r} is no array: {error}", where=self.where) from error
        if array.dtype != dtype:
            raise DTypeMismatch(
                f"input {name!r} has dtype {array.dtype}, the program expects {dtype}",
                where=self.where,
                hint=f"convert it yourself where that is right: {name}.astype({dtype.name!r})",
            )
        if array.shape != shape:
            raise ShapeMismatch(
                f"input {name!r} has shape {array.shape}, the program expects {shape}",
                where=self.where,
                hint=f"pad or cut the input, or compile again with shapes={{{name!r}: {array.shape}}}",
            )
        flags = array.flags
        return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=["C", "A"])

    def _refuse_unknown(self, inputs: Mapping[str, Array]) -> None:
        for name in inputs:
            if name not in self.inputs:
                close = nearest(name, self.inputs)
                raise UnknownInput(
                    f"the program has no input {name!r}; it has: {', '.join(self.inputs) or 'none'}",
                    where=self.where,
                    hint=f"did you mean {close!r}?" if close else None,
                )

    def _refuse_unknown_outputs(self, out: Mapping[str, Any]) -> None:
        for name in out:
            if name not in self.outputs:
                raise UnknownInput(
                    f"the program has no output {name!r}; it has: {', '.join(self.outputs)}", where=self.where
                )

    def _check_buffer(self, what: str, buffer: object, type: TensorType) -> None:
        if not isinstance(buffer, Buffer):
            raise DTypeMismatch(
                f"{what} is a {buffer.__class__.__name__} where others are Buffers",
                where=self.where,
                hint="give all inputs and outputs as arrays, or all as Buffers on the program's device",
            )
        if buffer.device != self.device:
            raise ShapeMismatch(
                f"{what} is on {buffer.device}, the program runs on {self.device}", hint="move it: buffer.to(device)"
            )
        if buffer.type.dtype is not type.dtype:
            raise DTypeMismatch(f"{what} has dtype {buffer.type.dtype}, the program has {type.dtype}")
        if buffer.type.shape != type.shape:
            raise ShapeMismatch(f"{what} has shape {buffer.type.shape}, the program has {type.shape}")
        if not buffer.is_contiguous:
            raise ShapeMismatch(f"{what} is not contiguous", hint="copy it into a contiguous buffer")
