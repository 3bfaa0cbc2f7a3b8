"""Kernel IR: the small loop-level language that all our code generators share.

A `LoopKernel` reads and writes memory through affine views and runs its body once for each index of one flat parallel
loop, the grid; the runtime gives each worker a half-open range of the grid. Inside are statements: loops marked
serial, vector or unrolled; lets; mutable variables; stores. Expressions are immutable, typed, compared by identity, and
may be shared: an expression used twice in one scope is computed once.

Meaning. `Apply(op, ...)` means what the pointwise primitive `op` of rlx.ir means (also `select`, `convert`,
`bitcast_convert`); integer arithmetic wraps; index expressions are i64. Bools are bytes 0 or 1 in memory.

Sharing. A shared expression keeps its value within a scope until a variable that it reads is assigned, or a memory that
it loads from is stored to under the same name; a `Let` keeps it in any case.

Vector loops. `Loop(kind="vector")` may be executed several lanes at a time, in any order; stores of different
iterations never overlap. Its body holds `Let`, `Store` and `Accumulate`; it may also hold variables of its own
(`Declare`, `Assign`), which have a value a lane, and serial or unrolled loops whose extents are the same in each lane
(a column sum walks its rows so). With `If`, `While` or `Local` in its body it is executed one iteration at a time. A
load whose view has stride 1 along the loop is contiguous, stride 0 uniform, anything else is a gather. Masked-off
loads touch no memory and give `other`. `Accumulate` into a variable from outside a vector loop combines lanes in a
fixed order that the emitter chooses: the same for every run and for every number of threads; a sum of products of f32
or f64 may round each product and sum once together.

Where loops cannot express the best code (matrix tiles), a `TemplateKernel` emits target code itself behind the same
interface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rlx.ir.dtypes import DType, i64

# -- expressions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Const:
    value: int | float | bool | complex
    dtype: DType


@dataclass(frozen=True, eq=False, slots=True)
class Var:
    """A loop index, a let-bound value, a mutable variable or a run-time size; identity is the name."""

    name: str
    dtype: DType = i64


@dataclass(frozen=True, eq=False, slots=True)
class Memory:
    """A kernel argument or a local array: typed memory seen through an affine view.

    strides: elements a step of each index, ints or run-time i64 expressions; offset: elements, likewise.
    writable: False promises that no statement stores through it. Distinct arguments never overlap, unless `aliases`
    names the argument whose memory this one updates in place (equal addresses, element for element).
    streamed: too large for what is written to still be in a cache when it is read; a hint.
    """

    name: str
    dtype: DType
    strides: tuple[int | Expr, ...]
    offset: int | Expr = 0
    writable: bool = False
    aliases: str | None = None
    streamed: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Load:
    """memory[index]; with a mask (bool), `other` where it is false."""

    memory: Memory
    index: tuple[Expr, ...]
    mask: Expr | None = None
    other: Expr | None = None

    @property
    def dtype(self) -> DType:
        return self.memory.dtype


@dataclass(frozen=True, eq=False, slots=True)
class Apply:
    """A pointwise primitive applied to operands; `dtype` is the result's."""

    op: str
    args: tuple[Expr, ...]
    dtype: DType


Expr = Const | Var | Load | Apply

# -- statements ----------------------------------------------------------------------------------------------------

LoopKind = Literal["serial", "vector", "unrolled"]


@dataclass(frozen=True, eq=False, slots=True)
class Loop:
    """for var in range(extent): body.

    unroll: how many iterations (vectors) the emitter interleaves; 1 leaves it to the emitter.
    """

    var: Var
    extent: Expr
    body: tuple[Stmt, ...]
    kind: LoopKind = "serial"
    unroll: int = 1


@dataclass(frozen=True, eq=False, slots=True)
class Let:
    """Bind a name for the rest of the enclosing body."""

    var: Var
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Declare:
    """A mutable variable of the enclosing body."""

    var: Var
    init: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Assign:
    """Set a declared variable; not inside vector loops."""

    var: Var
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Accumulate:
    """var = op(var, value) for an associative op: add, mul, max, min, and, or. May cross a vector loop."""

    var: Var
    op: str
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Store:
    memory: Memory
    index: tuple[Expr, ...]
    value: Expr
    mask: Expr | None = None


@dataclass(frozen=True, eq=False, slots=True)
class If:
    """Not inside vector loops."""

    condition: Expr
    then: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class While:
    """while condition: body; the condition reads mutable variables. Not inside vector loops."""

    condition: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Local:
    """Private memory of `elements` elements for the rest of the enclosing body, at most 64 KiB a kernel."""

    memory: Memory
    elements: int


Stmt = Loop | Let | Declare | Assign | Accumulate | Store | If | While | Local

# -- kernels -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What one run of the whole kernel must do at least: for splitting over threads, and for rooflines.

    factors: dtype of the factors that the multiplications take, by name; a machine may have a faster product for it.
    """

    flops: float = 0.0
    bytes: float = 0.0
    factors: str = "f32"


@dataclass(frozen=True, eq=False)
class LoopKernel:
    """A kernel in loops: `body` runs for each value of `index` in range(grid).

    label: what it computes, for people ("add_layer_norm"); not part of its identity.
    sizes: run-time i64 values, in the order of the call's size array; extents and strides may read them.
    """

    label: str
    args: tuple[Memory, ...]
    index: Var
    grid: Expr
    body: tuple[Stmt, ...]
    sizes: tuple[Var, ...] = ()
    cost: Cost = Cost()

    scratch_bytes: int = 0


@dataclass(frozen=True, eq=False)
class TemplateKernel:
    """A kernel that emits its own target code.

    identity: the template's name and every parameter the code depends on: equal identities emit equal code.
    emit: receives the target's function emitter (for LLVM: rlx.codegen.llvm.function.FunctionEmitter).
    scratch_bytes: private memory a worker needs, given through the scratch argument.
    """

    label: str
    args: tuple[Memory, ...]
    grid: int
    identity: str
    emit: Callable[[Any], None] = field(repr=False)
    cost: Cost = Cost()
    scratch_bytes: int = 0


Kernel = LoopKernel | TemplateKernel
