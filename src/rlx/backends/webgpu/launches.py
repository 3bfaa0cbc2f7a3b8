"""From one launch to the steps that do it: shaders, and the parts of buffers that they bind.

A binding is a whole virtual buffer, so its offset is a multiple of 256 bytes; where an argument starts within it is
part of the shader. What is larger than the device binds at once is several bindings (`rlx.codegen.wgsl.split`); where
they are more than a shader has, the launch is divided (`division`), and each part binds what it touches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlx.backends.webgpu.division import Division, Ranges, TiledKernel, divide
from rlx.backends.webgpu.gpu import ALIGNMENT
from rlx.backends.webgpu.loop_division import LoopDivision
from rlx.codegen.kernel import Const, Kernel, LoopKernel
from rlx.codegen.program import Launch, Operand, VirtualBuffer
from rlx.codegen.wgsl import Shader, WgslTarget, emit_kernel, split_bindings
from rlx.errors import BindingLimit, UnsupportedKernel

#: A space and a byte offset in it.
Place = list[Any]
#: Bytes [start, end) of a buffer.
_Window = tuple[VirtualBuffer, int, int]

#: Bindings and bytes of a part that must not be.
_NEVER = (1 << 30, 1 << 60)
#: A loop kernel's arrays of an invocation's own: masked loads may reach past them.
_OWN_ARRAY = re.compile(r"\bvar l\d+: array<")


@dataclass(frozen=True)
class Extra:
    """Memory of a launch's own: what its shader spills, and the sums that its parts hand on, if it must be divided."""

    spilled: VirtualBuffer | None = None
    handed: tuple[VirtualBuffer, ...] = ()

    @property
    def buffers(self) -> tuple[VirtualBuffer, ...]:
        return (*self.handed, *([] if self.spilled is None else [self.spilled]))


