"""Kernels that workgroups run together: lanes as invocations, rows whose places several invocations share.

An invocation has an item and takes every `sharers`-th of its places. What it accumulates is a part; after the loop the
parts meet in workgroup memory, in two steps of a tree whose order is fixed, and every sharer has the whole. Barriers
stand between loops, never inside them, and control flow around them depends on the workgroup alone. Statements outside
loops are run by every sharer, their stores by the first.
"""

from __future__ import annotations

from rlx.codegen.kernel import Const, Expr, Local, LoopKernel, Memory, Stmt, Store, Var
from rlx.codegen.wgsl.body import BodyEmitter
from rlx.codegen.wgsl.nests import Form, Nest
from rlx.codegen.wgsl.pointwise import apply_pointwise
from rlx.codegen.wgsl.schedule import Schedule
from rlx.codegen.wgsl.types import decode, encode, register_type

#: Parts that one invocation combines in each step of the tree, at most.
_FAN = 16


class WorkgroupEmitter:
    """Emits one kernel of a form under a schedule. declarations: the workgroup memory it needs, once emitted."""

    def __init__(self, kernel: LoopKernel, form: Form, layout: Schedule, emitter: BodyEmitter) -> None:
        self.kernel, self.form, self.layout, self.emitter = kernel, form, layout, emitter
        self.declarations: list[str] = []
        self._meeting: dict[str, list[str]] = {}  # register type -> arrays in workgroup memory
        self._live = ""  # what must hold for the invocation's item to exist
        self._touched = False  # since the last barrier, memory was touched that others may see

    def emit(self, group: str, groups: int) -> None:
        """The body. group: this workgroup's number, as an expression; numbers from `groups` on do nothing."""
        line, layout, form = self.emitter.line, self.layout, self.form
        grid = self.kernel.grid
        assert isinstance(grid, Const)
        items = int(grid.value.real) * form.lanes
        shared = layout.sharers > 1
        line(f"let group = i32({group});")
        if groups * layout.items >= items and shared:
            line(f"if (group >= {groups}) {{ return; }}")
        near, far = (layout.items, layout.sharers) if layout.items_first else (layout.sharers, layout.items)
        of_item, of_place = (f"i32(local) % {near}", f"i32(local) / {near}")
        if not layout.items_first:
            of_item, of_place = of_place, of_item
        line(f"let flat = group * {layout.items} + {of_item if far * near > 1 else '0'};")
        if shared:
            line(f"let sharer = {of_place};")
            line(f"let item = min(flat, {items - 1});")
        else:
            line(f"if (flat >= {items}) {{ return; }}")
            line("let item = flat;")
        live = [f"flat < {items}"] if shared and items % layout.items else []
        self.emitter.bind_index(self.kernel.index, _quotient("item", form.lanes), max(items // form.lanes, 1))
        self._live = " && ".join(live)
        bound = form.lane is None
        for part in form.parts:
            if isinstance(part, Nest) and form.lane is not None and not bound:
                self._live = " && ".join([*live, *self._lane(form.lane.extent, shared)])
                bound = True
            if isinstance(part, Nest):
                self._nest(part)
            else:
                self._plain(part)

    def _lane(self, end: Expr, shared: bool) -> list[str]:
        """Bind the lane; what must hold for it to exist."""
        form = self.form
        assert form.lane is not None
        if isinstance(end, Const):
            self.emitter.bind_index(form.lane.var, f"item % {form.lanes}", form.lanes)
            return []
        last = self.emitter.index(end)
        if shared:
            self.emitter.bind_index(form.lane.var, f"min(item % {form.lanes}, {last} - 1)", form.lanes)
            return [f"item % {form.lanes} < {last}"]
        self.emitter.line(f"if (item % {form.lanes} >= {last}) {{ return; }}")
        self.emitter.bind_index(form.lane.var, f"item % {form.lanes}", form.lanes)
        return []

    def _plain(self, part: Stmt) -> None:
        """A statement outside loops."""
        if isinstance(part, Local):
            turns = 0
            if self.form.lane is None:
                turns = next((n.turns for n in self.form.nests if _touches(n, part.memory)), 1)
            self.emitter.bind_private(part.memory, -(-turns // self.layout.sharers))
        else:
            self.emitter.store_if = self._first()
            self.emitter.body([part])
            self.emitter.store_if = ""

    def _first(self) -> str:
        tests = [self._live] if self._live else []
        if self.layout.sharers > 1:
            tests.append("sharer == 0")
        return " && ".join(tests)

    # -- loops -----------------------------------------------------------------------------------------------------

    def _nest(self, nest: Nest) -> None:
        emitter, sharers = self.emitter, self.layout.sharers
        if not nest.axes:
            emitter.store_if = self._first()
            emitter.body(nest.body)
            emitter.store_if = ""
            return
        if sharers > 1 and self._touched and any(isinstance(s, Store) for s in nest.body):
            emitter.line("storageBarrier();")  # what others still read may lie where this loop stores
        if self._live:
            emitter.line(f"if ({self._live}) {{")
        emitter.shared_loop(nest.axes, nest.body, sharers, "sharer")
        if self._live:
            emitter.line("}")
        self._touched = True
        if sharers > 1 and nest.sums:
            self._meet(nest)
            self._touched = False

    def _meet(self, nest: Nest) -> None:
        """Every sharer's parts become the whole."""
        line, layout, target = self.emitter.line, self.layout, self.emitter.target
        counts: dict[str, int] = {}
        parts: list[tuple[str, str, str, Var | Memory]] = []
        for kept, op in nest.sums:
            kind = "u32" if kept.dtype.kind == "bool" else register_type(kept.dtype, target)
            arrays = self._meeting.setdefault(kind, [])
            number = counts.get(kind, 0)
            counts[kind] = number + 1
            if number == len(arrays):
                arrays.append(f"meet{sum(map(len, self._meeting.values()))}")
                self.declarations.append(f"var<workgroup> {arrays[-1]}: array<{kind}, {layout.invocations}>;")
            name = self.emitter.name_of(kept)
            parts.append((arrays[number], name, op, kept))
        step = layout.items if layout.items_first else 1
        base = (
            "i32(local) % " + str(layout.items)
            if layout.items_first
            else f"(i32(local) / {layout.sharers}) * {layout.sharers}"
        )
        few = layout.sharers if layout.sharers <= _FAN else max(_FAN, layout.sharers // _FAN)
        line("workgroupBarrier();")
        for array, name, _, kept in parts:
            line(f"{array}[local] = {_shown(name, kept)};")
        line("workgroupBarrier();")
        if few < layout.sharers:
            line(f"if (sharer < {few}) {{")
            line(f"for (var j = {few}i; j < {layout.sharers}; j = j + {few}i) {{")
            for array, name, op, kept in parts:
                other = _seen(f"{array}[i32(local) + j * {step}]", kept)
                line(f"{name} = {apply_pointwise(op, (name, other), (kept.dtype,) * 2, kept.dtype, target)};")
            line("}")
            for array, name, _, kept in parts:
                line(f"{array}[local] = {_shown(name, kept)};")
            line("}")
            line("workgroupBarrier();")
        line("{")
        line(f"let first = {base};")
        for array, name, _, kept in parts:
            line(f"{name} = {_seen(f'{array}[first]', kept)};")
        line(f"for (var j = 1i; j < {few}; j = j + 1i) {{")
        for array, name, op, kept in parts:
            other = _seen(f"{array}[first + j * {step}]", kept)
            line(f"{name} = {apply_pointwise(op, (name, other), (kept.dtype,) * 2, kept.dtype, target)};")
        line("}")
        line("}")
        self.emitter.changed(kept for kept, _ in nest.sums)


def _shown(value: str, kept: Var | Memory) -> str:
    """A part as workgroup memory holds it. Bools are words there: NVIDIA's driver gave false for true ones."""
    return encode(value, kept.dtype) if kept.dtype.kind == "bool" else value


def _seen(value: str, kept: Var | Memory) -> str:
    return decode(value, kept.dtype) if kept.dtype.kind == "bool" else value


def _touches(nest: Nest, memory: Memory) -> bool:
    return any(isinstance(s, Store) and s.memory.name == memory.name for s in nest.body)


def _quotient(value: str, by: int) -> str:
    return value if by == 1 else f"{value} / {by}"
