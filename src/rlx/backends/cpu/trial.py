"""One launch of a lowered program as a program by itself, on random data, to be timed.

The launch keeps its operands' sizes and its place in threads' shares, and runs in the walker as it would in the model.
Where setup packs one of its operands, the trial has several copies of what is packed and reads them in turn, so that
weights come from as far away as they do in a model whose layers all read their own.

Every trial of one site reads the same data; `answer` is the bytes that its first run left in what it writes.
Lifetime. `close` gives the memory back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlx.backends.cpu.assemble import assemble
from rlx.backends.cpu.executable import CpuExecutable
from rlx.backends.cpu.walker import ALIGNMENT
from rlx.codegen.kernel import Memory
from rlx.codegen.program import Launch, LoweredProgram, Operand, VirtualBuffer, walk_steps
from rlx.codegen.target import Target
from rlx.driver import Buffer, Device
from rlx.ir import TensorType
from rlx.ir.dtypes import DType, u8
from rlx.options import Options

#: Of the random data.
_SEED = 20


@dataclass(frozen=True, eq=False)
class Candidate:
    """A launch, and the launches in setup that pack what it reads."""

    launch: Launch
    packs: tuple[Launch, ...]

    @property
    def packed_bytes(self) -> int:
        """Bytes of packed operands."""
        return sum(b.nbytes for b in {p.operands[1].buffer for p in self.packs})

    @property
    def writes(self) -> tuple[VirtualBuffer, ...]:
        return tuple(dict.fromkeys(self.launch.writes))


def candidates_of(program: LoweredProgram, sites: Mapping[str, str]) -> tuple[dict[str, Candidate], dict[str, int]]:
    """Site -> its first launch among the program's steps; and how many launches each site has.

    sites: identity of a kernel -> its site.
    """
    packing: dict[VirtualBuffer, list[Launch]] = {}
    for step in walk_steps(program.setup):
        if isinstance(step, Launch) and step.sources == ("pack",):
            packing.setdefault(step.operands[1].buffer, []).append(step)
    found: dict[str, Candidate] = {}
    launches: dict[str, int] = {}
    for step in walk_steps(program.steps):
        site = sites.get(getattr(step.kernel, "identity", "")) if isinstance(step, Launch) else None
        if site is None or not isinstance(step, Launch):
            continue
        launches[site] = launches.get(site, 0) + 1
        if site not in found:
            packs = [p for o in step.operands for p in packing.get(o.buffer, ())]
            found[site] = Candidate(step, tuple(packs))
    return found, launches


class Trial:
    """A candidate, compiled and loaded; one run is `copies` launches."""

    def __init__(self, candidate: Candidate, copies: int, target: Target, device: Device, options: Options) -> None:
        program, inputs, sources = _program(candidate, copies)
        options = replace(options, debug_memory=False)
        self._executable = CpuExecutable(assemble(program, target, options), device, options)
        dtypes = _dtypes(candidate)
        rng = np.random.default_rng(_SEED)
        parameters = {f"p{i}": _random(rng, b, dtypes, factor=True) for i, b in enumerate(sources)}
        factors = {o.buffer for o in candidate.launch.operands[:2]}
        self._inputs = [Buffer.from_numpy(_random(rng, b, dtypes, factor=b in factors)) for b in inputs]
        self._outputs = [Buffer.from_numpy(_random(rng, b, dtypes, factor=False)) for b in candidate.writes]
        self._label = candidate.launch.kernel.label
        self._executable.bind_parameters(parameters)
        self._executable.run(self._inputs, self._outputs)
        self.answer = b"".join(buffer.numpy().tobytes() for buffer in self._outputs)

    def run(self) -> list[float]:
        """Run once, launch by launch: the seconds of each."""
        times = self._executable.time_kernels(self._inputs, self._outputs)
        return [nanoseconds * 1e-9 for label, nanoseconds in times if label == self._label]

    def close(self) -> None:
        self._executable.close()


def _program(candidate: Candidate, copies: int) -> tuple[LoweredProgram, list[VirtualBuffer], list[VirtualBuffer]]:
    """The program, and the buffers of its inputs and of its parameters."""
    launch, packs = candidate.launch, candidate.packs
    packed = list(dict.fromkeys(p.operands[1].buffer for p in packs))
    sources = list(dict.fromkeys(p.operands[0].buffer for p in packs))
    writes = candidate.writes
    inputs = [b for b in dict.fromkeys(o.buffer for o in launch.operands) if b not in (*packed, *writes)]
    fixed = {
        b: VirtualBuffer(f"{kind[0]}{i}", b.nbytes, kind, i)
        for kind, buffers in (("input", inputs), ("output", writes), ("parameter", sources))
        for i, b in enumerate(buffers)
    }
    setup, steps = [], []
    for copy in range(copies):
        own = {b: VirtualBuffer(f"{b.name} {copy}", b.nbytes, "persistent") for b in packed}
        to = {**fixed, **own}
        # Not marked as packing weights: what is packed alike from the same weights would be shared.
        setup += [replace(_moved(p, to), sources=()) for p in packs]
        steps.append(_moved(launch, to))
    program = LoweredProgram(
        name="trial",
        inputs={fixed[b].name: _bytes(b) for b in inputs},
        outputs={fixed[b].name: _bytes(b) for b in writes},
        parameters={fixed[b].name: _bytes(b) for b in sources},
        setup=tuple(setup),
        steps=tuple(steps),
    )
    return program, inputs, sources


def _moved(launch: Launch, to: Mapping[VirtualBuffer, VirtualBuffer]) -> Launch:
    operands = tuple(Operand(to[o.buffer], o.byte_offset) for o in launch.operands)
    reads, writes = (tuple(to[b] for b in buffers) for buffers in (launch.reads, launch.writes))
    return replace(launch, operands=operands, reads=reads, writes=writes, in_place=())


def _bytes(buffer: VirtualBuffer) -> TensorType:
    return TensorType((buffer.nbytes,), u8)


def _dtypes(candidate: Candidate) -> dict[VirtualBuffer, DType]:
    """What each buffer holds, as the first argument that lies in it says."""
    found: dict[VirtualBuffer, DType] = {}
    for launch in (*candidate.packs, candidate.launch):
        args: Sequence[Memory] = launch.kernel.args
        for memory, operand in zip(args, launch.operands, strict=True):
            found.setdefault(operand.buffer, memory.dtype)
    return found


def _random(
    rng: np.random.Generator, buffer: VirtualBuffer, dtypes: Mapping[VirtualBuffer, DType], *, factor: bool
) -> np.ndarray:
    """Bytes for a buffer, aligned as an arena's. Factors of products are any numbers; other floats are near 1, and
    integers 0, which are indices within any table.
    """
    dtype = dtypes[buffer]
    count = buffer.nbytes // dtype.itemsize
    room = np.zeros(buffer.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    data = room[start : start + buffer.nbytes]
    if dtype.is_float:
        values = rng.standard_normal(count, np.float32) if factor else rng.random(count, np.float32) + 0.5
    else:
        values = rng.integers(0, 100, count) if factor else np.zeros(count)
    data[: count * dtype.itemsize] = values.astype(dtype.numpy).view(np.uint8)
    return data
