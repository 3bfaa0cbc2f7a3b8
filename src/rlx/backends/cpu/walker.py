"""The walker's tables, and a step list bound to memory and ready to run.

The native walker (walker.ll) executes records of eight i64 words: opcode, function, first slot, grid or bytes, thread
limit, cost, target, chunk.

    1 launch   function index (its address once loaded); operand addresses stand in consecutive slots; grid; at most
               `thread limit` threads have equal shares of it, which they work through `chunk` grid indices at a time
    2 copy     slots: destination, source; bytes in the grid word
    3 branch   slot: address of a bool byte; where it is 0, go to `target`
    4 jump     go to `target`
    0 end

A slot is an address, given by a relocation (slot, base, byte offset): base 0 is the arena, 1 persistent memory, then
the graph's inputs, outputs and parameters in order, and behind them the pieces of packed weights (packed_weights.py).

Costs are estimates in nanoseconds on one thread. They decide how many threads a launch is worth and how long the walker
runs before it lets Python look for signals; results never depend on them.
"""

from __future__ import annotations

import copy
import ctypes
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np

from rlx.backends.cpu.image import Image
from rlx.backends.cpu.pool import pool
from rlx.driver import Artifact, DeviceArena, MemoryPlan
from rlx.driver.array_object import LAYOUT_HOLDS
from rlx.driver.builtin import METHOD_WORDS, NO_ARGUMENT, ONE_ARGUMENT, address_of, built_in
from rlx.driver.fork import renew_in_child
from rlx.ir import dtypes

LAUNCH, COPY, BRANCH, JUMP, END = 1, 2, 3, 4, 0
RECORD_WORDS = 8
ALIGNMENT = 64
ARENA, PERSISTENT, FIRST_ARGUMENT = 0, 1, 2

#: Programs of at most so many estimated nanoseconds keep the GIL: to let it go and lock the program costs 300.
BRIEF_NS = 5_000
#: Estimated nanoseconds between looks at pending signals.
SLICE_NS = 50_000_000
#: A thread is worth starting on a launch for this many nanoseconds of its own work.
GRAIN_NS = 2_500
#: Bytes in a nanosecond that no memory gives a launch.
MOST_READ = 64
#: Chunks that a thread's share is cut into, at least and at most: others take those that are left when the thread was
#: put aside. Between the two a chunk takes CHUNK_NS.
CHUNKS, MOST_CHUNKS = 4, 16
CHUNK_NS = 100_000

# Words of the walker's state.
(
    PC,
    RECORDS,
    RELOCATIONS,
    RELOCATION_COUNT,
    TABLE,
    BASES,
    POOL,
    BUDGET,
    SCRATCH,
    SCRATCH_STRIDE,
    SIZES,
    OBJECTS,
    EXPECTED,
    TAKEN,
    MAKE_INTEGER,
) = range(15)
#: Where the records of its built-in functions stand in the state.
RUN_METHOD = 16
CALL_METHOD = RUN_METHOD + METHOD_WORDS
STATE_WORDS = CALL_METHOD + METHOD_WORDS

#: What the walker and `rlx_call` give: the program ended; there is more to do; nothing has run.
ENDED, MORE, UNFIT = range(3)


