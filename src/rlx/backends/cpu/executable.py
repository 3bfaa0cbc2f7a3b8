"""Run a compiled artefact on the CPU: one native call a run, over one arena.

A `CpuExecutable` owns its image, its arena, its scratch and its persistent memory: constants and what setup made of the
weights, but for packed weights, which programs may share (packed_weights.py). It keeps the parameters' arrays that its
runs read, or copies of those that lie in files, which programs share too. `bind_parameters` must come before the first
`run`; it runs the program's setup. Runs of one executable take turns (a lock), so any thread may call; in steady state
a run allocates nothing and holds no GIL, but where it is brief (walker.py). Every run gives the same bits, whatever the
number of threads.

Donation. An output of `in_inputs` is computed in the memory of a donated input, and copied from there where the memory
given for it is elsewhere.

A long run comes back to Python now and then (walker.py), between kernels, so that signals are
served; if that raises (KeyboardInterrupt), the run is abandoned and the executable stays usable.

Needs numpy and ctypes, not LLVM.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from rlx.backends.cpu.host import check_processors, request_tiles, resolve_target
from rlx.backends.cpu.image import Image
from rlx.backends.cpu.packed_weights import AS_IT_IS, SHARED, PackedBlock, without
from rlx.backends.cpu.runner import CpuRunner
from rlx.backends.cpu.walker import ARENA, ENDED, FIRST_ARGUMENT, MORE, TAKEN, BoundProgram
from rlx.driver import Artifact, Buffer, Device, DeviceArena
from rlx.driver.array_object import LAYOUT_HOLDS, array_address
from rlx.driver.file_map import file_map_of, let_pages_go
from rlx.driver.fork import renew_in_child
from rlx.driver.huge_pages import ask_for_huge_pages
from rlx.driver.memory import device_memory
from rlx.errors import DriverError
from rlx.ir import TensorType, dtypes
from rlx.options import Options

#: Bytes from which on an array is not read from a cache.
_LARGE = 8 << 20
#: Estimated nanoseconds of setup after which the pages that it has read are let go.
_SETUP_SLICE_NS = 1_000_000


class CpuExecutable:
    """A loaded program; see the module's contract."""

    def __init__(self, artifact: Artifact, device: Device, options: Options) -> None:
        manifest = artifact.manifest
        resolve_target(manifest["target"])  # refuse code that this processor cannot run
        if options.affinity is not None:
            check_processors(options.affinity)
        if manifest["target"].startswith("amx_"):
            request_tiles()
        self.device = device
        self.inputs = _types(manifest["inputs"])
        self.outputs = _types(manifest["outputs"])
        self.parameters = _types(manifest["parameters"])
        self.in_inputs: dict[str, str] = dict(manifest["in_inputs"])
        names = [*self.inputs, *self.outputs]
        self._moves = [
            (len(self.inputs) + list(self.outputs).index(output), names.index(given), self.outputs[output].nbytes)
            for output, given in self.in_inputs.items()
        ]
        self._manifest = manifest
        renew_in_child(self)
        self._image = Image(artifact.sections["image"], **manifest["image"])
        self._setup = BoundProgram(artifact, "setup", self._image, options.threads, options.affinity)
        self._steps = BoundProgram(artifact, "steps", self._image, options.threads, options.affinity)
        self._threads = options.threads
        self._debug = options.debug_memory
        #: Whether runs take more than the walker, or it cannot read arrays: `run_fitting` then never runs anything.
        self._plain_runs_only = not LAYOUT_HOLDS or self._debug or bool(self._moves)
        self._arena = DeviceArena(device, self._steps.plan, debug=options.debug_memory, prefault=True)
        self._persistent = DeviceArena(device, manifest["persistent_bytes"])
        constants = artifact.sections["constants"]
        ctypes.memmove(self._persistent.address, bytes(constants), len(constants))
        self._stride = -(-manifest["scratch_bytes"] // 4096) * 4096
        self._scratch = DeviceArena(device, self._stride * options.threads)
        self._bound: list[np.ndarray] = []
        self._blocks: set[PackedBlock] = set()
        self._shared_bytes = 0
        self._runners: weakref.WeakSet[CpuRunner] = weakref.WeakSet()
        self._closed = False
        self._ready = not self.parameters
        if self._ready:
            self._prepare([], [])

    def renew(self) -> None:
        """Make the lock anew; see `rlx.driver.fork`."""
        self._lock = threading.Lock()

    def bind_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Give the weights, by name. Runs the setup.

        Those that runs read are kept and must not change afterwards: where they lie in memory, as copies where they lie
        in a file, so that no run reads one. Those of which setup alone makes something (matrices that it packs) are let
        go, a file's pages as soon as they have been read. Large ones that runs read from end to end are brought into
        huge pages. Arrays have the declared shapes and dtypes (the session checks them).
        """
        given = [parameters[name] for name in self.parameters]
        arrays = [np.require(array, requirements=["C"]) for array in given]
        read = set(self._steps.relocations[:, 1].tolist())
        first = FIRST_ARGUMENT + len(self.inputs) + len(self.outputs)
        kept = {i: array for i, array in enumerate(arrays) if first + i in read}
        in_files = [i for i, array in kept.items() if file_map_of(array) is not None and array.nbytes]
        self._prepare(arrays, given, in_files)
        self._bound = [array for i, array in kept.items() if i not in in_files]
        for i, array in kept.items():
            if i not in in_files and array.nbytes >= _LARGE and self._steps.streams(first + i, array.nbytes):
                ask_for_huge_pages(array.ctypes.data, array.nbytes)
        self._ready = True

    def _prepare(
        self, parameters: Sequence[np.ndarray], given: Sequence[np.ndarray], copied: Sequence[int] = ()
    ) -> None:
        """Bind the steps and run setup.

        given: the parameters as the caller holds them, by which pieces are shared. copied: the numbers of those that
        runs read from memory of their own.
        """
        first_parameter = FIRST_ARGUMENT + len(self.inputs) + len(self.outputs)
        first_piece = first_parameter + len(parameters)
        packed: list[dict[str, Any]] = self._manifest["pieces"]
        copies = [{"packing": AS_IT_IS, "sources": [i], "nbytes": parameters[i].nbytes} for i in copied]
        pieces = [*packed, *copies]
        base_of = [*range(first_piece, first_piece + len(packed)), *(first_parameter + i for i in copied)]
        bases = np.zeros(first_piece + len(packed), np.int64)
        bases[0], bases[1] = self._arena.address, self._persistent.address
        bases[first_parameter:first_piece] = [p.ctypes.data for p in parameters]
        with SHARED.lock:
            found = {i: SHARED.find(self.device, piece, given) for i, piece in enumerate(pieces)}
            shared = {i: place for i, place in found.items() if place is not None}
            own = [i for i in found if i not in shared]
            block = PackedBlock(self.device, [pieces[i]["nbytes"] for i in own])
            places = shared | {i: (block, place) for place, i in enumerate(own)}
            for i, (holder, place) in places.items():
                bases[base_of[i]] = holder.address(place)
            for i in own:
                if pieces[i]["packing"] == AS_IT_IS:
                    (source,) = pieces[i]["sources"]
                    ctypes.memmove(int(bases[base_of[i]]), parameters[source].ctypes.data, pieces[i]["nbytes"])
                    let_pages_go(parameters[source])
            self._set_up(without(self._setup, [base_of[i] for i in shared if i < len(packed)]), bases, parameters)
            for place, i in enumerate(own):
                SHARED.note(self.device, pieces[i], given, block, place)
        self._blocks = {holder for holder, _ in places.values()}
        self._shared_bytes = sum(pieces[i]["nbytes"] for i in shared)
        fixed = np.ones(len(bases), bool)
        fixed[FIRST_ARGUMENT:first_parameter] = False
        self._steps.bind(bases, fixed, self._scratch, self._stride)
        self._call = (ctypes.c_int64 * (first_parameter - FIRST_ARGUMENT)).from_address(
            bases.ctypes.data + 8 * FIRST_ARGUMENT
        )

    def _set_up(self, setup: BoundProgram, bases: np.ndarray, parameters: Sequence[np.ndarray]) -> None:
        """Run setup over memory at these bases, letting go of the files' pages that it has read for the last time."""
        first_parameter = FIRST_ARGUMENT + len(self.inputs) + len(self.outputs)
        mapped = [(i, array) for i, array in enumerate(parameters) if file_map_of(array) is not None]
        ends = [(int(setup.launches_at([first_parameter + i]).max(initial=-1)), array) for i, array in mapped]
        ends.sort(key=lambda end: end[0], reverse=True)

        def let_go(next_record: int) -> None:
            while ends and ends[-1][0] < next_record:
                let_pages_go(ends.pop()[1])

        with DeviceArena(self.device, self._setup.plan, debug=self._debug) as arena:
            bases = bases.copy()
            bases[0] = arena.address
            every = np.ones(len(bases), bool)
            setup.bind(bases, every, self._scratch, self._stride, slice_ns=_SETUP_SLICE_NS)
            setup.run(let_go)
            let_go(len(setup.records))
            arena.check()
        device_memory(self.device).trim()  # setup's arena may be large, and no run needs one like it

    def run(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        """Run once on the calling thread and the pool's workers; buffers are contiguous and of the declared types."""
        self.run_addresses([b.address for b in (*inputs, *outputs)])

    def run_addresses(self, addresses: Sequence[int]) -> None:
        """`run` on bare host addresses, inputs then outputs, for callers that checked all else."""
        with self._lock:
            self._run(addresses)

    def run_arrays(self, arrays: Sequence[np.ndarray]) -> None:
        """`run_addresses` on the memory of arrays."""
        with self._lock:
            self._run([array_address(a) for a in arrays])

    @property
    def run_fitting(self) -> Callable[[list[Any]], int]:
        """Runs on inputs, then outputs, if the inputs are arrays that fit as they are, and gives ENDED; else, or where
        nothing has run yet, runs nothing and gives UNFIT. Native code checks, and reads the arrays' addresses.

        A brief program's run is one step for all other threads. So it needs no lock: runs that let others in set TAKEN.
        """
        return self._steps.call if self._steps.brief else self._run_fitting

    def _run_fitting(self, objects: list[Any]) -> int:
        steps = self._steps
        with self._lock:
            try:
                status = steps.call(objects)
                if status == MORE:
                    steps.go_on()
                    status = ENDED
            except BaseException:
                steps.abandon()
                raise
            return status

    def _run(self, addresses: Sequence[int]) -> None:
        if not self._ready:
            self._refuse()
        self._steps.state[TAKEN] = 1
        self._call[:] = addresses
        if self._debug:
            self._arena.poison()
        self._steps.run()
        if self._debug:
            self._arena.check()
        self._hand_out(addresses)
        self._steps.state[TAKEN] = self._plain_runs_only

    def _hand_out(self, addresses: Sequence[int]) -> None:
        """Copy outputs that lie in donated inputs to where they are asked for, if that is elsewhere."""
        for output, given, nbytes in self._moves:
            if addresses[output] != addresses[given]:
                ctypes.memmove(addresses[output], addresses[given], nbytes)

    def bind_addresses(self, addresses: Sequence[int], keep: object) -> CpuRunner:
        """`run_addresses` for good, as a call without arguments; `keep` owns the memory at `addresses`."""
        if any(addresses[output] != addresses[given] for output, given, _ in self._moves):
            raise DriverError("a runner gives outputs that lie in donated inputs there, not elsewhere")
        with self._lock:
            if not self._ready:
                self._refuse()
            arena = DeviceArena(self.device, self._steps.plan, debug=self._debug, prefault=True)
            scratch = DeviceArena(self.device, self._stride * self._threads)
            steps = self._steps.twin()
            bases = self._steps.bases.copy()
            bases[ARENA] = arena.address
            bases[FIRST_ARGUMENT : FIRST_ARGUMENT + len(addresses)] = addresses
            steps.bind(bases, np.ones(len(bases), bool), scratch, self._stride)
            runner = CpuRunner(steps, arena, scratch, (self, self._blocks, keep), self._threads, watched=self._debug)
            self._runners.add(runner)
        return runner

    def time_kernels(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> list[tuple[str, int]]:
        """Run once, kernel by kernel: (label, nanoseconds) in the order they ran."""
        with self._lock:
            if not self._ready:
                self._refuse()
            addresses = [b.address for b in (*inputs, *outputs)]
            self._steps.state[TAKEN] = 1  # until a plain run has set everything right
            self._call[:] = addresses
            timings = self._steps.timings()
            self._hand_out(addresses)
            return timings

    def _refuse(self) -> NoReturn:
        raise DriverError("the program is closed" if self._closed else "the program has no parameters bound yet")

    def report(self) -> Mapping[str, Any]:
        """What the compiler did: dispatch, kernels, and the memory plan in bytes."""
        facts = self._manifest["tables"]["steps"]
        return {
            **self._manifest["report"],
            "target": self._manifest["target"],
            "precision": self._manifest["precision"],
            "convolution": self._manifest["convolution"],
            "memory": {
                "arena_bytes": facts["arena_bytes"],
                "lower_bound": facts["lower_bound"],
                "persistent_bytes": self._manifest["persistent_bytes"]
                + sum(piece["nbytes"] for piece in self._manifest["pieces"]),
                "shared_bytes": self._shared_bytes,
                "scratch_bytes": self._stride * self._threads,
                "map": facts["arena_map"],
            },
        }

    def close(self) -> None:
        """Give the memory back; the executable cannot run afterwards, nor can what was bound to it."""
        for runner in list(self._runners):
            runner.close()
        with self._lock:
            self._ready, self._closed = False, True
            self._steps.state[TAKEN] = 1
            self._blocks = set()
            for arena in (self._arena, self._persistent, self._scratch):
                arena.close()


def _types(rows: Sequence[Sequence[Any]]) -> dict[str, TensorType]:
    return {name: TensorType(tuple(shape), dtypes.by_name(dtype)) for name, dtype, shape in rows}
