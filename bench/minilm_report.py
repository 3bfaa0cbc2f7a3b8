"""What `bench/minilm.py` measured, as a page: medians, spread, ratios, and shares of the machine's ceilings."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

import numpy as np

from rlx.backends.cpu.host import cpu_name, supported_targets
from rlx.driver import Ceilings

LAYERS, WIDTH, INNER = 6, 384, 1536
#: The encoder's matrices, read once a run: bytes of f32.
WEIGHT_BYTES = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) * 4
FIRST_BAR = 1.5


@dataclass(frozen=True)
class Cell:
    """One size and thread count: each system's medians, one a process, in seconds."""

    batch: int
    length: int
    threads: int
    ceilings: Ceilings
    samples: Mapping[str, Sequence[float]]
    differences: Mapping[str, float]

    @property
    def flops(self) -> float:
        """Multiplications and additions of the matrix products, attention's included."""
        token = 2 * LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) + 4 * LAYERS * self.length * WIDTH
        return float(self.batch * self.length * token)

    def median(self, peer: str) -> float:
        return float(np.median(self.samples[peer]))

    def line(self) -> str:
        """One line for a terminal."""
        times = ", ".join(f"{peer} {self.median(peer) * 1e3:.2f} ms" for peer in self.samples)
        return f"({self.batch}, {self.length}), {self.threads} threads: {times}"


@dataclass(frozen=True)
class Startup:
    """Medians in seconds: `import rlx`; load and compile with an empty cache, and from the cache; the first run."""

    imports: float
    cold: float
    warm: float
    first_run: float


def write_report(cells: Sequence[Cell], startup: Startup, *, rounds: int) -> str:
    """The page, in Markdown."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("rlx", "onnxruntime", "torch", "numpy", "llvmlite")
    )
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`; do not edit. Timings are of one machine, shared with others: trust ratios before times.",
        "",
        f"- {datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, {os.cpu_count()} processors, {supported_targets()[0]}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"- {versions}",
        f"- Load average at the end: {os.getloadavg()[0]:.1f}; alone, the measurements make at most the threads.",
        f"- Each time is the median over {rounds} processes of the median run in each; the spread is the least and the "
        "greatest of these medians. Systems took turns. All compute in f32 and gave the same embeddings within "
        f"{max(max(c.differences.values()) for c in cells):.1g}.",
        "- *to RLX*: the system's time over RLX's; above 1 means that RLX is faster.",
        "- *of FMA*: the matrix products' arithmetic over the time, as a share of the multiply-adds that this machine "
        "was measured to do. *of memory*: the weights' bytes over the time, as a share of the measured read rate from "
        "DRAM; weights that stay in a cache can pass 100%.",
        "",
        "## MiniLM-L6 sentence encoder",
    ]
    for cell in cells:
        lines += ["", *_table(cell)]
    lines += [
        "",
        "PyTorch runs eagerly, with its fused attention. onnxruntime runs twice: on standard ops, and with its "
        "own fused transformer ops. RLX also computes the pooler's output, which the others leave out.",
        "",
        "## Starting",
        "",
        "| MiniLM (1, 128), every thread | seconds |",
        "| --- | ---: |",
        f"| `import rlx` | {startup.imports:.3f} |",
        f"| load and compile, empty cache | {startup.cold:.2f} |",
        f"| load and compile, second process | {startup.warm:.3f} |",
        f"| first run of the second process | {startup.first_run:.4f} |",
        "",
    ]
    return "\n".join(lines)


def _table(cell: Cell) -> list[str]:
    own = cell.median("RLX")
    best = min(cell.median(peer) for peer in cell.samples if peer.startswith("onnxruntime"))
    bar = "held" if own <= FIRST_BAR * best else "missed"
    plural = "s" if cell.threads > 1 else ""
    lines = [
        f"### Batch {cell.batch}, {cell.length} tokens, {cell.threads} thread{plural}",
        "",
        f"Ceilings: {cell.ceilings.flops / 1e9:.0f} GFLOP/s, {cell.ceilings.read_bytes / 1e9:.1f} GB/s. Work: "
        f"{cell.flops / 1e9:.2f} GFLOP. RLX takes {own / best:.2f} times the better onnxruntime "
        f"(bar: {FIRST_BAR}, {bar}).",
        "",
        "| system | median ms | spread ms | to RLX | of FMA | of memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for peer, taken in cell.samples.items():
        median = cell.median(peer)
        lines.append(
            f"| {peer} | {median * 1e3:.2f} | {min(taken) * 1e3:.2f} to {max(taken) * 1e3:.2f} | {median / own:.2f} "
            f"| {cell.flops / median / cell.ceilings.flops:.0%} "
            f"| {WEIGHT_BYTES / median / cell.ceilings.read_bytes:.0%} |"
        )
    return lines