class BoundProgram:
    """One step list bound to memory: the walker's state block and what it points to. One thread at a time may run it.

    walk: the native walker, without arguments; gives MORE or ENDED.
    call: begins a run on the arrays in a list, inputs then outputs, if the inputs are arrays that fit as they are and
        the state's word TAKEN is 0; gives UNFIT too. Only for interpreters where rlx.driver.array_object.LAYOUT_HOLDS.
    brief: whether both hold the GIL, so that no other thread can see the run half done; they never give MORE. They are
        built-in functions then, and brief are programs only where LAYOUT_HOLDS.
    """

    def __init__(
        self, artifact: Artifact, name: str, image: Image, threads: int, affinity: tuple[int, ...] | None = None
    ) -> None:
        facts = artifact.manifest["tables"][name]
        self.labels: list[str] = facts["labels"]
        self.plan = MemoryPlan(facts["offsets"], facts["sizes"], facts["arena_bytes"], facts["lower_bound"], ALIGNMENT)
        self.records = np.frombuffer(artifact.sections[f"{name}.records"], np.int64).reshape(-1, RECORD_WORDS).copy()
        self.relocations = np.frombuffer(artifact.sections[f"{name}.relocations"], np.int64).reshape(-1, 3)
        self.table = np.zeros(max(1, facts["slots"]), np.int64)
        functions = np.array([image.function(k) for k in artifact.manifest["kernels"]] or [0], np.int64)
        launches = self.records[:, 0] == LAUNCH
        self.records[launches, 1] = functions[self.records[launches, 1]]
        self.records[launches, 4] = np.minimum(
            np.minimum(threads, self.records[launches, 3]), 1 + self.records[launches, 5] // GRAIN_NS
        )
        shares = self.records[launches, 4]
        chunks = np.clip(self.records[launches, 5] // (CHUNK_NS * shares), CHUNKS, MOST_CHUNKS)
        self.records[launches, 7] = -(-self.records[launches, 3] // (chunks * shares))
        straight = np.isin(self.records[:, 0], (LAUNCH, COPY, END)).all()
        self.brief = LAYOUT_HOLDS and bool(straight and self.records[:, 5].sum() <= BRIEF_NS)
        self._expected = _expected(artifact.manifest["inputs"])
        self._image, self._threads = image, threads
        self._have_state()
        self._pool = pool(affinity)
        self._arguments = len(artifact.manifest["inputs"]) + len(artifact.manifest["outputs"])
        self.bases = np.zeros(0, np.int64)
        self.late = np.zeros((0, 3), np.int64)
        renew_in_child(self)

    def _have_state(self) -> None:
        """A state of its own, and the functions that run on it."""
        self.state = np.zeros(STATE_WORDS, np.int64)
        function = self._image.function
        if self.brief:
            self.state[MAKE_INTEGER] = address_of("PyLong_FromSsize_t")
            self.walk = built_in(function("rlx_run_method"), NO_ARGUMENT, self.state, RUN_METHOD)
            self.call = built_in(function("rlx_call_method"), ONE_ARGUMENT, self.state, CALL_METHOD)
        else:
            state, run, call = self.state.ctypes.data, function("rlx_run"), function("rlx_call")
            self.walk = partial(ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(run), state)
            self.call = partial(ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.py_object)(call), state)

    def renew(self) -> None:
        """Look for workers at the next run; see `rlx.driver.fork`."""
        self._started = False
        self.state[TAKEN] = 1

    def bind(
        self, bases: np.ndarray, fixed: np.ndarray, scratch: DeviceArena, stride: int, *, slice_ns: int = SLICE_NS
    ) -> None:
        """Resolve the slots whose base is fixed (bool a base); the rest are resolved by the walker at each run.

        slice_ns: how long a run goes on, by its estimated costs, before it comes back.
        """
        self.bases = bases
        now = fixed[self.relocations[:, 1]]
        slots, base, offset = self.relocations[now].T
        self.table[slots] = bases[base] + offset
        self.late = np.ascontiguousarray(self.relocations[~now])
        state = self.state
        state[RECORDS] = self.records.ctypes.data
        state[RELOCATIONS] = self.late.ctypes.data
        state[RELOCATION_COUNT] = len(self.late)
        state[TABLE] = self.table.ctypes.data
        state[BASES] = bases.ctypes.data
        state[BUDGET] = slice_ns
        state[SCRATCH] = scratch.address
        state[SCRATCH_STRIDE] = stride
        state[OBJECTS] = self._arguments
        state[EXPECTED] = self._expected.ctypes.data
        state[TAKEN] = 1

    def twin(self) -> BoundProgram:
        """The same steps, to be bound to other memory."""
        twin = copy.copy(self)
        twin.table = self.table.copy()
        twin._have_state()
        renew_in_child(twin)
        return twin

    def streams(self, base: int, nbytes: int) -> bool:
        """Whether a launch is long enough to read all `nbytes` bytes at this base, as a gather of some rows is not."""
        return bool((self.records[self.launches_at([base]), 5] * MOST_READ >= nbytes).any())

    def launches_at(self, bases: Collection[int]) -> np.ndarray:
        """The numbers of the records with an operand at one of these bases."""
        slots = self.relocations[np.isin(self.relocations[:, 1], list(bases)), 0]
        return np.searchsorted(self.records[:, 2], slots, side="right") - 1

    def run(self, between: Callable[[int], object] = lambda record: None) -> None:
        """Run to the end, coming back between kernels now and then so that signals are served.

        between: told of each coming back, with the number of the record that is next.
        """
        if not self._started:
            self.start()
        try:
            while self.walk():
                between(int(self.state[PC]))
        except BaseException:
            self.abandon()
            raise

    def start(self) -> None:
        """Have workers; before the first run in a process."""
        self._pool.ensure(self._threads - 1, self._image)
        self.state[POOL] = self._pool.address
        self._started = True

    def go_on(self) -> None:
        """Finish a run that has come back with MORE."""
        while self.walk():
            pass

    def abandon(self) -> None:
        """The next run begins at the beginning."""
        self.state[PC] = 0

    def end(self) -> None:
        """Let runs that are yet to come do nothing: the memory that the steps are bound to goes."""
        self.records = np.zeros((1, RECORD_WORDS), np.int64)
        self.state[RECORDS], self.state[RELOCATION_COUNT] = self.records.ctypes.data, 0

    def timings(self) -> list[tuple[str, int]]:
        """Run record by record: (label, nanoseconds) of each, in the order they ran."""
        self.start()
        self.state[BUDGET] = 0
        times = []
        try:
            running = True
            while running:
                record = int(self.state[PC])
                before = time.perf_counter_ns()
                running = bool(self.walk())
                times.append((self.labels[record], time.perf_counter_ns() - before))
        finally:
            self.state[BUDGET] = SLICE_NS
            self.state[PC] = 0
        return times


def _expected(inputs: Sequence[tuple[str, str, Sequence[int]]]) -> np.ndarray:
    """The table by which `rlx_call` knows arrays that fit: name, dtype and sizes of each input."""
    words = [len(inputs), id(np.ndarray)]
    for _, dtype, sizes in inputs:
        words += [id(dtypes.by_name(dtype).numpy), len(sizes), *sizes]
    return np.array(words, np.int64)
