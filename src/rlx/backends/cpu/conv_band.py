"""Where channels-last convolutions find their input: the image as it lies, or a band of its rows copied and padded.

A band is the input of some output rows. In place, a pixel's channels must be neighbours and no kernel position may fall
outside the image. Copied, pixels lie in scratch memory channels last, zeros where the image has none, at distances that
do not crowd into few sets of the first-level cache; any strides and dtype can be copied from. Where a multiply-add
takes several neighbours at once, they are a word. Where a kernel row's pixels follow each other without gaps, words go
on from pixel to pixel and the row's last one may be short; else a copied pixel's last word is filled with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llvmlite import ir

from rlx.backends.cpu.gemm_operand import when
from rlx.backends.cpu.gemm_view import convert
from rlx.backends.cpu.transposed_square import transpose
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I64, constant, register_type, vector
from rlx.ir.dtypes import DType

#: Sets of the first-level cache and bytes of a line; and pixels' lines that one set should hold at most: where
#: distances may be chosen, and where the other choice is a copy.
_SETS, _LINE, _MOST_LINES, _MOST_IN_PLACE = 64, 64, 5, 7


@dataclass(frozen=True)
class Plane:
    """A convolution over two spatial dimensions, as bands see it; y before x everywhere.

    strides: of x over (N, y, x, channel). Others as in ConvSpec.
    source, dtype: of the image, and of what tiles read. together: elements of a word.
    """

    name: str
    source: DType
    dtype: DType
    channels: int
    strides: tuple[int, int, int, int]
    size: tuple[int, int]
    kernel: tuple[int, int]
    out: tuple[int, int]
    steps: tuple[int, int]
    low: tuple[int, int]
    dilation: tuple[int, int]
    together: int = 1

    @property
    def joins_pixels(self) -> bool:
        """Whether words go on from pixel to pixel of a kernel row: pixels themselves are no whole words."""
        ends_within = self.channels % self.together != 0 and self.kernel[1] > 1
        return ends_within and self.dilation[1] == 1 and self.channels * self.steps[1] % self.together == 0

    @property
    def run(self) -> int:
        """Neighbouring elements that a sum takes in one go: of a pixel, or of a kernel row."""
        return self.channels * self.kernel[1] if self.joins_pixels else self.channels

    @property
    def taps(self) -> tuple[int, int]:
        """Runs of a sum, down and along."""
        return self.kernel[0], 1 if self.joins_pixels else self.kernel[1]

    @property
    def words(self) -> int:
        """Words of one run."""
        return -(-self.run // self.together)

    def word_steps(self, row: int, pixel: int) -> tuple[int, int]:
        """Words from kernel position to kernel position, where rows and pixels lie so many elements apart."""
        return self.dilation[0] * (row // self.together), self.dilation[1] * (pixel // self.together)

    def reach(self, axis: int, out: int) -> int:
        """Input positions that `out` output positions span."""
        return (out - 1) * self.steps[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1

    @property
    def is_inside(self) -> bool:
        """Whether no kernel position falls outside the image."""
        return all(self.low[a] <= 0 and self.reach(a, self.out[a]) - self.low[a] <= self.size[a] for a in range(2))

    def stays_in_cache(self, rows: int, columns: int) -> bool:
        """Whether a rectangle of pixels, read where they lie, stays in the first-level cache from word to word."""
        row, column = self.strides[1] * self.steps[0], self.strides[2] * self.steps[1]
        offsets = [y * row + x * column for y in range(rows) for x in range(columns)]
        return _crowd(offsets, self.dtype) <= _MOST_IN_PLACE

    @property
    def holds_words(self) -> bool:
        """Whether pixels lie in memory as whole words, channels as neighbours."""
        apart = (self.channels, self.strides[1], self.strides[2])
        return self.source is self.dtype and self.strides[3] == 1 and all(n % self.together == 0 for n in apart)


class Band(Protocol):
    """row, pixel: words between the inputs of neighbouring output rows and pixels.

    steps: words from kernel position to kernel position, down and along.
    """

    @property
    def row(self) -> int: ...
    @property
    def pixel(self) -> int: ...
    @property
    def steps(self) -> tuple[int, int]: ...
    @property
    def scratch_bytes(self) -> int: ...

    def begin(self, e: FunctionEmitter, scratch: ir.Value, image: ir.Value, row: ir.Value, fresh: ir.Value) -> ir.Value:
        """Where output pixel (row, 0) meets the first kernel position; `fresh` is false where the last call was for
        the same band.
        """
        ...


@dataclass(frozen=True)
class BandInPlace:
    """The image as it lies."""

    plane: Plane
    scratch_bytes: int = 0

    @property
    def row(self) -> int:
        return self.plane.strides[1] * self.plane.steps[0] // self.plane.together

    @property
    def pixel(self) -> int:
        return self.plane.strides[2] * self.plane.steps[1] // self.plane.together

    @property
    def steps(self) -> tuple[int, int]:
        return self.plane.word_steps(self.plane.strides[1], self.plane.strides[2])

    def begin(self, e: FunctionEmitter, scratch: ir.Value, image: ir.Value, row: ir.Value, fresh: ir.Value) -> ir.Value:
        n, y, x, _ = self.plane.strides
        offset = e.integer_add(e.integer_mul(image, I64(n)), e.integer_mul(row, I64(y * self.plane.steps[0])))
        offset = e.integer_add(offset, I64(-self.plane.low[0] * y - self.plane.low[1] * x))
        return e.element_pointer(e.args[self.plane.name], self.plane.dtype, offset)


@dataclass(frozen=True)
class BandCopied:
    """The input of `rows` output rows, padded, in scratch memory."""

    plane: Plane
    rows: int
    lanes: int

    @property
    def _distance(self) -> int:
        """Elements from input pixel to input pixel."""
        plane = self.plane
        if plane.joins_pixels:
            return plane.channels
        channels = plane.words * plane.together
        return channels if spreads(channels * plane.steps[1], plane.dtype) else channels + self.lanes

    @property
    def _width(self) -> int:
        return self.plane.reach(1, self.plane.out[1])

    @property
    def _pitch(self) -> int:
        """Elements from input row to input row: whole vectors."""
        return -(-self._width * self._distance // self.lanes) * self.lanes

    @property
    def _rows(self) -> int:
        return self.plane.reach(0, self.rows)

    @property
    def row(self) -> int:
        return self._pitch * self.plane.steps[0] // self.plane.together

    @property
    def pixel(self) -> int:
        return self._distance * self.plane.steps[1] // self.plane.together

    @property
    def steps(self) -> tuple[int, int]:
        return self.plane.word_steps(self._pitch, self._distance)

    @property
    def scratch_bytes(self) -> int:
        return (self._rows * self._pitch + 2 * self.lanes) * self.plane.dtype.itemsize

    def begin(self, e: FunctionEmitter, scratch: ir.Value, image: ir.Value, row: ir.Value, fresh: ir.Value) -> ir.Value:
        with when(e, fresh):
            self._copy(e, scratch, image, row)
        return scratch

    def _copy(self, e: FunctionEmitter, scratch: ir.Value, image: ir.Value, row: ir.Value) -> None:
        plane, b = self.plane, e.builder
        n, y, x, _ = plane.strides
        origin = e.integer_mul(image, I64(n))
        first = e.integer_add(e.integer_mul(row, I64(plane.steps[0])), I64(-plane.low[0]))
        left = max(0, plane.low[1])
        begin = max(0, -plane.low[1])
        count = max(0, min(self._width - left, plane.size[1] - begin))
        with e.loop(I64(0), I64(self._rows)) as line:
            at = e.integer_add(first, line)
            into = e.element_pointer(scratch, plane.dtype, e.integer_mul(line, I64(self._pitch)))
            with b.if_else(b.icmp_unsigned("<", at, I64(plane.size[0]))) as (inside, outside):
                with inside:
                    if plane.channels % plane.together and not plane.joins_pixels:
                        self._zero(e, into, 0, self._pitch)
                    else:
                        self._zero(e, into, 0, left * self._distance)
                        self._zero(e, into, (left + count) * self._distance, self._pitch)
                    if count:
                        offset = e.integer_add(origin, e.integer_mul(at, I64(y)))
                        offset = e.integer_add(offset, I64(begin * x))
                        source = e.element_pointer(e.args[plane.name], plane.source, offset)
                        self._copy_row(
                            e, source, e.element_pointer(into, plane.dtype, I64(left * self._distance)), count
                        )
                with outside:
                    self._zero(e, into, 0, self._pitch)

    def _zero(self, e: FunctionEmitter, into: ir.Value, begin: int, end: int) -> None:
        """Zeros in elements begin .. end of a row, and up to a vector beyond."""
        zeros = constant(vector(register_type(self.plane.dtype), self.lanes), 0)
        with e.loop(I64(begin), I64(end), self.lanes) as at:
            e.store_lanes(e.element_pointer(into, self.plane.dtype, at), self.plane.dtype, zeros, self.lanes)

    def _copy_row(self, e: FunctionEmitter, source: ir.Value, into: ir.Value, count: int) -> None:
        """`count` pixels of one row."""
        plane, lanes = self.plane, self.lanes
        _, _, x, channel = plane.strides
        if channel == 1 and x == plane.channels == self._distance:
            self._copy_run(e, source, into, count * x)
        elif channel == 1:
            with e.loop(I64(0), I64(count)) as pixel:
                begin = e.element_pointer(source, plane.source, e.integer_mul(pixel, I64(x)))
                to = e.element_pointer(into, plane.dtype, e.integer_mul(pixel, I64(self._distance)))
                self._copy_run(e, begin, to, plane.channels)
        else:
            blocked = plane.channels // lanes * lanes if x == 1 and plane.source is plane.dtype else 0
            with e.loop(I64(0), I64(blocked), lanes) as first, e.loop(I64(0), I64(count), lanes) as pixel:
                self._copy_square(e, source, into, first, pixel, count)
            with e.loop(I64(blocked), I64(plane.channels)) as k, e.loop(I64(0), I64(count)) as pixel:
                offset = e.integer_add(e.integer_mul(pixel, I64(x)), e.integer_mul(k, I64(channel)))
                value = e.load_one(e.element_pointer(source, plane.source, offset), plane.source)
                to = e.integer_add(e.integer_mul(pixel, I64(self._distance)), k)
                value = convert(e, value, plane.source, plane.dtype, 1)
                e.store_one(e.element_pointer(into, plane.dtype, to), plane.dtype, value)

    def _copy_square(
        self, e: FunctionEmitter, source: ir.Value, into: ir.Value, first: ir.Value, pixel: ir.Value, count: int
    ) -> None:
        """`lanes` channels of up to `lanes` pixels of an image that has its pixels as neighbours."""
        plane, lanes = self.plane, self.lanes
        left = e.builder.sub(I64(count), pixel)
        mask = e.mask_for(left, lanes) if count % lanes else None
        rows = []
        for i in range(lanes):
            offset = e.integer_add(pixel, e.integer_mul(e.integer_add(first, I64(i)), I64(plane.strides[3])))
            rows.append(e.load_lanes(e.element_pointer(source, plane.dtype, offset), plane.dtype, lanes, mask))
        for i, value in enumerate(transpose(e, rows)):
            to = e.integer_add(e.integer_mul(e.integer_add(pixel, I64(i)), I64(self._distance)), first)
            pointer = e.element_pointer(into, plane.dtype, to)
            if count % lanes:
                with e.builder.if_then(e.builder.icmp_signed(">", left, I64(i))):
                    e.store_lanes(pointer, plane.dtype, value, lanes)
            else:
                e.store_lanes(pointer, plane.dtype, value, lanes)

    def _copy_run(self, e: FunctionEmitter, source: ir.Value, into: ir.Value, count: int) -> None:
        """`count` neighbours."""
        plane, lanes = self.plane, self.lanes

        def copy(at: ir.Value, mask: ir.Value | None) -> None:
            value = e.load_lanes(e.element_pointer(source, plane.source, at), plane.source, lanes, mask)
            value = convert(e, value, plane.source, plane.dtype, lanes)
            e.store_lanes(e.element_pointer(into, plane.dtype, at), plane.dtype, value, lanes, mask)

        whole = count // lanes * lanes
        with e.loop(I64(0), I64(whole), lanes) as at:
            copy(at, None)
        if whole < count:
            copy(I64(whole), e.mask_for(I64(count - whole), lanes))


def spreads(distance: int, dtype: DType) -> bool:
    """Whether neighbouring pixels' lines, `distance` elements apart, fall into many sets of the first-level cache."""
    return _crowd([i * distance for i in range(14)], dtype) <= _MOST_LINES or distance * dtype.itemsize < _LINE


def _crowd(offsets: list[int], dtype: DType) -> int:
    """Lines, those of elements at `offsets`, that one set of the first-level cache must hold, at most."""
    sets = [line % _SETS for line in {offset * dtype.itemsize // _LINE for offset in offsets}]
    return max(map(sets.count, set(sets)))


def walk(plane: Plane, steps: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(count, step) of the loops over runs and words, outermost first; neighbours that one step describes are one loop.

    steps: words from kernel position to kernel position.
    """
    channel = (plane.words, 1)
    loops = [(plane.taps[0], steps[0]), (plane.taps[1], steps[1]), channel]
    merged: list[tuple[int, int]] = []
    for count, step in loops:
        if count == 1 and (count, step) != channel:
            continue
        if merged and merged[-1][1] == count * step:
            merged[-1] = (merged[-1][0] * count, step)
        else:
            merged.append((count, step))
    return tuple(merged)
