"""Sums of products in tiles: one workgroup computes a tile of a result from tiles of two operands in its memory.

256 invocations stand 16 by 16. Each keeps R rows by C columns of the tile in registers; both operands pass through
workgroup memory 16 steps of k at a time, in vectors of four: the left one along k, the right one along the columns.
While a tile's products are summed, the next one's elements are already on their way from memory. Each sum runs over k
in order, so its bits depend neither on the tile's size nor on the number of workgroups.

What an operand's element is, and where, its `Operand` says: this file does not know matrices from images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rlx.codegen.wgsl.body import BodyEmitter

SIDE = 16  # invocations along each side of a tile
INVOCATIONS = SIDE * SIDE
DEPTH = 16  # steps of k that are in workgroup memory at a time
#: Workgroups from which on larger tiles leave none of a large device idle.
_ENOUGH = 256


@dataclass(frozen=True)
class Tile:
    """rows, columns: of one invocation; columns are a multiple of 4."""

    rows: int
    columns: int

    @property
    def height(self) -> int:
        return SIDE * self.rows

    @property
    def width(self) -> int:
        return SIDE * self.columns

    def count(self, m: int, n: int) -> tuple[int, int]:
        """Tiles down and across an m by n result."""
        return -(-m // self.height), -(-n // self.width)


def tile_for(batch: int, m: int, n: int) -> Tile:
    """The largest tile that is not mostly empty and leaves enough of them."""
    for rows, columns in ((8, 8), (8, 4), (4, 8), (4, 4), (2, 4)):
        tile = Tile(rows, columns)
        down, across = tile.count(m, n)
        filled = m * n >= 0.7 * down * across * tile.height * tile.width
        if filled and batch * down * across >= (_ENOUGH if rows * columns > 16 else 64):
            return tile
    rows = 1 if m <= 16 else 2 if m <= 32 else 4
    return Tile(rows, 4)


class Operand(Protocol):
    """Loads pieces, four elements each, of one side of the product.

    along_k: neighbouring invocations should load neighbours along k (else along the outer dimension, m or n).
    begin: lines before the loop over k, for piece `piece`, whose outer index starts at the expression `outer`.
    load: lines that leave the piece's elements in the variable `into`. The left side's four are at `k` to `k` + 3 and
        `outer`, the right side's at `k` and `outer` to `outer` + 3. They are zero past the end of k; past that of
        the outer dimension they are anything, as those sums are dropped.
    """

    along_k: bool

    def begin(self, line: Callable[[str], None], piece: int, outer: str) -> None: ...

    def load(self, line: Callable[[str], None], piece: int, k: str, into: str) -> None: ...


@dataclass(frozen=True)
class Product:
    """The sums of one kernel. kind: their WGSL type. Tiles are numbered batch by batch, row by row."""

    batch: int
    m: int
    n: int
    k: int
    kind: str
    zero: str
    tile: Tile

    @property
    def groups(self) -> int:
        down, across = self.tile.count(self.m, self.n)
        return self.batch * down * across

    def declarations(self, right: Operand) -> list[str]:
        """The workgroup memory of the tiles."""
        left_size, right_size = self.tile.height * DEPTH // 4, DEPTH * self._stride(right)
        return [
            f"var<workgroup> left: array<vec4<{self.kind}>, {left_size}>;",
            f"var<workgroup> right: array<vec4<{self.kind}>, {right_size}>;",
        ]

    def _stride(self, right: Operand) -> int:
        """Vectors from one k to the next in `right`; one more than its width keeps writes along k off one bank."""
        width = self.tile.width // 4
        return width + 1 if right.along_k and self.tile.columns * self.tile.rows <= 32 else width

    def place(self, line: Callable[[str], None], group: str) -> None:
        """Where this workgroup's tile stands: m0, n0 and batch; and the invocation's place in it: tx, ty."""
        down, across = self.tile.count(self.m, self.n)
        line(f"let tile = i32({group});")
        line(f"if (tile >= {self.groups}) {{ return; }}")
        line(f"let n0 = (tile % {across}) * {self.tile.width};")
        line(f"let m0 = ((tile / {across}) % {down}) * {self.tile.height};")
        line(f"let batch = tile / {across * down};")
        line(f"let tx = i32(local) % {SIDE};")
        line(f"let ty = i32(local) / {SIDE};")

    def sums(self, line: Callable[[str], None], left: Operand, right: Operand) -> None:
        """The sums, in c{row}_{vector of columns}."""
        tile, vectors = self.tile, self.tile.columns // 4
        for r in range(tile.rows):
            for j in range(vectors):
                line(f"var c{r}_{j} = vec4<{self.kind}>({self.zero});")
        stride = self._stride(right)
        pieces = self._pieces(line, left, right, stride)
        for name, _, operand, number, depth, guard in pieces:
            line(f"var {name} = vec4<{self.kind}>({self.zero});")
            self._guarded(line, guard, lambda o=operand, i=number, d=depth, n=name: o.load(line, i, d, n))
        line(f"for (var k0 = 0i; k0 < {self.k}; k0 = k0 + {DEPTH}) {{")
        line("workgroupBarrier();")
        for name, place, _, _, _, guard in pieces:
            self._guarded(line, guard, lambda p=place, n=name: line(f"{p} = {n};"))
        line("workgroupBarrier();")
        line(f"if (k0 + {DEPTH} < {self.k}) {{")
        for name, _, operand, number, depth, guard in pieces:
            at = f"(k0 + {DEPTH} + {depth})"
            self._guarded(line, guard, lambda o=operand, i=number, d=at, n=name: o.load(line, i, d, n))
        line("}")
        line(f"for (var kk = 0i; kk < {DEPTH // 4}; kk = kk + 1i) {{")
        for r in range(tile.rows):
            line(f"let f{r} = left[(ty * {tile.rows} + {r}) * {DEPTH // 4} + kk];")
        for step in range(4):
            line("{")
            for j in range(vectors):
                line(f"let b{j} = right[(kk * 4 + {step}) * {stride} + tx + {j * SIDE}];")
            for r in range(tile.rows):
                for j in range(vectors):
                    line(f"c{r}_{j} = c{r}_{j} + f{r}[{step}] * b{j};")
            line("}")
        line("}")
        line("}")

    def _pieces(self, line: Callable[[str], None], left: Operand, right: Operand, stride: int):
        """What this invocation brings: (register, place in workgroup memory, operand, piece, step of k, condition)."""
        tile, found = self.tile, []
        vectors = DEPTH // 4
        for side, operand, total in (("l", left, tile.height * vectors), ("r", right, tile.width // 4 * DEPTH)):
            for number in range(-(-total // INVOCATIONS)):
                at, d, outer = f"{side}at{number}", f"{side}d{number}", f"{side}o{number}"
                line(f"let {at} = i32(local) + {number * INVOCATIONS};")
                if side == "l":
                    near, far = (vectors, f"/ {vectors}") if operand.along_k else (tile.height, f"% {tile.height}")
                    depth = f"({at} % {near})" if operand.along_k else f"({at} / {near})"
                    line(f"let {d} = {depth} * 4;")
                    line(f"let {outer} = {at} {far};")
                    place = f"left[{outer} * {vectors} + {d} / 4]"
                else:
                    wide = tile.width // 4
                    depth, vector = (
                        (f"{at} % {DEPTH}", f"{at} / {DEPTH}")
                        if operand.along_k
                        else (f"{at} / {wide}", f"{at} % {wide}")
                    )
                    line(f"let {d} = {depth};")
                    line(f"let {outer} = ({vector}) * 4;")
                    place = f"right[{d} * {stride} + {outer} / 4]"
                operand.begin(line, number, f"({'m0' if side == 'l' else 'n0'} + {outer})")
                guard = f"{at} < {total}" if total % INVOCATIONS else ""
                found.append((f"{side}{number}", place, operand, number, d, guard))
        return found

    def _guarded(self, line: Callable[[str], None], guard: str, emit: Callable[[], None]) -> None:
        if guard:
            line(f"if ({guard}) {{")
        emit()
        if guard:
            line("}")

    def finish(self, emitter: BodyEmitter, each: Callable[[], None]) -> None:
        """Run the lines of `each` for every sum of the tile that there is: `total` at row `m`, column `n`."""
        line, tile, vectors = emitter.line, self.tile, self.tile.columns // 4
        rows = ", ".join(f"c{r}_{j}" for r in range(tile.rows) for j in range(vectors))
        line(f"var sums = array<vec4<{self.kind}>, {tile.rows * vectors}>({rows});")
        line(f"for (var e = 0i; e < {4 * vectors * tile.rows}; e = e + 1i) {{")
        line(f"let m = m0 + ty * {tile.rows} + e / {4 * vectors};")
        line(f"let n = n0 + (tx + (e / 4) % {vectors} * {SIDE}) * 4 + e % 4;")
        line(f"if (m < {self.m} && n < {self.n}) {{")
        line("let total = sums[e / 4][e % 4];")
        each()
        line("}")
        line("}")
