"""From a tile of pixels by features to memory: a lowering's epilogue, run a vector of features at a time.

Sums lie in scratch memory, pixel by pixel. What the epilogue reads and writes of one panel of features lies in short
pieces, one a pixel, which no hardware prefetcher foresees; so it is asked for before the sums are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from rlx.backends.cpu.gemm_epilogue import is_collapsible
from rlx.backends.cpu.gemm_view import split_index
from rlx.codegen.kernel import Expr, Memory, Var
from rlx.codegen.llvm.function import FunctionEmitter
from rlx.codegen.llvm.types import I32, I64, VOID, Value
from rlx.codegen.lower.axes import Uses
from rlx.codegen.lower.templates import Epilogue
from rlx.ir.dtypes import DType


@dataclass(frozen=True)
class PixelBlock:
    """Sums at hand: of `pixels` neighbours in row-major order from number `first` on, features from `feature` on."""

    image: ir.Value
    first: ir.Value
    pixels: ir.Value
    feature: ir.Value


@dataclass(frozen=True, eq=False)
class PixelWriter:
    """Writes blocks of one convolution.

    out: output sizes. dtype: of the sums. lanes: of a vector. width: features of a panel, whole vectors; features: all.
    """

    epilogue: Epilogue
    out: tuple[int, ...]
    dtype: DType
    lanes: int
    width: int
    features: int

    def prefetch(self, e: FunctionEmitter, block: PixelBlock) -> None:
        """Ask for the lines that the epilogue of a whole block will read and write."""
        streams = self._streams()
        if not streams:
            return
        with e.loop(I64(0), block.pixels) as pixel:
            env = dict(zip(self.epilogue.index, self._place(e, block, pixel, 0), strict=True))
            for memory, terms in streams:
                offset: ir.Value = I64(0)
                for atom, stride in terms:
                    assert isinstance(atom, Var)
                    offset = e.integer_add(offset, e.integer_mul(env[atom], I64(stride)))
                for at in range(0, self.width, 64 // memory.dtype.itemsize):
                    pointer = e.element_pointer(e.args[memory.name], memory.dtype, e.integer_add(offset, I64(at)))
                    arguments = [pointer, I32(int(memory.writable)), I32(3), I32(1)]
                    e.call("llvm.prefetch.p0", VOID, arguments)

    def write(self, e: FunctionEmitter, block: PixelBlock, sums: ir.Value) -> None:
        """Run the epilogue; features beyond the last are left out."""
        rest = self.features % self.width
        if not rest:
            self._write(e, block, sums, self.width)
        elif self.features < self.width:
            self._write(e, block, sums, rest)
        else:
            partial = e.builder.icmp_signed(">", block.feature, I64(self.features - self.width))
            with e.builder.if_else(partial) as (then, otherwise):
                with then:
                    self._write(e, block, sums, rest)
                with otherwise:
                    self._write(e, block, sums, self.width)

    def _write(self, e: FunctionEmitter, block: PixelBlock, sums: ir.Value, features: int) -> None:
        index, lanes = self.epilogue.index, self.lanes
        with e.loop(I64(0), block.pixels) as pixel:
            line = e.element_pointer(sums, self.dtype, e.integer_mul(pixel, I64(self.width)))
            for first in range(0, features, lanes):
                count = min(lanes, features - first)
                mask = e.mask_for(I64(count), lanes) if count < lanes else None
                env: dict[Var, Value] = dict(zip(index, self._place(e, block, pixel, first), strict=True))
                env[self.epilogue.acc] = e.load_lanes(
                    e.element_pointer(line, self.dtype, I64(first)), self.dtype, lanes
                )
                for store in self.epilogue.stores:
                    e.store(store, env, lanes=lanes, along=index[1], mask=mask)

    def _place(self, e: FunctionEmitter, block: PixelBlock, pixel: ir.Value, feature: int) -> list[ir.Value]:
        """The epilogue's index of a feature of a pixel."""
        flat = is_collapsible(self.epilogue, self.epilogue.index[2:], self.out)
        place = e.integer_add(block.first, pixel)
        space = [*[I64(0)] * (len(self.out) - 1), place] if flat else split_index(e, place, self.out)
        return [block.image, e.integer_add(block.feature, I64(feature)), *space]

    def _streams(self) -> list[tuple[Memory, Sequence[tuple[Expr, int]]]]:
        """What is read and written anew for each pixel, features as neighbours; each memory once."""
        feature, space = self.epilogue.index[1], self.epilogue.index[2:]
        found: dict[str, tuple[Memory, Sequence[tuple[Expr, int]]]] = {}
        for memory, terms in Uses.of(self.epilogue.stores).addresses:
            strides = dict(terms)
            plain = len(terms) == len(memory.strides) and memory.offset == 0
            if plain and strides.get(feature) == 1 and any(strides.get(v) for v in space):
                found[memory.name] = memory, terms
        return list(found.values())
