"""Kernel positions that fall beside the image: tiles near its edges leave them out.

Along an axis, tiles lie side by side from the first output on, the last one may be smaller. Neighbours whose pixels see
the image at the same kernel positions are one span: they share code. A tile's sums are those of its runs: for each
kernel position, of the pixels that see the image there; products with padding are neither read nor made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlx.backends.cpu.conv_band import Plane

#: Fewer words of a run are too few to begin it for some pixels alone; more runs are too much code.
_LEAST_WORDS, _MOST_RUNS = 16, 9

#: For each kernel position along one axis, the pixels of a tile that see the image there: from, to.
Seen = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Span:
    """Tiles of `size` outputs along an axis, from output `start` to `stop`."""

    start: int
    stop: int
    size: int
    seen: Seen


@dataclass(frozen=True)
class Run:
    """Neighbouring words that some pixels of a tile take: rows and columns (from, to) of it.

    input: words from the first kernel position. weights: rows of weights before it.
    """

    input: int
    weights: int
    words: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.input}w{self.weights}n{self.words}r{_text(self.rows)}c{_text(self.columns)}"


def leaves_out_padding(plane: Plane) -> bool:
    """Whether a convolution's tiles leave out what falls beside the image."""
    few = plane.taps[0] * plane.taps[1] <= _MOST_RUNS and plane.words >= _LEAST_WORDS
    return few and not plane.is_inside and not plane.joins_pixels


def spans(plane: Plane, axis: int, size: int) -> list[Span]:
    """The tiles along an axis, in order."""
    found: list[Span] = []
    skips = leaves_out_padding(plane)
    for start in range(0, plane.out[axis], size):
        stop = min(start + size, plane.out[axis])
        seen = _seen(plane, axis, start, stop) if skips else ((0, stop - start),) * plane.taps[axis]
        last = found[-1] if found else None
        if last and (last.size, last.seen) == (stop - start, seen):
            found[-1] = Span(last.start, stop, last.size, seen)
        else:
            found.append(Span(start, stop, stop - start, seen))
    return found


def runs(plane: Plane, steps: tuple[int, int], down: Span, along: Span) -> tuple[Run, ...] | None:
    """The runs of a tile, in the order of sums; None where each pixel sees the image at each kernel position.

    steps: words from kernel position to kernel position.
    """
    whole = all(seen == (0, span.size) for span in (down, along) for seen in span.seen)
    return None if whole else tuple(_merged(_each(plane, steps, down, along)))


def fewest_words(plane: Plane, rows: int, columns: int) -> int:
    """Words that any tile of a size walks, at least; 1 at least."""
    down, along = (
        min(sum(first < end for first, end in span.seen) for span in spans(plane, axis, size))
        for axis, size in ((0, rows), (1, columns))
    )
    return max(1, down * along * plane.words)


def _each(plane: Plane, steps: tuple[int, int], down: Span, along: Span) -> Iterator[Run]:
    for y, rows in enumerate(down.seen):
        for x, columns in enumerate(along.seen):
            if rows[0] < rows[1] and columns[0] < columns[1]:
                weights = (y * plane.taps[1] + x) * plane.words
                yield Run(y * steps[0] + x * steps[1], weights, plane.words, rows, columns)


def _merged(parts: Iterator[Run]) -> list[Run]:
    """Runs that go on where the one before ends are one with it."""
    found: list[Run] = []
    for run in parts:
        last = found[-1] if found else run
        goes_on = (run.input, run.weights) == (last.input + last.words, last.weights + last.words)
        if goes_on and (run.rows, run.columns) == (last.rows, last.columns):
            found[-1] = Run(last.input, last.weights, last.words + run.words, run.rows, run.columns)
        else:
            found.append(run)
    return found


def _seen(plane: Plane, axis: int, start: int, stop: int) -> Seen:
    step, low, size = plane.steps[axis], plane.low[axis], plane.size[axis]
    found = []
    for tap in range(plane.taps[axis]):
        at = tap * plane.dilation[axis] - low
        inside = [n - start for n in range(start, stop) if 0 <= n * step + at < size]
        found.append((inside[0], inside[-1] + 1) if inside else (0, 0))
    return tuple(found)


def _text(pair: tuple[int, int]) -> str:
    return f"{pair[0]}-{pair[1]}"
