"""Sums of products in tiles: one workgroup computes a tile of a result from tiles of two operands in its memory.

Each of 256 invocations keeps a few rows by a few columns of the tile in registers; both operands pass through workgroup
memory some steps of k at a time, in vectors of four: the left one along k, the right one along the columns. While a
tile's products are summed, the next one's elements are already on their way from memory; where workgroup memory has
room for two, they need not wait there.

Where there are too few tiles to keep a large device busy, tiles are small and their invocations stand in slices, each
of which sums its own share of every block of k; in the end the slices' sums are added by a tree. Otherwise each sum
runs over k in order. Which it is depends on the sizes and the kind of device alone: equal products give equal bits.

What an operand's element is, and where, its `Operand` says: this file does not know matrices from images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rlx.codegen.wgsl.body import BodyEmitter

INVOCATIONS = 256


@dataclass(frozen=True)
class Tile:
    """rows, columns: of one invocation, multiples of 4. down, across: invocations of one slice.

    depth: steps of k that are in workgroup memory at a time, all slices' together; four or more a slice.
    """

    rows: int
    columns: int
    down: int = 16
    across: int = 16
    depth: int = 16

    @property
    def slices(self) -> int:
        return INVOCATIONS // (self.down * self.across)

    @property
    def height(self) -> int:
        return self.down * self.rows

    @property
    def width(self) -> int:
        return self.across * self.columns

    def count(self, m: int, n: int) -> tuple[int, int]:
        """Tiles down and across an m by n result."""
        return -(-m // self.height), -(-n // self.width)


#: Tiles, those that load least a product first, each with the workgroups from which on nothing smaller is faster: as
#: measured on a GPU of 132 cores. With 8 by 8 sums an invocation, too few invocations fit on a core.
TILES = (
    (Tile(8, 4), 1024),
    (Tile(4, 4), 264),
    (Tile(4, 4, 8, 16, 32), 96),
    (Tile(4, 4, 4, 8, 64), 64),
    (Tile(4, 4, 4, 4, 128), 0),
)


def tile_for(batch: int, m: int, n: int, *, large: bool = True) -> Tile:
    """The first tile that is not much emptier than need be and of which there are enough.

    large: the device runs hundreds of workgroups at once; for one of a few cores tiles have as few slices as fit.
    """
    if not large:
        return Tile(4, 4) if m > 32 else Tile(4, 4, 8, 16, 32) if m > 16 else Tile(4, 4, 4, 16, 32)
    for tile, enough in TILES:
        down, across = tile.count(m, n)
        if batch * down * across >= enough and m * n >= 0.7 * down * across * tile.height * tile.width:
            return tile
    return TILES[-1][0]


def turns(k: int) -> int:
    """Turns of loops, at most, that one invocation takes for sums over k: blocks, and vectors of each."""
    return -(-k // 16) * 5 + 64


class Operand(Protocol):
    """Loads pieces of one side of the product: four steps of k of one row, or one step of four columns.

    along_k: neighbouring invocations should load neighbours along k (else along the outer dimension, m or n).
    begin: lines before the loop over k, for piece `piece`, whose outer index starts at the expression `outer`.
    load: lines that leave the piece's elements from `k` on in the variable `into`. They are zero past the end of k;
        past that of the outer dimension they are anything, as those sums are dropped.
    """

    along_k: bool

    def begin(self, line: Callable[[str], None], piece: int, outer: str) -> None: ...

    def load(self, line: Callable[[str], None], piece: int, k: str, into: str) -> None: ...


@dataclass(frozen=True)
class Product:
    """The sums of one kernel. kind: their WGSL type. Tiles are numbered batch by batch, row by row.

    workgroup_bytes: what the device has; whatever it is, a tile of each operand fits.
    """

    batch: int
    m: int
    n: int
    k: int
    kind: str
    zero: str
    tile: Tile
    left: Operand
    right: Operand
    workgroup_bytes: int

    @property
    def groups(self) -> int:
        down, across = self.tile.count(self.m, self.n)
        return self.batch * down * across

    def declarations(self) -> list[str]:
        """The workgroup memory of the tiles."""
        size = max(self._buffers * self._size, self.tile.slices // 2 * self._sums)
        return [f"var<workgroup> tiles: array<vec4<{self.kind}>, {size}>;"]

    @property
    def _right(self) -> int:
        """Where the right operand's vectors begin, behind the left one's."""
        return self.tile.height * self.tile.depth // 4

    @property
    def _stride(self) -> int:
        """Vectors from one k to the next on the right; one more than needed keeps writes along k off one bank."""
        wide = self.tile.width // 4
        padded = wide + self.right.along_k
        return padded if 16 * (self._right + self.tile.depth * padded) <= self.workgroup_bytes else wide

    @property
    def _size(self) -> int:
        """Vectors of a tile of each operand."""
        return self._right + self.tile.depth * self._stride

    @property
    def _buffers(self) -> int:
        return 2 if 2 * 16 * self._size <= self.workgroup_bytes else 1

    @property
    def _sums(self) -> int:
        """Vectors of one slice's sums, which take the operands' place in the end."""
        return self.tile.height * self.tile.width // 4

    def place(self, line: Callable[[str], None], group: str) -> None:
        """Where this workgroup's tile stands: m0, n0 and batch; and the invocation's place in it: tx, ty, part."""
        down, across = self.tile.count(self.m, self.n)
        line(f"let tile = i32({group});")
        line(f"if (tile >= {self.groups}) {{ return; }}")
        line(f"let n0 = (tile % {across}) * {self.tile.width};")
        line(f"let m0 = ((tile / {across}) % {down}) * {self.tile.height};")
        line(f"let batch = tile / {across * down};")
        line(f"let tx = i32(local) % {self.tile.across};")
        line(f"let ty = (i32(local) / {self.tile.across}) % {self.tile.down};")
        line(f"let part = i32(local) / {self.tile.across * self.tile.down};")

    def sums(self, line: Callable[[str], None]) -> None:
        """The sums, in c{row}_{vector of columns}; of the first slice where there are several."""
        tile, vectors, depth = self.tile, self.tile.columns // 4, self.tile.depth
        for r in range(tile.rows):
            for j in range(vectors):
                line(f"var c{r}_{j} = vec4<{self.kind}>({self.zero});")
        pieces = self._pieces(line)
        for name, _, operand, number, at, guard in pieces:
            line(f"var {name} = vec4<{self.kind}>({self.zero});")
            self._guarded(line, guard, lambda o=operand, i=number, d=at, n=name: o.load(line, i, d, n))
        line(f"for (var k0 = 0i; k0 < {self.k}; k0 = k0 + {depth}) {{")
        if self._buffers == 1:
            line("let buffer = 0i;")
            line("workgroupBarrier();")
        else:
            line(f"let buffer = (k0 / {depth}) % 2 * {self._size};")
        for name, place, _, _, _, guard in pieces:
            self._guarded(line, guard, lambda p=place, n=name: line(f"tiles[buffer + {p}] = {n};"))
        line("workgroupBarrier();")
        line(f"if (k0 + {depth} < {self.k}) {{")
        for name, _, operand, number, at, guard in pieces:
            ahead = f"(k0 + {depth} + {at})"
            self._guarded(line, guard, lambda o=operand, i=number, d=ahead, n=name: o.load(line, i, d, n))
        line("}")
        own = depth // tile.slices
        line(f"for (var kk = part * {own}; kk < part * {own} + {own}; kk = kk + 4i) {{")
        for r in range(tile.rows):
            row = f"(ty + {r // 4 * tile.down}) * 4 + {r % 4}"
            line(f"let f{r} = tiles[buffer + ({row}) * {depth // 4} + kk / 4];")
        for step in range(4):
            line("{")
            for j in range(vectors):
                at = f"(kk + {step}) * {self._stride} + tx + {self._right + j * tile.across}"
                line(f"let b{j} = tiles[buffer + {at}];")
            for r in range(tile.rows):
                for j in range(vectors):
                    line(f"c{r}_{j} = c{r}_{j} + f{r}[{step}] * b{j};")
            line("}")
        line("}")
        line("}")
        self._add_slices(line)

    def _add_slices(self, line: Callable[[str], None]) -> None:
        """Add the slices' sums to the first's: the upper half of them to the lower, until one is left."""
        tile, vectors = self.tile, self.tile.columns // 4
        count = tile.down * tile.across
        places = [(r, j, f"at + {(r * vectors + j) * count}") for r in range(tile.rows) for j in range(vectors)]
        half = tile.slices // 2
        while half:
            line("workgroupBarrier();")
            line(f"if (part >= {half} && part < {2 * half}) {{")
            line(f"let at = (part - {half}) * {self._sums} + i32(local) % {count};")
            for r, j, place in places:
                line(f"tiles[{place}] = c{r}_{j};")
            line("}")
            line("workgroupBarrier();")
            line(f"if (part < {half}) {{")
            line(f"let at = part * {self._sums} + i32(local) % {count};")
            for r, j, place in places:
                line(f"c{r}_{j} = c{r}_{j} + tiles[{place}];")
            line("}")
            half //= 2

    def _pieces(self, line: Callable[[str], None]):
        """What this invocation brings: (register, place in workgroup memory, operand, piece, step of k, condition)."""
        tile, found = self.tile, []
        vectors, wide = tile.depth // 4, tile.width // 4
        for side, operand, steps, outers in (
            ("l", self.left, vectors, tile.height),
            ("r", self.right, tile.depth, wide),
        ):
            for number in range(-(-steps * outers // INVOCATIONS)):
                at, d, outer = f"{side}at{number}", f"{side}d{number}", f"{side}o{number}"
                line(f"let {at} = i32(local) + {number * INVOCATIONS};")
                near, far, by = (d, outer, steps) if operand.along_k else (outer, d, outers)
                line(f"let {near} = {at} % {by};")
                line(f"let {far} = {at} / {by};")
                guard = f"{at} < {steps * outers}" if steps * outers % INVOCATIONS else ""
                if side == "l":
                    operand.begin(line, number, f"(m0 + {outer})")
                    found.append((f"l{number}", f"{outer} * {vectors} + {d}", operand, number, f"{d} * 4", guard))
                else:
                    operand.begin(line, number, f"(n0 + {outer} * 4)")
                    place = f"{self._right} + {d} * {self._stride} + {outer}"
                    found.append((f"r{number}", place, operand, number, d, guard))
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
        if tile.slices > 1:
            line("if (part > 0) { return; }")
        sums = ", ".join(f"c{r}_{j}" for r in range(tile.rows) for j in range(vectors))
        line(f"var sums = array<vec4<{self.kind}>, {tile.rows * vectors}>({sums});")
        line(f"for (var e = 0i; e < {4 * vectors * tile.rows}; e = e + 1i) {{")
        line(f"let r = e / {4 * vectors};")
        line(f"let m = m0 + (ty + r / 4 * {tile.down}) * 4 + r % 4;")
        line(f"let n = n0 + (tx + (e / 4) % {vectors} * {tile.across}) * 4 + e % 4;")
        line(f"if (m < {self.m} && n < {self.n}) {{")
        line("let total = sums[e / 4][e % 4];")
        each()
        line("}")
        line("}")
