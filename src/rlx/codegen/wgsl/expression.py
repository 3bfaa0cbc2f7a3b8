"""Expressions of a kernel's body as WGSL, each with its names: what variables, memories and shared values are called.

A shared expression becomes a `let` where it is first needed, and keeps it until a variable that it reads is assigned or
a memory that it loads from is stored to, or its scope ends. i64 expressions that fit into i32 are computed there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rlx.codegen.kernel import Apply, Const, Expr, Load, Memory, Var
from rlx.codegen.wgsl.interval import Interval, interval_of
from rlx.codegen.wgsl.place import Place
from rlx.codegen.wgsl.pointwise import apply_pointwise
from rlx.codegen.wgsl.types import WgslTarget, literal
from rlx.codegen.wgsl.walk import reads
from rlx.errors import UnsupportedKernel
from rlx.ir.dtypes import DType, i32, i64


@dataclass(frozen=True)
class _Shared:
    name: str
    variables: frozenset[str]
    memories: frozenset[str]


class ExpressionEmitter:
    """Collects lines; see the module."""

    def __init__(self, target: WgslTarget) -> None:
        self.target = target
        self.lines: list[str] = []
        self._turn = "0"  # of the shared loop at hand: where elements of private arrays are
        self._depth = 1
        self._count = 0
        self._places: dict[str, Place] = {}
        self._names: dict[str, tuple[str, bool]] = {}  # variable -> (WGSL name, whether it is an i32 for an i64)
        self._intervals: dict[str, Interval] = {}
        self._memo: dict[int, Interval | None] = {}
        self._shared: list[dict[tuple[int, bool], _Shared]] = [{}]
        self._keep: list[Expr] = []  # identities stay taken while the emitter lives

    # -- names -----------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("  " * self._depth + text)

    def bind_memory(self, memory: Memory, name: str, *, atomic: bool, base: int) -> None:
        self._places[memory.name] = Place.of_argument(name, memory.dtype, atomic=atomic, base=base)

    def bind_index(self, var: Var, value: str, extent: int) -> None:
        """`var` is a loop index below `extent`, whose value is an i32 expression."""
        name = self.fresh("v")
        self.line(f"let {name} = {value};")
        self._set_index(var, name, extent)

    def bind_value(self, var: Var, name: str) -> None:
        """`var` is a value that stands in the shader under `name`."""
        self._names[var.name] = (name, False)
        self._intervals.pop(var.name, None)

    def name_of(self, kept: Var | Memory) -> str:
        """What a variable, or the one element of a private array, is called."""
        return self._names[kept.name][0] if isinstance(kept, Var) else f"{self._places[kept.name].name}[0]"

    def changed(self, kept: Iterable[Var | Memory]) -> None:
        """Variables and memories have new values, by lines that the caller wrote."""
        names = {k.name for k in kept}
        self._forget(names, names)

    def _set_index(self, var: Var, name: str, extent: int | None) -> None:
        self._names[var.name] = (name, True)
        self._intervals[var.name] = (0, max(0, (extent if extent is not None else (1 << 31) - 1) - 1))

    def fresh(self, letter: str) -> str:
        """A name that nothing else in the body has."""
        self._count += 1 if self._count not in (31, 63) else 2  # i32 and i64 are types
        return f"{letter}{self._count}"

    def _named(self, text: str) -> str:
        name = self.fresh("v")
        self.line(f"let {name} = {text};")
        return name

    # -- expressions -----------------------------------------------------------------------------------------------

    def value(self, e: Expr) -> str:
        """The expression in its dtype's register."""
        if isinstance(e, Const):
            return literal(e.value, e.dtype, self.target)
        if isinstance(e, Var):
            name, narrow = self._names[e.name]
            return self._wide(name) if narrow else name
        if e.dtype is i64 and interval_of(e, self._intervals, self._memo) is not None:
            return self._wide(self.index(e))
        return self._once(e, False)

    def index(self, e: Expr) -> str:
        """An i64 expression as i32: exact where it fits, wrapped where it does not."""
        if isinstance(e, Const):
            return literal(e.value, i32, self.target)
        if isinstance(e, Var):
            name, narrow = self._names[e.name]
            return name if narrow else self._narrow(name, e.dtype)
        if interval_of(e, self._intervals, self._memo) is not None:
            return self._once(e, True)
        if isinstance(e, Apply) and e.op == "convert" and e.args[0].dtype.is_integer and e.args[0].dtype.bits <= 32:
            return f"i32({self.value(e.args[0])})"
        return self._narrow(self.value(e), e.dtype)

    def _wide(self, narrow: str) -> str:
        return (
            f"i64({narrow})" if self.target.int64 else apply_pointwise("convert", (narrow,), (i32,), i64, self.target)
        )

    def _narrow(self, value: str, dtype: DType) -> str:
        return (
            f"i32({value})" if self.target.int64 else apply_pointwise("convert", (value,), (dtype,), i32, self.target)
        )

    def _once(self, e: Load | Apply, narrow: bool) -> str:
        for scope in reversed(self._shared):
            if (id(e), narrow) in scope:
                return scope[id(e), narrow].name
        text = self._load(e) if isinstance(e, Load) else self._apply(e, narrow)
        name = self.fresh("t")
        self.line(f"let {name} = {text};")
        variables, memories = reads(e)
        self._keep.append(e)
        self._shared[-1][id(e), narrow] = _Shared(name, variables, memories)
        return name

    def _apply(self, e: Apply, narrow: bool) -> str:
        dtypes = [a.dtype for a in e.args]
        if any(d is i64 for d in dtypes):
            wide = [a for a in e.args if a.dtype is i64]
            if narrow or all(interval_of(a, self._intervals, self._memo) is not None for a in wide):
                if narrow or e.dtype is not i64:
                    args = [self.index(a) if a.dtype is i64 else self.value(a) for a in e.args]
                    return self._pointwise(e, args, [_narrowed(d) for d in dtypes], _narrowed(e.dtype))
        return self._pointwise(e, [self.value(a) for a in e.args], dtypes, _narrowed(e.dtype) if narrow else e.dtype)

    def _pointwise(self, e: Apply, args: list[str], sources: list[DType], to: DType) -> str:
        if all(isinstance(a, Const) for a in e.args):
            # Bound to names, so that nothing is folded while the shader compiles: folding refuses overflow.
            named = []
            for a in args:
                name = self.fresh("c")
                self.line(f"let {name} = {a};")
                named.append(name)
            args = named
        elif e.op.startswith("shift") and isinstance(e.args[1], Const):
            name = self.fresh("c")
            self.line(f"let {name} = {args[1]};")
            args = [args[0], name]
        elif to is i32 and e.op in ("div", "rem") and isinstance(e.args[1], Const) and e.args[1].value.real > 0:
            return f"({args[0]} {'/' if e.op == 'div' else '%'} {args[1]})"
        return apply_pointwise(e.op, args, sources, to, self.target)

    def _load(self, e: Load) -> str:
        text = self._places[e.memory.name].load(self._address(e.memory, e.index), self._named)
        if e.mask is None:
            return text
        # Out of bounds is no harm: every access is kept within the binding.
        zero = literal(0, e.dtype, self.target)
        other = self.value(e.other) if e.other is not None else zero
        return f"select({other}, {text}, {self.value(e.mask)})"

    def _address(self, memory: Memory, index: Sequence[Expr]) -> str:
        private = self._places[memory.name].private
        if private:
            return self._turn if private == "turn" else "0"
        base = self._places[memory.name].base
        offset = memory.offset
        if not isinstance(offset, int) or not all(isinstance(s, int) for s in memory.strides):
            raise UnsupportedKernel(f"memory {memory.name} has strides known only at run time, WGSL needs them now")
        terms = []
        for stride, part in zip(memory.strides, index, strict=True):
            if stride == 0 or (isinstance(part, Const) and part.value == 0):
                continue
            text = self.index(part)
            terms.append(text if stride == 1 else f"{text} * {stride}")
        if base + offset or not terms:
            terms.append(str(base + offset))
        return " + ".join(terms)

    # -- sharing ---------------------------------------------------------------------------------------------------

    def _forget(self, variables: Iterable[str], memories: Iterable[str]) -> None:
        """Values read before are no longer those that the names stand for."""
        changed, stored = set(variables), set(memories)
        if not changed and not stored:
            return
        for scope in self._shared:
            for key in [k for k, s in scope.items() if s.variables & changed or s.memories & stored]:
                del scope[key]

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is bound to names inside stays inside: for a block of the caller's own lines."""
        self._shared.append({})
        yield
        self._shared.pop()


def parts_of(flat: str, sizes: Sequence[int]) -> list[str]:
    """The index of each dimension, as expressions, from one flat row-major index over all of them."""
    parts = []
    inner = math.prod(sizes)
    for i, size in enumerate(sizes):
        inner //= size
        part = flat if inner == 1 else f"({flat} / {inner})"
        parts.append(part if i == 0 else f"({part} % {size})")
    return parts


def _narrowed(dtype: DType) -> DType:
    return i32 if dtype is i64 else dtype
