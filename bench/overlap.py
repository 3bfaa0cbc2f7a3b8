"""Do a copy and a computation of equal length overlap on two streams of one device?

    python bench/overlap.py [--device cpu] [--milliseconds 10] [--rounds 61] [--json]

The computation is a chain of matrix products that stay in the caches, on one thread, so that it leaves the copy a
processor and the memory's bandwidth; the copy is sized until both take equally long. Each round times four things, one
after the other: the copy alone, the computation alone, both on two streams, and, as a control, both on one stream. The
ratio is that of both to the longer one, taken in each round; the median over the rounds counts. 1.0 is perfect, and the
control should show 2.0. Every answer is checked. A quiet machine with two processors is needed for a number to report.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from rlx import Options, Session
from rlx.driver import HOST, Buffer, CommandStream, Device
from rlx.ir import GraphBuilder, TensorType
from rlx.ir.dtypes import f32, u8

SIDE = 256  # of the matrices: 256 KiB each
CHAIN = 8  # products in one program


class Pair:
    """A copy and a computation on one device, and the two streams that they run on."""

    def __init__(self, device: Device) -> None:
        self.device = device
        b = GraphBuilder("chain")
        x, w = (b.input(name, TensorType((SIDE, SIDE), f32)) for name in "xw")
        for _ in range(CHAIN):
            x = b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,))
        self.program = Session(device, Options(threads=1)).compile(b.build({"y": x}))
        rng = np.random.default_rng(7)
        arrays = [rng.standard_normal((SIDE, SIDE)).astype(np.float32) / 16 for _ in range(2)]
        self.feeds = [Buffer.from_numpy(a, copy=True, device=device) for a in arrays]
        self.result = Buffer.empty(TensorType((SIDE, SIDE), f32), device)
        self.expected = arrays[0].astype(np.float64) @ np.linalg.matrix_power(arrays[1].astype(np.float64), CHAIN)
        self.copies, self.computations = (
            CommandStream(device, name="copies"),
            CommandStream(device, name="computations"),
        )
        self.runs = 1
        self.set_bytes(1 << 20)

    def set_bytes(self, nbytes: int) -> None:
        """Buffers for the copy: from the host to the device."""
        self.source = Buffer.from_numpy(np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8))
        self.target = Buffer.empty(TensorType((nbytes,), u8), self.device)
        self.target.fill(0)

    def copy(self, stream: CommandStream) -> None:
        stream.copy(self.target, self.source)

    def compute(self, stream: CommandStream) -> None:
        for _ in range(self.runs):
            stream.run(self.program.executable, self.feeds, [self.result])

    def check(self) -> None:
        """Raise where an answer is wrong."""
        if not np.array_equal(self.target.to(HOST).numpy(), self.source.numpy()):
            raise SystemExit("the copy is wrong")
        error = np.abs(self.result.to(HOST).numpy() - self.expected).max() / np.abs(self.expected).max()
        if not error < 1e-4:
            raise SystemExit(f"the computation is wrong by {error:.1e} of its largest value")

    def seconds(self, *work: tuple[Callable[[CommandStream], None], CommandStream]) -> float:
        """How long it takes until all of `work` is done, each on its stream, from the same state of caches."""
        self.target.fill(0)
        self.result.fill(float("nan"))
        start = time.perf_counter()
        for enqueue, stream in work:
            enqueue(stream)
        for _, stream in work:
            stream.synchronize()
        return time.perf_counter() - start

    def size(self, seconds: float) -> None:
        """Size both to take about that long each: first the computation, then the copy to the computation's time."""
        for _ in range(3):
            took, _ = self.alone()
            self.runs = max(1, round(self.runs * seconds / took))
        for _ in range(5):
            took, copied = self.alone()
            self.set_bytes(min(1 << 30, max(1 << 12, int(self.source.nbytes * took / copied))))

    def alone(self, rounds: int = 9) -> tuple[float, float]:
        """Median seconds of the computation and of the copy, in turns."""
        times = [
            (self.seconds((self.compute, self.computations)), self.seconds((self.copy, self.copies)))
            for _ in range(rounds)
        ]
        took, copied = zip(*times, strict=True)
        return statistics.median(took), statistics.median(copied)


def measure(pair: Pair, rounds: int) -> dict[str, float]:
    """Medians in seconds, the medians of the rounds' ratios, and the ratios of the minima."""
    copy, compute = (pair.copy, pair.copies), (pair.compute, pair.computations)
    times: dict[str, list[float]] = {"copy": [], "compute": [], "two streams": [], "one stream": []}
    for _ in range(rounds):
        times["copy"].append(pair.seconds(copy))
        times["compute"].append(pair.seconds(compute))
        for name, work in (("two streams", (copy, compute)), ("one stream", (copy, (pair.compute, pair.copies)))):
            times[name].append(pair.seconds(*work))
            pair.check()
    longer = [max(each) for each in zip(times["copy"], times["compute"], strict=True)]
    found = {name: statistics.median(each) for name, each in times.items()}
    for name in ("two streams", "one stream"):
        found[f"{name} / longer"] = statistics.median(t / n for t, n in zip(times[name], longer, strict=True))
        found[f"{name} / longer, of minima"] = min(times[name]) / max(min(times["copy"]), min(times["compute"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--milliseconds", type=float, default=10.0, help="the length of each of the two")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pair = Pair(Device(options.device))
    pair.size(options.milliseconds / 1e3)
    found = measure(pair, options.rounds)
    facts = {"device": str(pair.device), "MiB copied": pair.source.nbytes / 2**20, "programs run": pair.runs}
    if options.json:
        print(json.dumps({**facts, **found}))
        return
    print(", ".join(f"{name} {value if isinstance(value, str) else f'{value:.0f}'}" for name, value in facts.items()))
    for name, value in found.items():
        print(f"{name:32} {value:8.2f}" if "/" in name else f"{name:32} {1e3 * value:8.2f} ms")
    good = found["two streams / longer"] < 1.3
    print("overlap: " + ("yes, under 1.3" if good else "no, 1.3 or more"), file=sys.stderr)


if __name__ == "__main__":
    main()
