"""Statements and expressions of a kernel's body, as lines of WGSL.

A shared expression becomes a `let` where it is first needed, and keeps it until a variable that it reads is assigned or
a memory that it loads from is stored to, or its scope ends. i64 expressions that fit into i32 are computed there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Const,
    Declare,
    Expr,
    If,
    Let,
    Load,
    Local,
    Loop,
    Memory,
    Stmt,
    Store,
    Var,
    While,
)
from rlx.codegen.wgsl.interval import Interval, interval_of
from rlx.codegen.wgsl.place import Place
from rlx.codegen.wgsl.pointwise import apply_pointwise
from rlx.codegen.wgsl.types import WgslTarget, literal, register_type
from rlx.codegen.wgsl.walk import effects, iterations, reads
from rlx.errors import UnsupportedKernel
from rlx.ir.dtypes import DType, i32, i64


@dataclass(frozen=True)
class _Shared:
    name: str
    variables: frozenset[str]
    memories: frozenset[str]


#: Elements of an invocation's own array, above which it lies in the scratch binding: compilers keep arrays in
#: registers, clear them at each start, or take minutes over them.
_PRIVATE = 1024


class BodyEmitter:
    """Collects lines; see the module.

    lanes: how many invocations share the scratch binding, in which each has every `lanes`-th word from its own, `flat`,
        on; 0 where there is none, and large arrays of an invocation's own stay its own. scratch: words of each.
    """

    def __init__(self, target: WgslTarget, lanes: int = 0) -> None:
        self.target = target
        self.lanes = lanes
        self.scratch = 0
        self.lines: list[str] = []
        self.unroll = 1  # how many turns of an innermost loop stand in one turn of the shader's
        self.abreast = 1  # and of a shared loop, so that their loads are under way together
        self.store_if = ""  # a condition of every store to memory, local arrays aside
        self._turn = "0"
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

    def bind_private(self, memory: Memory, turns: int) -> None:
        """Declare a local array with an element for each of the invocation's turns of `shared_loop`, or, for 0, one."""
        name = self.fresh("l")
        self.line(f"var {name}: array<{register_type(memory.dtype, self.target)}, {max(turns, 1)}>;")
        self._places[memory.name] = Place(name, memory.dtype, private="turn" if turns else "one")

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

    # -- statements ------------------------------------------------------------------------------------------------

    def body(self, body: Sequence[Stmt]) -> None:
        for stmt in body:
            self._memo = {}
            self._statement(stmt)

    def shared_loop(self, axes: Sequence[tuple[Var, int]], body: Sequence[Stmt], sharers: int, sharer: str) -> None:
        """Loops over `axes` as one, of which this invocation takes the turns `sharer`, `sharer + sharers`, ..."""
        self._forget(*effects(body))
        total = math.prod(n for _, n in axes)
        abreast = max(self.unroll, self.abreast)
        turns, whole = -(-total // sharers), total // (sharers * abreast) * abreast
        for first, end, step in ((0, whole, abreast), (whole, turns, 1)):
            if first == end:
                continue
            turn = self.fresh("i")
            self.line(f"for (var {turn} = {first}i; {turn} < {end}; {turn} = {turn} + {step}i) {{")
            for part in range(step):
                self._turn = f"({turn} + {part}i)" if part else turn
                flat = f"{self._turn} * {sharers} + {sharer}" if sharers > 1 else self._turn
                self._shared_turn(axes, body, self._named(flat), None if end == whole else total)
            self.line("}")
        self._turn = "0"
        self._forget({v.name for v, _ in axes}, set())

    def _shared_turn(self, axes: Sequence[tuple[Var, int]], body: Sequence[Stmt], flat: str, total: int | None) -> None:
        """One turn, of number `flat`; nothing from `total` on."""
        self.line("{" if total is None else f"if ({flat} < {total}) {{")
        self._depth += 1
        self._shared.append({})
        for (var, extent), index in zip(axes, parts_of(flat, [n for _, n in axes]), strict=True):
            self._set_index(var, self._named(index), extent)
            self._forget({var.name}, set())
        self.body(body)
        self._shared.pop()
        self._depth -= 1
        self.line("}")

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is bound to names inside stays inside: for a block of the caller's own lines."""
        self._shared.append({})
        yield
        self._shared.pop()

    def _named(self, text: str) -> str:
        name = self.fresh("v")
        self.line(f"let {name} = {text};")
        return name

    def _block(self, body: Sequence[Stmt]) -> None:
        self._depth += 1
        self._shared.append({})
        self.body(body)
        self._shared.pop()
        self._depth -= 1

    def _statement(self, stmt: Stmt) -> None:
        match stmt:
            case Loop():
                self._loop(stmt)
            case Let():
                self._let(stmt)
            case Declare():
                name, value = self.fresh("m"), self.value(stmt.init)
                self.line(f"var {name}: {register_type(stmt.var.dtype, self.target)} = {value};")
                self._names[stmt.var.name] = (name, False)
                self._intervals.pop(stmt.var.name, None)
                self._forget({stmt.var.name}, set())
            case Assign():
                self.line(f"{self._names[stmt.var.name][0]} = {self.value(stmt.value)};")
                self._forget({stmt.var.name}, set())
            case Accumulate():
                name, dtype = self._names[stmt.var.name][0], stmt.var.dtype
                value = self.value(stmt.value)
                result = apply_pointwise(stmt.op, (name, value), (dtype, dtype), dtype, self.target)
                self.line(f"{name} = {result};")
                self._forget({stmt.var.name}, set())
            case Store():
                self._store(stmt)
            case If():
                self.line(f"if ({self.value(stmt.condition)}) {{")
                self._block(stmt.then)
                if stmt.orelse:
                    self.line("} else {")
                    self._block(stmt.orelse)
                self.line("}")
            case While():
                self._forget(*effects(stmt.body))
                self.line("loop {")
                self._depth += 1
                self._shared.append({})
                self.line(f"if (!({self.value(stmt.condition)})) {{ break; }}")
                self._shared.pop()
                self._depth -= 1
                self._block(stmt.body)
                self.line("}")
            case Local():
                self._local(stmt)

    def _local(self, stmt: Local) -> None:
        kind = register_type(stmt.memory.dtype, self.target)
        if self.lanes and stmt.elements > _PRIVATE and kind in ("f32", "i32", "u32"):
            self._places[stmt.memory.name] = Place(
                "scratch", stmt.memory.dtype, base=self.scratch, spilled=kind, lanes=self.lanes
            )
            self.scratch += stmt.elements
            return
        name = self.fresh("l")
        self.line(f"var {name}: array<{kind}, {max(1, stmt.elements)}>;")
        self._places[stmt.memory.name] = Place(name, stmt.memory.dtype)

    def _loop(self, stmt: Loop) -> None:
        self._forget(*effects(stmt.body))
        extent, bounds = self.index(stmt.extent), interval_of(stmt.extent, self._intervals, self._memo)
        if self.unroll > 1 and iterations(stmt.body) == 0:
            self._unrolled(stmt, extent, bounds[1] if bounds else None)
            return
        name = self.fresh("i")
        self.line(f"for (var {name} = 0i; {name} < {extent}; {name} = {name} + 1i) {{")
        self._set_index(stmt.var, name, bounds[1] if bounds else None)
        self._forget({stmt.var.name}, set())
        self._block(stmt.body)
        self.line("}")
        self._forget({stmt.var.name}, set())

    def _unrolled(self, stmt: Loop, extent: str, most: int | None) -> None:
        name = self.fresh("i")
        self.line(f"for (var {name} = 0i; {name} < {extent}; {name} = {name} + {self.unroll}i) {{")
        for part in range(self.unroll):
            index = self.fresh("v")
            self.line(f"let {index} = {name} + {part}i;")
            self.line(f"if ({index} < {extent}) {{")
            self._set_index(stmt.var, index, most)
            self._forget({stmt.var.name}, set())
            self._block(stmt.body)
            self.line("}")
        self.line("}")
        self._forget({stmt.var.name}, set())

    def _let(self, stmt: Let) -> None:
        bounds = interval_of(stmt.value, self._intervals, self._memo)
        value = self.value(stmt.value) if bounds is None else self.index(stmt.value)
        name = self.fresh("v")
        self.line(f"let {name} = {value};")
        self._names[stmt.var.name] = (name, bounds is not None)
        if bounds is None:
            self._intervals.pop(stmt.var.name, None)
        else:
            self._intervals[stmt.var.name] = bounds
        self._forget({stmt.var.name}, set())

    def _store(self, stmt: Store) -> None:
        place = self._places[stmt.memory.name]
        at, value = self._address(stmt.memory, stmt.index), self.value(stmt.value)
        tests = [self.store_if] if self.store_if and not place.private else []
        tests += [self.value(stmt.mask)] if stmt.mask is not None else []
        if tests:
            self.line(f"if ({' && '.join(tests)}) {{")
        for text in place.store(at, value, self._named):
            self.line(text)
        if tests:
            self.line("}")
        self._forget(set(), {stmt.memory.name})

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
