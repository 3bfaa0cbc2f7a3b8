"""What a vector loop's body holds: whether it can run in lanes, how many, and what it accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlx.codegen.kernel import Accumulate, Apply, Assign, Declare, Expr, If, Let, Load, Loop, Stmt, Store, Var, While
from rlx.codegen.llvm.types import component, is_small_float
from rlx.codegen.target import Target
from rlx.ir.dtypes import DType, bool_, f32, i64

#: Functions whose code is long enough to hide the time that a sum takes.
_ELEMENTARY = frozenset(
    ("exp", "expm1", "log", "log1p", "tanh", "logistic", "erf", "sin", "cos", "tan", "pow", "sinh", "cosh", "atan2")
)


@dataclass(frozen=True)
class Accumulation:
    """A variable from outside a loop that its body accumulates into."""

    var: Var
    op: str


def is_vectorizable(body: Sequence[Stmt]) -> bool:
    """Whether the body may run in lanes: no branches and no private memory in it."""
    return all(
        is_vectorizable(s.body) if isinstance(s, Loop) else isinstance(s, Let | Store | Accumulate | Declare | Assign)
        for s in body
    )


def accumulations(body: Sequence[Stmt]) -> list[Accumulation]:
    """Accumulations into variables that the body does not declare, in order of first appearance."""
    found: dict[str, Accumulation] = {}
    declared: set[str] = set()
    for stmt in statements(body):
        if isinstance(stmt, Declare):
            declared.add(stmt.var.name)
        elif isinstance(stmt, Accumulate) and stmt.var.name not in declared:
            found.setdefault(stmt.var.name, Accumulation(stmt.var, stmt.op))
    return list(found.values())


def statements(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """Every statement, those of inner loops and branches included."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, Loop | While):
            yield from statements(stmt.body)
        elif isinstance(stmt, If):
            yield from statements((*stmt.then, *stmt.orelse))


def memory_bits(body: Sequence[Stmt]) -> set[int]:
    """Widths of the elements (for complex ones, of the parts) that the body loads and stores."""
    return {component(d).itemsize * 8 for d in _memories(body)}


def choose_lanes(loop: Loop, target: Target, extent: int | None) -> int:
    """How many iterations fill a register with the widest element that the body computes with.

    Index arithmetic does not count; narrow floats count as the f32 that they are computed in, unless they are only
    moved. A loop known to be shorter takes fewer lanes. Lanes are a power of two; 1 says that vectors gain nothing.
    """
    widest = max((_width(d) for d in _computed(loop.body)), default=0)
    widest = max(widest, *(component(d).itemsize * 8 for d in _memories(loop.body)), 8)
    lanes = max(1, target.lanes(widest))
    if extent is not None:
        while lanes > 1 and lanes // 2 >= extent:
            lanes //= 2
    return lanes


def interleaving(body: Sequence[Stmt], crossing: Sequence[Accumulation]) -> int:
    """How many vectors a turn of the loop works on, where the loop does not say.

    Accumulation waits for the result before it, so a light body keeps several partial results going; a heavy one has
    enough else to do, and a pointwise one waits for memory.
    """
    if not crossing or any(isinstance(s, Loop) for s in body):
        return 1
    work = sum(1 for e in expressions(body) if isinstance(e, Apply) and e.dtype not in (i64, bool_))
    elementary = any(isinstance(e, Apply) and e.op in _ELEMENTARY for e in expressions(body))
    return 1 if elementary or work > 8 else 2 if work > 3 else 4


def _width(dtype: DType) -> int:
    return f32.bits if is_small_float(dtype) else component(dtype).itemsize * 8


def _memories(body: Sequence[Stmt]) -> Iterator[DType]:
    for stmt in statements(body):
        if isinstance(stmt, Store):
            yield stmt.memory.dtype
    for expr in expressions(body):
        if isinstance(expr, Load):
            yield expr.memory.dtype


def _computed(body: Sequence[Stmt]) -> Iterator[DType]:
    for stmt in statements(body):
        if isinstance(stmt, Accumulate | Declare | Assign):
            yield stmt.var.dtype
    for expr in expressions(body):
        if isinstance(expr, Apply) and expr.dtype not in (i64, bool_):
            yield expr.dtype
            if expr.op == "convert":
                yield expr.args[0].dtype if expr.args[0].dtype is not i64 else expr.dtype
        elif isinstance(expr, Apply) and expr.dtype is bool_ and is_small_float(expr.args[0].dtype):
            yield f32


def expressions(body: Sequence[Stmt]) -> Iterator[Expr]:
    """Every expression node of the body once, addresses included."""
    seen: set[int] = set()
    stack: list[Expr] = []
    for stmt in statements(body):
        match stmt:
            case Let() | Accumulate() | Assign():
                stack.append(stmt.value)
            case Declare():
                stack.append(stmt.init)
            case Store():
                stack += [stmt.value, *stmt.index]
                if stmt.mask is not None:
                    stack.append(stmt.mask)
            case _:
                pass
        while stack:
            expr = stack.pop()
            if id(expr) in seen:
                continue
            seen.add(id(expr))
            yield expr
            if isinstance(expr, Apply):
                stack += expr.args
            elif isinstance(expr, Load):
                stack += expr.index
                stack += [e for e in (expr.mask, expr.other) if e is not None]
