"""What was measured of one workload with one thread count, as it is kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rlx.driver import Ceilings, MemoryLevel


@dataclass(frozen=True)
class Sample:
    """One process of one system: seconds of its median run and of its fastest, over so many runs.

    others: processors' worth of other work on the machine meanwhile.
    """

    median: float
    fastest: float
    runs: int
    others: float


@dataclass(frozen=True)
class Cell:
    """One workload with one thread count.

    taken: what the times are of (RLX's revision, the packages' versions, the machine). dates: days of measuring.
    ceilings: one a round. samples: system -> its processes. missing: system -> why it has none.
    differences: system -> greatest difference from the judge, relative to the judge's largest element.
    """

    workload: str
    threads: int
    taken: Mapping[str, str]
    dates: Sequence[str]
    ceilings: Sequence[Ceilings]
    samples: Mapping[str, Sequence[Sample]]
    missing: Mapping[str, str]
    differences: Mapping[str, float]

    def median(self, system: str) -> float:
        """Seconds: the median over the processes of each one's median."""
        return float(np.median([sample.median for sample in self.samples[system]]))

    def fastest(self, system: str) -> float:
        """Seconds of the fastest run of all processes."""
        return min(sample.fastest for sample in self.samples[system])

    @property
    def peers(self) -> list[str]:
        """The systems that are not RLX."""
        return [system for system in self.samples if not system.startswith("RLX")]

    @property
    def best_peer(self) -> str:
        """The peer with the least median."""
        return min(self.peers, key=self.median)

    @property
    def ratio(self) -> float:
        """RLX's time over the best peer's, by medians."""
        return self.median("RLX") / self.median(self.best_peer)

    @property
    def fastest_ratio(self) -> float:
        """RLX's fastest run over the fastest run of any peer."""
        return self.fastest("RLX") / min(map(self.fastest, self.peers))

    @property
    def others(self) -> float:
        """Processors' worth of other work beside the most disturbed process."""
        return max(sample.others for samples in self.samples.values() for sample in samples)

    @property
    def best_ceilings(self) -> Ceilings:
        """The best of the rounds: a disturbed one would flatter every system."""
        return Ceilings(
            self.threads,
            flops=max(c.flops for c in self.ceilings),
            read_bytes=max(c.read_bytes for c in self.ceilings),
            levels=tuple(
                max(same, key=lambda level: level.read_bytes)
                for same in zip(*(c.levels for c in self.ceilings), strict=True)
            ),
            copy_bytes=max(c.copy_bytes or 0.0 for c in self.ceilings),
            products={name: max(c.products[name] for c in self.ceilings) for name in self.ceilings[0].products},
        )

    def unsteady(self, by: float) -> bool:
        """Whether RLX's processes, or the best peer's, lie further apart than `by` of their median."""
        for system in ("RLX", self.best_peer):
            medians = [sample.median for sample in self.samples[system]]
            if max(medians) - min(medians) > by * self.median(system):
                return True
        return False

    def joined(self, more: Cell) -> Cell:
        """This cell with another's processes beside its own: nothing is taken out, so nothing can be picked."""
        systems = [*self.samples, *(s for s in more.samples if s not in self.samples)]
        return replace(
            more,
            dates=sorted({*self.dates, *more.dates}),
            ceilings=[*self.ceilings, *more.ceilings],
            samples={s: [*self.samples.get(s, ()), *more.samples.get(s, ())] for s in systems},
            differences={s: max(c.differences[s] for c in (self, more) if s in c.differences) for s in systems},
        )

    def line(self) -> str:
        """One line for a terminal."""
        times = ", ".join(f"{system} {self.median(system) * 1e3:.3g} ms" for system in self.samples)
        return (
            f"{self.workload}, {self.threads} threads: {self.ratio:.2f} of {self.best_peer} "
            f"(fastest runs {self.fastest_ratio:.2f}; others' work {self.others:.2f}); {times}"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> Cell:
        """The inverse of `to_json`. Raises KeyError or TypeError where the file holds something else."""
        ceilings = [
            Ceilings(**{**c, "levels": tuple(MemoryLevel(**level) for level in c["levels"])}) for c in found["ceilings"]
        ]
        samples = {system: [Sample(**sample) for sample in taken] for system, taken in found["samples"].items()}
        return Cell(**{**found, "ceilings": ceilings, "samples": samples})
