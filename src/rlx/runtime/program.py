"""Compiled programs as a user calls them: `program(x=array)` or `program.run({"x": array})`.

Host arrays in give host arrays out; `Buffer`s in give `Buffer`s out, on the program's device. Names, shapes and dtypes
are checked before anything runs; nothing is converted. Inputs are only read, except those that the program was compiled
to take as donations (`rlx.runtime.donation`); output arrays are fresh at each call, or the caller's own with `out`.
Large fresh ones lie in memory of the host's `DeviceMemory`, which goes back there with the array. Any thread may call;
runs of one program take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from rlx.driver import Buffer, Device, Executable
from rlx.driver.array_object import array_address
from rlx.errors import ProgramClosed, ShapeMismatch
from rlx.ir import TensorType
from rlx.runtime.donation import check_arrays
from rlx.runtime.runner import BoundCall, Runner
from rlx.runtime.signature import Array, Signature

if TYPE_CHECKING:
    from rlx.driver import CommandStream
    from rlx.runtime.report import Report

#: Results from this many bytes on take the memory that earlier ones have left: fresh pages cost more than most work.
_KEPT = 1 << 20


@runtime_checkable
class ArrayExecutable(Protocol):
    """An executable that takes host arrays: spares a call the making of buffers."""

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> None:
        """Inputs then outputs: C-contiguous arrays, aligned to their elements. The outputs are written on return."""
        ...


@runtime_checkable
class FittingExecutable(Protocol):
    """An executable that itself checks whether arrays fit: the quickest call."""

    @property
    def run_fitting(self) -> Callable[[list[Any]], int]:
        """Runs on inputs, then outputs, where each input is an array that `run_arrays` takes as it is, of its type, and
        gives 0; else, or whenever it likes, runs nothing and gives another number. The outputs fit.
        """
        ...


@runtime_checkable
class HostExecutable(ArrayExecutable, Protocol):
    """An executable that works on host memory."""

    def bind_addresses(self, addresses: Sequence[int], keep: object) -> Runner:
        """A runner on addresses of such memory, which keeps its owner, `keep`; closing the executable ends it."""
        ...


@runtime_checkable
class OverwritingExecutable(Protocol):
    """An executable that computes outputs in the memory of donated inputs."""

    @property
    def in_inputs(self) -> Mapping[str, str]:
        """Output -> the donated input in whose memory it is computed; from there it is copied to any other place."""
        ...


class CompiledGraph:
    """One program on one device, with fixed sizes.

    inputs, outputs: names -> types, in the model's order. report: what the compiler did.
    donated: names of the inputs that calls consume. in_inputs: output -> the donated input in whose memory it is given.
    Inputs for which the model has a default may be left out of a call.
    """

    def __init__(
        self,
        executable: Executable,
        device: Device,
        *,
        source: str,
        cache: str,
        seconds: float,
        binding_seconds: float,
        defaults: Mapping[str, np.ndarray],
        donated: Sequence[str] = (),
    ) -> None:
        self.device = device
        self.inputs: dict[str, TensorType] = dict(executable.inputs)
        self.outputs: dict[str, TensorType] = dict(executable.outputs)
        self._told = executable.report()
        self._made = {"cache": cache, "seconds": seconds, "binding_seconds": binding_seconds}
        self._executable: Executable | None = executable
        self.donated = tuple(donated)
        self.in_inputs = dict(executable.in_inputs) if isinstance(executable, OverwritingExecutable) else {}
        self._run_arrays = executable.run_arrays if isinstance(executable, ArrayExecutable) else None
        self._run_fitting = executable.run_fitting if isinstance(executable, FittingExecutable) else None
        if self.donated:  # which the careful way checks
            self._run_fitting = None
        self._signature = Signature(
            device,
            self.inputs,
            self.outputs,
            dict(defaults),
            self.donated,
            self.in_inputs,
            f"compiled from {source}" if source else None,
        )
        self._names = tuple(self.inputs)
        self._results = [(name, _maker(t)) for name, t in self.outputs.items()]

    @cached_property
    def report(self) -> Report:
        """What the compiler did."""
        from rlx.runtime.report import make_report  # few processes ask

        return make_report(self._told, **self._made)

    def __call__(self, **inputs: Array) -> dict[str, Any]:
        """`run` with the inputs as keywords."""
        results = self._run_quickly(inputs)
        return self._run_carefully(inputs, None) if results is None else results

    def run(self, inputs: Mapping[str, Array], out: Mapping[str, np.ndarray | Buffer] | None = None) -> dict[str, Any]:
        """Run once: names -> arrays in, names -> arrays out, in the model's order.

        out: writable C-contiguous arrays (or buffers) to write into, for some or all outputs; an input that overlaps
        one is copied first.
        Donated inputs are consumed: an output of `in_inputs` is then the donated array, or a Buffer over the donated
        one's bytes, unless `out` says where it goes.
        Raises MissingInput, UnknownInput, ShapeMismatch or DTypeMismatch before anything runs; ProgramClosed;
        DonationError where a donated input cannot be overwritten, or shares its memory with another or with `out`.
        """
        results = self._run_quickly(inputs) if out is None else None
        return self._run_carefully(inputs, out) if results is None else results

    def _run_carefully(
        self, inputs: Mapping[str, Array], out: Mapping[str, np.ndarray | Buffer] | None
    ) -> dict[str, Any]:
        signature = self._signature
        if signature.defaults:
            inputs = signature.complete(inputs)
        if any(isinstance(v, Buffer) for v in inputs.values()):
            feeds, sinks = signature.buffers(inputs, out or {}, copies=True)
            executable = self._open()
            feeds, sinks, consumed = self._taken_over(feeds, sinks)
            for buffer in consumed:
                buffer.donate()
            executable.run(feeds, sinks)
            return dict(zip(self.outputs, sinks, strict=True))
        arrays = signature.arrays(inputs)
        given = signature.output_arrays(out) if out else {}
        elsewhere = {*given, *self.in_inputs}
        results = {name: make() for name, make in self._results if name not in elsewhere}
        if self.donated:
            named = dict(zip(self.inputs, arrays, strict=True))
            check_arrays(self.donated, inputs, named, given)
            results.update((name, named[lies]) for name, lies in self.in_inputs.items())
        if elsewhere:
            results = {name: given[name] if name in given else results[name] for name in self.outputs}
        if given:
            arrays = [a.copy() if any(np.may_share_memory(a, o) for o in given.values()) else a for a in arrays]
        executable = self._open()
        if self._run_arrays is not None:
            self._run_arrays([*arrays, *results.values()])
        else:
            feeds = [Buffer.from_numpy(a).to(self.device) for a in arrays]
            sinks = [Buffer.empty(t, self.device) for t in self.outputs.values()]
            executable.run(feeds, sinks)
            for sink, result in zip(sinks, results.values(), strict=True):
                Buffer.from_numpy(result).copy_from(sink)
        return results

    def bind(self, inputs: Mapping[str, np.ndarray | Buffer], outputs: Mapping[str, np.ndarray | Buffer]) -> Runner:
        """The program on these inputs and outputs for good: a call without arguments, at the lowest cost there is.

        inputs, outputs: arrays as they are, C-contiguous and aligned, or Buffers on the program's device, for every
        output and for every input without a default. The runner keeps them: each call reads what the inputs hold then,
        and overwrites the outputs, which overlap nothing else.

        Donated inputs, Buffers too, stay the caller's, to be read and written between calls; a call overwrites them.
        An output of `in_inputs` lies in its input and is not given.

        It has memory of its own, so it may run while the program, or another of its runners, does. It ends with the
        program. Raises as `run`; MissingInput for an output that is not given; DonationError for one of `in_inputs`
        that is.
        """
        executable, signature = self._open(), self._signature
        inputs = signature.complete(inputs)
        signature.check_bound(outputs)
        if any(isinstance(v, Buffer) for v in (*inputs.values(), *outputs.values())):
            return self._bind_buffers(*signature.buffers(inputs, outputs))
        given, arrays = signature.output_arrays(outputs), signature.arrays(inputs)
        for name, array in zip(self.inputs, arrays, strict=True):
            if array is not inputs[name]:
                raise ShapeMismatch(f"input {name!r} is not a C-contiguous array, so it cannot be bound to")
            if any(np.may_share_memory(array, o) for o in given.values()):
                raise ShapeMismatch(f"input {name!r} overlaps an output", where=self._signature.where)
        named = dict(zip(self.inputs, arrays, strict=True))
        check_arrays(self.donated, inputs, named, given)
        sinks = [given[name] if name in given else named[self.in_inputs[name]] for name in self.outputs]
        if isinstance(executable, HostExecutable):
            return executable.bind_addresses([array_address(a) for a in (*arrays, *sinks)], (arrays, sinks))
        return BoundCall(lambda: self.run(named, given))

    def _bind_buffers(self, feeds: list[Buffer], sinks: list[Buffer]) -> Runner:
        executable, buffers = self._open(), [*feeds, *sinks]
        if isinstance(executable, HostExecutable):
            runner = executable.bind_addresses([b.address for b in buffers], buffers)
            return BoundCall(runner, buffers, runner.threads, runner.close)
        return BoundCall(lambda: self._open().run(feeds, sinks), buffers)

    def submit(
        self, inputs: Mapping[str, Buffer], stream: CommandStream, out: Mapping[str, Buffer] | None = None
    ) -> dict[str, Buffer]:
        """Enqueue one run on a stream of the program's device, and return the outputs at once, not yet written.

        The stream keeps inputs and outputs until the run is done; what reads the outputs is ordered behind it. Donated
        inputs are consumed once the run is enqueued, and outputs given in them are as `run` gives them.
        out: buffers to write into, for some or all outputs; they overlap no input. Raises as `run`, before anything is
        enqueued; DeviceError where the stream was closed, ShapeMismatch where it belongs to another device.
        """
        if stream.device != self.device:
            raise ShapeMismatch(f"{stream.name} belongs to {stream.device}, the program runs on {self.device}")
        feeds, sinks, consumed = self._taken_over(*self._signature.buffers(inputs, out or {}))
        stream.run(self._open(), feeds, sinks, name=f"a run of {self}", where=self._signature.where or "")
        for buffer in consumed:
            buffer.donate()
        return dict(zip(self.outputs, sinks, strict=True))

    @property
    def executable(self) -> Executable:
        """What streams and command buffers run; it belongs to the program, and may overwrite donated inputs without
        consuming them. Raises ProgramClosed.
        """
        return self._open()

    def close(self) -> None:
        """Free the program's code and memory; calls after it raise ProgramClosed."""
        executable, self._executable = self._executable, None
        self._run_arrays = self._run_fitting = None
        if executable is not None:
            executable.close()

    def __enter__(self) -> CompiledGraph:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs = ", ".join(f"{n}: {t}" for n, t in self.inputs.items())
        outputs = ", ".join(f"{n}: {t}" for n, t in self.outputs.items())
        return f"<CompiledGraph ({inputs}) -> ({outputs}) on {self.device}>"

    def _run_quickly(self, inputs: Mapping[str, Array]) -> dict[str, np.ndarray] | None:
        """The common call, arrays that fit as they are; None where anything is unusual, and nothing has run."""
        run = self._run_fitting
        if run is None or len(inputs) != len(self._names):
            return None
        objects: list[Any] = []
        try:
            for name in self._names:
                objects.append(inputs[name])
        except KeyError:
            return None
        results: dict[str, np.ndarray] = {}
        for name, make in self._results:
            results[name] = result = make()
            objects.append(result)
        return None if run(objects) else results

    def _open(self) -> Executable:
        if self._executable is None:
            raise ProgramClosed("the program was closed", where=self._signature.where)
        return self._executable

    def _taken_over(
        self, feeds: Sequence[Buffer], sinks: Sequence[Buffer]
    ) -> tuple[list[Buffer], list[Buffer], list[Buffer]]:
        """Inputs and outputs with new Buffers over the donated bytes, and the donated ones, still to be consumed."""
        consumed = [feed for name, feed in zip(self.inputs, feeds, strict=True) if name in self.donated]
        taken = {id(buffer): buffer.retain() for buffer in consumed}
        return [taken.get(id(b), b) for b in feeds], [taken.get(id(b), b) for b in sinks], consumed


def _maker(type: TensorType) -> Callable[[], np.ndarray]:
    """Makes arrays of unknown content for one output."""
    if type.nbytes < _KEPT:
        return partial(np.empty, type.sizes, type.dtype.numpy)
    return lambda: Buffer.empty(type, name="a result").numpy()