class Launches:
    """Makes steps of launches.

    place: where an operand lies, once memory is planned. shaders: source -> number, shared by the lists of a program.
    within: numbers of those that overrun no array but storage, shared likewise.
    """

    def __init__(
        self, target: WgslTarget, place: Callable[[Operand], Place], shaders: dict[str, int], within: set[int]
    ) -> None:
        self._target = target
        self._place = place
        self._shaders = shaders
        self._within = within
        self._emitted: dict[tuple[Kernel, tuple[int, ...]], Shader] = {}

    def extra(self, step: Launch) -> Extra:
        """The memory that a launch will need for itself. Raises UnsupportedKernel, naming what was lowered."""
        try:
            shader = self._shader(step.kernel, step.operands)
        except UnsupportedKernel as error:
            message = f"{', '.join(step.sources) or step.kernel.label}: {error.message}"
            raise UnsupportedKernel(message, where=error.where or f"at {step.location}", hint=error.hint) from error
        label, handed = step.kernel.label, []
        division = self._division(step.kernel) if self._may_exceed(step.operands) else None
        if division is not None:
            memories = division.args[len(division.args) - len(division.handed) :]
            sizes = [n * memory.dtype.itemsize for memory, n in zip(memories, division.handed, strict=True)]
            handed = [VirtualBuffer(f"sums of {label}", nbytes, "temporary") for nbytes in sizes]
        spilled = VirtualBuffer(f"scratch of {label}", shader.scratch, "temporary") if shader.scratch else None
        return Extra(spilled, tuple(handed))

    def _may_exceed(self, operands: Sequence[Operand]) -> bool:
        """Whether operands may take more bindings than there are, wherever they will lie."""
        target, sizes = self._target, [o.buffer.nbytes for o in operands]
        most = sum(2 + n // target.max_binding_bytes + n // target.max_buffer_bytes for n in sizes)
        return max(sizes, default=0) > target.max_binding_bytes and most > target.max_bindings

    def steps(self, kernel: Kernel, operands: Sequence[Operand], extra: Extra = Extra()) -> list[Any]:
        """The steps, one or several. Raises BindingLimit."""
        # From the buffer's start, whatever the offset: a view may step backwards from it.
        windows = [(o.buffer, 0, _words(o.buffer)) for o in operands] + _spilled(extra)
        bindings, cuts = self._bindings(windows)
        if len(bindings) <= self._target.max_bindings:
            return [self._step(kernel, self._shader(kernel, operands), bindings, cuts)]
        division = self._division(kernel)
        parts = None if division is None else self._parts(division, operands, extra)
        if division is None or parts is None:
            raise BindingLimit(
                f"kernel {kernel.label} binds {len(bindings)} parts of its tensors, of at most "
                f"{self._target.max_binding_bytes} bytes, the device binds {self._target.max_bindings} at once",
                hint="run a smaller batch, or the model on another device",
            )
        return [self._part(kernel, division, ranges, operands, extra) for ranges in parts]

    def _parts(self, division: Division, operands: Sequence[Operand], extra: Extra) -> list[Ranges] | None:
        known = len(operands) + len(extra.handed)

        def weigh(ranges: Ranges) -> tuple[int, int]:
            if len(division.touched(ranges)) > known:
                return _NEVER  # it would hand on sums, and has no memory for them
            windows, _ = self._touched(division, ranges, operands, extra)
            windows += _spilled(extra)
            return len(self._bindings(windows)[0]), sum(end - start for _, start, end in windows)

        return divide(division.axes, weigh, self._target.max_bindings)

    def _part(
        self, kernel: Kernel, division: Division, ranges: Ranges, operands: Sequence[Operand], extra: Extra
    ) -> list[Any]:
        """The step for a part, bound to what it touches."""
        windows, bases = self._touched(division, ranges, operands, extra)
        shader = division.shader(ranges, bases)
        if shader.scratch:
            windows += _spilled(extra)
        return self._step(kernel, shader, *self._bindings(windows))

    def _touched(
        self, division: Division, ranges: Ranges, operands: Sequence[Operand], extra: Extra
    ) -> tuple[list[_Window], list[int]]:
        """What a part touches of each buffer, and the elements from there to each argument's start."""
        windows, bases = [], []
        places = (*operands, *(Operand(buffer) for buffer in extra.handed))
        for memory, operand, interval in zip(division.args, places, division.touched(ranges), strict=False):
            size, base = memory.dtype.itemsize, operand.byte_offset // memory.dtype.itemsize
            start, end = 0, _words(operand.buffer)
            if interval is not None:
                start = min(max((base + interval[0]) * size, 0), end - 8) // ALIGNMENT * ALIGNMENT
                end = max(min(-(-(base + interval[1] + 1) * size // 4) * 4, end), start + 8)
            windows.append((operand.buffer, start, end))
            bases.append(base - start // size)
        return windows, bases

    def _bindings(self, windows: Sequence[_Window]) -> tuple[list[list[Any]], list[list[int]]]:
        """Bindings for ranges of bytes of buffers, and where each range is cut."""
        bindings, cuts = [], []
        for buffer, start, end in windows:
            space, offset = self._place(Operand(buffer))
            cuts.append(self._cuts(offset + start, end - start))
            ends = [*cuts[-1], end - start]
            starts = [0, *cuts[-1]]
            bindings += [[space, offset + start + a, b - a] for a, b in zip(starts, ends, strict=True)]
        return bindings, cuts

    def _step(self, kernel: Kernel, shader: Shader, bindings: list[list[Any]], cuts: list[list[int]]) -> list[Any]:
        if any(cuts):
            shader = split_bindings(shader, cuts)
        number = self._shaders.setdefault(shader.source, len(self._shaders))
        if not isinstance(kernel, LoopKernel) or not _OWN_ARRAY.search(shader.source):
            self._within.add(number)
        return ["launch", number, bindings, list(shader.workgroups), kernel.label]

    def _cuts(self, offset: int, nbytes: int) -> list[int]:
        """Where a range of a space is cut, so that each part can be bound and lies in one of the device's buffers."""
        found, at = [], 0
        while True:
            room = self._target.max_buffer_bytes - (offset + at) % self._target.max_buffer_bytes
            at += min(self._target.max_binding_bytes, room)
            if at >= nbytes:
                return found
            found.append(at)

    def _division(self, kernel: Kernel) -> Division | None:
        if isinstance(kernel, LoopKernel):
            return LoopDivision(kernel, self._target)
        return kernel.division if isinstance(kernel, TiledKernel) else None

    def _shader(self, kernel: Kernel, operands: Sequence[Operand]) -> Shader:
        pairs = zip(kernel.args, operands, strict=True)
        bases = tuple(operand.byte_offset // memory.dtype.itemsize for memory, operand in pairs)
        key = (kernel, bases)
        if key not in self._emitted:
            if isinstance(kernel, LoopKernel):
                self._emitted[key] = emit_kernel(kernel, self._target, bases)
            else:
                made: list[Shader] = []
                kernel.emit((bases, made.append))
                self._emitted[key] = made[0]
        return self._emitted[key]


def _spilled(extra: Extra) -> list[_Window]:
    return [] if extra.spilled is None else [(extra.spilled, 0, _words(extra.spilled))]


def _words(buffer: VirtualBuffer) -> int:
    """Bytes of a buffer in whole words, and no fewer than a binding needs."""
    return max(-(-buffer.nbytes // 4) * 4, 8)


def is_empty(kernel: Kernel) -> bool:
    """Whether a kernel has nothing to do."""
    return kernel.grid == 0 or (isinstance(kernel.grid, Const) and kernel.grid.value == 0)
