"""Statements of a kernel's body, as lines of WGSL."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlx.codegen.kernel import (
    Accumulate,
    Assign,
    Declare,
    If,
    Let,
    Local,
    Loop,
    Memory,
    Stmt,
    Store,
    Var,
    While,
)
from rlx.codegen.wgsl.expression import ExpressionEmitter, parts_of
from rlx.codegen.wgsl.interval import interval_of
from rlx.codegen.wgsl.place import Place
from rlx.codegen.wgsl.pointwise import apply_pointwise
from rlx.codegen.wgsl.types import WgslTarget, register_type
from rlx.codegen.wgsl.walk import effects, iterations

#: Elements of an invocation's own array, above which it lies in the scratch binding: compilers keep arrays in
#: registers, clear them at each start, or take minutes over them.
_PRIVATE = 1024


class BodyEmitter(ExpressionEmitter):
    """Collects lines; see the module.

    lanes: how many invocations share the scratch binding, in which each has every `lanes`-th word from its own, `flat`,
        on; 0 where there is none, and large arrays of an invocation's own stay its own. scratch: words of each.
    """

    def __init__(self, target: WgslTarget, lanes: int = 0) -> None:
        super().__init__(target)
        self.lanes = lanes
        self.scratch = 0
        self.unroll = 1  # how many turns of an innermost loop stand in one turn of the shader's
        self.abreast = 1  # and of a shared loop, so that their loads are under way together
        self.store_if = ""  # a condition of every store to memory, local arrays aside

    def bind_private(self, memory: Memory, turns: int) -> None:
        """Declare a local array with an element for each of the invocation's turns of `shared_loop`, or, for 0, one."""
        name = self.fresh("l")
        self.line(f"var {name}: array<{register_type(memory.dtype, self.target)}, {max(turns, 1)}>;")
        self._places[memory.name] = Place(name, memory.dtype, private="turn" if turns else "one")

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
