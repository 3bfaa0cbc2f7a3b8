"""Kernels as text, and their identity.

The text is canonical: names are given anew, in order of appearance, and a subexpression that is used more than once is
printed once, under a number. So two kernels that differ only in labels, in names or in how they were put together print
equally, and `kernel_identity` is a hash of that text. Costs are not part of it either: they do not change the code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from rlx.codegen.kernel import (
    Accumulate,
    Apply,
    Assign,
    Const,
    Declare,
    Expr,
    If,
    Kernel,
    Let,
    Load,
    Local,
    Loop,
    LoopKernel,
    Memory,
    Stmt,
    Store,
    TemplateKernel,
    Var,
    While,
)


def kernel_text(kernel: Kernel) -> str:
    """The kernel as lines of text, without a newline at the end."""
    return _Printer().kernel(kernel)


def kernel_identity(kernel: Kernel) -> str:
    """32 hexadecimal digits that are equal for kernels with equal code."""
    return hashlib.sha256(kernel_text(kernel).encode()).hexdigest()[:32]


class _Printer:
    """Names and lines of one kernel."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._names: dict[str, str] = {}
        self._memories: dict[str, str] = {}
        self._uses: dict[int, int] = {}
        self._shared: list[dict[int, str]] = [{}]
        self._numbers = 0

    def kernel(self, kernel: Kernel) -> str:
        args = [f"a{i}" for i in range(len(kernel.args))]
        self._memories = {m.name: name for m, name in zip(kernel.args, args, strict=True)}
        if isinstance(kernel, TemplateKernel):
            self._line(0, f"template {kernel.identity}")
        else:
            sizes = [self._name(v) for v in kernel.sizes]
            self._line(0, f"kernel({', '.join(sizes)})")
        for memory in kernel.args:
            self._line(1, f"arg {self._memory_type(memory)}")
        if isinstance(kernel, LoopKernel):
            self._count_all(kernel)
            self._line(1, f"grid {self._name(kernel.index)} in {self._expr(kernel.grid, 1)}")
            self._body(kernel.body, 1)
        else:
            self._line(1, f"grid {kernel.grid}")
        if kernel.scratch_bytes:
            self._line(1, f"scratch {kernel.scratch_bytes}")
        return "\n".join(self._lines)

    # -- names ---------------------------------------------------------------------------------------------------

    def _name(self, var: Var) -> str:
        found = self._names.get(var.name)
        if found is None:
            found = self._names[var.name] = f"v{len(self._names)}"
        return found

    def _memory(self, memory: Memory) -> str:
        found = self._memories.get(memory.name)
        if found is None:
            found = self._memories[memory.name] = f"m{len(self._memories)}"
        return found

    def _memory_type(self, memory: Memory) -> str:
        aliases = f" aliases {self._memories[memory.aliases]}" if memory.aliases else ""
        writable = " writable" if memory.writable else ""
        streamed = " streamed" if memory.streamed else ""
        return f"{self._memory(memory)}: {memory.dtype}{self._view(memory)}{writable}{streamed}{aliases}"

    def _view(self, memory: Memory) -> str:
        strides = ", ".join(self._size(s) for s in memory.strides)
        return f"[{strides}]" + ("" if memory.offset == 0 else f" + {self._size(memory.offset)}")

    def _size(self, size: int | Expr) -> str:
        return str(size) if isinstance(size, int) else self._inline(size)

    # -- expressions ---------------------------------------------------------------------------------------------

    def _count_all(self, kernel: LoopKernel) -> None:
        for root in _roots(kernel.body):
            self._count(root)

    def _count(self, expr: Expr) -> None:
        seen = self._uses.get(id(expr), 0)
        self._uses[id(expr)] = seen + 1
        if not seen:
            for part in _parts(expr):
                self._count(part)

    def _expr(self, expr: Expr, depth: int) -> str:
        """The expression's text; shared parts that are not yet printed in this scope get a line before it."""
        if isinstance(expr, Const | Var):
            return self._inline(expr)
        for scope in self._shared:
            if id(expr) in scope:
                return scope[id(expr)]
        text = self._compound(expr, depth)
        if self._uses.get(id(expr), 0) < 2:
            return text
        name = f"%{self._numbers}"
        self._numbers += 1
        self._line(depth, f"{name} = {text}")
        self._shared[-1][id(expr)] = name
        return name

    def _compound(self, expr: Apply | Load, depth: int) -> str:
        if isinstance(expr, Apply):
            return f"{expr.op}.{expr.dtype}({', '.join(self._expr(a, depth) for a in expr.args)})"
        place = f"{self._memory(expr.memory)}{self._view(expr.memory)}"
        text = f"load {place}[{', '.join(self._expr(i, depth) for i in expr.index)}]"
        if expr.mask is not None:
            text += f" if {self._expr(expr.mask, depth)}"
        if expr.other is not None:
            text += f" else {self._expr(expr.other, depth)}"
        return text

    def _inline(self, expr: Expr) -> str:
        match expr:
            case Const():
                return f"{expr.value!r}:{expr.dtype}"
            case Var():
                return f"{self._name(expr)}:{expr.dtype}"
            case Apply():
                return f"{expr.op}.{expr.dtype}({', '.join(self._inline(a) for a in expr.args)})"
            case Load():
                index = ", ".join(self._inline(i) for i in expr.index)
                return f"load {self._memory(expr.memory)}{self._view(expr.memory)}[{index}]"

    # -- statements ----------------------------------------------------------------------------------------------

    def _line(self, depth: int, text: str) -> None:
        self._lines.append("  " * depth + text)

    def _body(self, body: Sequence[Stmt], depth: int) -> None:
        self._shared.append({})
        for stmt in body:
            self._stmt(stmt, depth + 1)
        self._shared.pop()

    def _stmt(self, stmt: Stmt, depth: int) -> None:
        match stmt:
            case Loop():
                extent = self._expr(stmt.extent, depth)
                unroll = f" unroll {stmt.unroll}" if stmt.unroll != 1 else ""
                self._line(depth, f"{stmt.kind} {self._name(stmt.var)} in {extent}{unroll}")
                self._body(stmt.body, depth)
            case Let():
                value = self._expr(stmt.value, depth)
                self._line(depth, f"let {self._name(stmt.var)} = {value}")
            case Declare():
                value = self._expr(stmt.init, depth)
                self._line(depth, f"var {self._name(stmt.var)}: {stmt.var.dtype} = {value}")
            case Assign():
                self._line(depth, f"{self._name(stmt.var)} = {self._expr(stmt.value, depth)}")
            case Accumulate():
                value = self._expr(stmt.value, depth)
                self._line(depth, f"{self._name(stmt.var)} = {stmt.op}({self._name(stmt.var)}, {value})")
            case Store():
                value = self._expr(stmt.value, depth)
                index = ", ".join(self._expr(i, depth) for i in stmt.index)
                mask = "" if stmt.mask is None else f" if {self._expr(stmt.mask, depth)}"
                self._line(
                    depth, f"store {self._memory(stmt.memory)}{self._view(stmt.memory)}[{index}]{mask} = {value}"
                )
            case If():
                self._line(depth, f"if {self._expr(stmt.condition, depth)}")
                self._body(stmt.then, depth)
                if stmt.orelse:
                    self._line(depth, "else")
                    self._body(stmt.orelse, depth)
            case While():
                # The condition is evaluated before each turn: nothing of it may be printed before the loop.
                self._line(depth, f"while {self._inline(stmt.condition)}")
                self._body(stmt.body, depth)
            case Local():
                self._line(depth, f"local {self._memory_type(stmt.memory)} of {stmt.elements}")


def _parts(expr: Expr) -> Iterable[Expr]:
    if isinstance(expr, Apply):
        return expr.args
    if isinstance(expr, Load):
        return [*expr.index, *(e for e in (expr.mask, expr.other) if e is not None)]
    return ()


def _roots(body: Sequence[Stmt]) -> Iterable[Expr]:
    """Expressions of statements in the order in which they are printed; loop conditions are not shared."""
    for stmt in body:
        match stmt:
            case Loop():
                yield stmt.extent
                yield from _roots(stmt.body)
            case Let() | Assign() | Accumulate():
                yield stmt.value
            case Declare():
                yield stmt.init
            case Store():
                yield stmt.value
                yield from stmt.index
                if stmt.mask is not None:
                    yield stmt.mask
            case If():
                yield stmt.condition
                yield from _roots(stmt.then)
                yield from _roots(stmt.orelse)
            case While():
                yield from _roots(stmt.body)
            case Local():
                pass
