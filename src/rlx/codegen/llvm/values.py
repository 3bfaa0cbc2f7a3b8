"""Instructions on lanes: what scalar, vector and function emitters share.

A `ValueEmitter` appends instructions to one LLVM function. Operands have equal types unless a method says otherwise;
`unify` splats scalars next to vectors. No fast-math flag is ever set: a product and a sum fuse only where `fma` or
`muladd` says so, and then on every path of a kernel alike, so that a vector body and its tail give equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from rlx.codegen.llvm.types import (
    F32,
    F64,
    I1,
    I32,
    I64,
    VOID,
    Complex,
    Value,
    bits_of,
    constant,
    element_of,
    int_type,
    lanes_of,
    like,
    splat_constant,
    suffix,
    undefined,
    vector,
)
from rlx.codegen.target import Target


class Attributes(ir.values.FunctionAttributes):
    """Function attributes with the string ones that steer the x86 back end."""

    _known = ir.values.FunctionAttributes._known | {
        '"prefer-vector-width"="512"',
        '"min-legal-vector-width"="512"',
        '"frame-pointer"="none"',
    }


def function_attributes(target: Target, *extra: str) -> Attributes:
    """Attributes that every function of a module for `target` carries."""
    attributes = Attributes(("nounwind", '"frame-pointer"="none"', *extra))
    if target.vector_bits == 512:
        attributes.add('"prefer-vector-width"="512"')
        attributes.add('"min-legal-vector-width"="512"')
    return attributes


def declare(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """The declaration or definition `name` of the module, declared on first use."""
    found = module.globals.get(name)
    if found is None:
        found = ir.Function(module, ir.FunctionType(result, list(arguments)), name)
        if not name.startswith("llvm."):
            found.attributes.add("nounwind")
    return found


class VectorGep(ir.Instruction):
    """getelementptr from one pointer to a vector of pointers."""

    def __init__(self, block: ir.Block, element: ir.Type, base: ir.Value, offsets: ir.Value) -> None:
        super().__init__(
            block, ir.VectorType(ir.PointerType(), lanes_of(offsets.type)), "getelementptr", [base, offsets]
        )
        self.element = element

    def descr(self, buf: list[str]) -> None:
        base, offsets = self.operands
        buf.append(
            f"getelementptr {self.element}, {base.type} {base.get_reference()}, "
            f"{offsets.type} {offsets.get_reference()}\n"
        )


class Shuffle(ir.Instruction):
    """Lanes of two vectors, counted on, in the order of `indices`."""

    def __init__(self, block: ir.Block, a: ir.Value, b: ir.Value, indices: Sequence[int]) -> None:
        super().__init__(block, ir.VectorType(a.type.element, len(indices)), "shufflevector", [a, b])
        self.indices = indices

    def descr(self, buf: list[str]) -> None:
        a, b = self.operands
        if any(self.indices):
            order = "<" + ", ".join(f"i32 {i}" for i in self.indices) + ">"
        else:
            order = "zeroinitializer"
        buf.append(
            f"shufflevector {a.type} {a.get_reference()}, {b.type} {b.get_reference()}, "
            f"<{len(self.indices)} x i32> {order}\n"
        )


class ValueEmitter:
    """Appends instructions at `builder`'s position, for `target`."""

    def __init__(self, module: ir.Module, builder: ir.IRBuilder, target: Target) -> None:
        self.module = module
        self.builder = builder
        self.target = target

    # -- lanes ---------------------------------------------------------------------------------------------------

    def splat(self, value: ir.Value, lanes: int) -> ir.Value:
        """The scalar in every lane; vectors pass unchanged."""
        if lanes == 1 or isinstance(value.type, ir.VectorType):
            return value
        if isinstance(value, ir.Constant):
            return splat_constant(value, lanes)
        nothing = undefined(ir.VectorType(value.type, lanes))
        one = self.builder.insert_element(nothing, value, I32(0))
        return self.shuffle(one, [0] * lanes)

    def splat_value(self, value: Value, lanes: int) -> Value:
        """`splat` that also takes complex pairs."""
        if isinstance(value, Complex):
            return Complex(self.splat(value.re, lanes), self.splat(value.im, lanes))
        return self.splat(value, lanes)

    def unify(self, values: Sequence[Value]) -> list[Value]:
        """The values, all scalar or all vectors of equal lanes."""
        lanes = max(lanes_of(v.type) for v in values)
        return [self.splat_value(v, lanes) if lanes_of(v.type) != lanes else v for v in values]

    def shuffle(self, a: ir.Value, indices: Sequence[int], b: ir.Value | None = None) -> ir.Value:
        """Lanes of a (and b, counted on) in the order of `indices`."""
        shuffle = Shuffle(self.builder.block, a, undefined(a.type) if b is None else b, indices)
        self.builder._insert(shuffle)
        return shuffle

    def join(self, low: ir.Value, high: ir.Value) -> ir.Value:
        """Lanes of low, then those of high."""
        return self.shuffle(low, range(2 * lanes_of(low.type)), high)

    def reduce(self, value: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
        """All lanes combined in a fixed tree: upper half with lower half, until one is left."""
        lanes = lanes_of(value.type)
        if lanes == 1:
            return value
        while lanes > 2:
            half = lanes // 2
            low, high = self.shuffle(value, range(half)), self.shuffle(value, range(half, lanes))
            value, lanes = combine(low, high), half
        return combine(self.builder.extract_element(value, I32(0)), self.builder.extract_element(value, I32(1)))

    def in_lanes(self, lanes: int, function: Callable[[ValueEmitter, ir.Value], ir.Value], value: ir.Value) -> ir.Value:
        """function(value), where the function takes vectors of `lanes` lanes only and treats each lane alike."""
        count = lanes_of(value.type)
        if count == lanes:
            return function(self, value)
        if count == 1:
            return self.builder.extract_element(function(self, self.splat(value, lanes)), I32(0))
        if count < lanes:
            wide = self.shuffle(value, [i % count for i in range(lanes)])
            return self.shuffle(function(self, wide), range(count))
        low, high = (self.shuffle(value, part) for part in (range(count // 2), range(count // 2, count)))
        return self.join(self.in_lanes(lanes, function, low), self.in_lanes(lanes, function, high))

    def look_up(self, table: Sequence[float], index: ir.Value) -> ir.Value:
        """table[index % len(table)] of 16 or 32 f32, for sixteen i32 lanes; AVX-512 only."""
        halves = [ir.Constant(vector(F32, 16), [F32(v) for v in table[i : i + 16]]) for i in range(0, len(table), 16)]
        if len(halves) == 1:
            return self.call("llvm.x86.avx512.permvar.sf.512", halves[0].type, [halves[0], index])
        low, high = halves
        return self.call("llvm.x86.avx512.vpermi2var.ps.512", low.type, [low, index, high])

    def any(self, mask: ir.Value) -> ir.Value:
        """Whether any lane of an i1 vector is set."""
        if not isinstance(mask.type, ir.VectorType):
            return mask
        return self.call("llvm.vector.reduce.or." + suffix(mask.type), I1, [mask])

    # -- calls ---------------------------------------------------------------------------------------------------

    def call(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call the module's function `name`, declared on first use."""
        function = declare(self.module, name, result, [a.type for a in arguments])
        return self.builder.call(function, arguments)

    def intrinsic(self, name: str, *arguments: ir.Value) -> ir.Value:
        """An intrinsic overloaded on its first operand's type, which is also the result's."""
        type_ = arguments[0].type
        return self.call(f"llvm.{name}.{suffix(type_)}", type_, arguments)

    def void_call(self, name: str, arguments: Sequence[ir.Value]) -> None:
        self.call(name, VOID, arguments)

    # -- arithmetic ----------------------------------------------------------------------------------------------

    def const(self, type_: ir.Type, value: int | float) -> ir.Constant:
        return constant(type_, value)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c, rounded once where the target has the instruction and twice where it has not: see `muladd`."""
        if self.target.has_fma:
            return self.intrinsic("fma", a, b, c)
        return self.builder.fadd(self.builder.fmul(a, b), c)

    def fma_with(self, a: ir.Value, b: ir.Value, value: float) -> ir.Value:
        """a * b + constant."""
        return self.fma(a, b, constant(a.type, value))

    def polynomial(self, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
        """Horner's rule; the highest coefficient comes first."""
        result: ir.Value = constant(x.type, coefficients[0])
        for c in coefficients[1:]:
            result = self.fma(result, x, constant(x.type, c))
        return result

    def times(self, a: ir.Value, value: float) -> ir.Value:
        return self.builder.fmul(a, constant(a.type, value))

    def plus(self, a: ir.Value, value: float) -> ir.Value:
        return self.builder.fadd(a, constant(a.type, value))

    def less(self, a: ir.Value, value: float) -> ir.Value:
        """a < constant; false for NaN."""
        return self.builder.fcmp_ordered("<", a, constant(a.type, value))

    def greater(self, a: ir.Value, value: float) -> ir.Value:
        """a > constant; false for NaN."""
        return self.builder.fcmp_ordered(">", a, constant(a.type, value))

    def at_most(self, a: ir.Value, value: float) -> ir.Value:
        """min(a, constant); NaN stays NaN."""
        limit = constant(a.type, value)
        return self.builder.select(self.builder.fcmp_ordered(">", a, limit), limit, a)

    def at_least(self, a: ir.Value, value: float) -> ir.Value:
        """max(a, constant); NaN stays NaN."""
        limit = constant(a.type, value)
        return self.builder.select(self.builder.fcmp_ordered("<", a, limit), limit, a)

    def fabs(self, a: ir.Value) -> ir.Value:
        return self.intrinsic("fabs", a)

    def copysign(self, magnitude: ir.Value, sign: ir.Value) -> ir.Value:
        return self.intrinsic("copysign", magnitude, sign)

    def is_nan(self, a: ir.Value) -> ir.Value:
        return self.builder.fcmp_unordered("uno", a, a)

    def maximum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The greater; NaN where either is NaN; +0 is above -0."""
        if not self.target.is_x86:
            return self.intrinsic("maximum", a, b)
        if isinstance(a, ir.Constant):
            a, b = b, a
        if isinstance(b, ir.Constant) and not self._is_constant(b, float("nan")):
            # One instruction that gives its second operand, a, for NaN and for equal zeros; only +0 must still win.
            best = self.first_if(">", b, a)
            return self.plus(best, 0.0) if self._is_constant(b, 0.0) else best
        best = self.builder.and_(self.as_int(self.first_if(">", a, b)), self.as_int(self.first_if(">", b, a)))
        return self._or_nan(a, b, self.as_float(best))

    def minimum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The lesser; NaN where either is NaN; -0 is below +0."""
        if not self.target.is_x86:
            return self.intrinsic("minimum", a, b)
        if isinstance(a, ir.Constant):
            a, b = b, a
        if isinstance(b, ir.Constant) and not self._is_constant(b, -0.0) and not self._is_constant(b, float("nan")):
            return self.first_if("<", b, a)
        best = self.builder.or_(self.as_int(self.first_if("<", a, b)), self.as_int(self.first_if("<", b, a)))
        return self._or_nan(a, b, self.as_float(best))

    def _is_constant(self, a: ir.Constant, value: float) -> bool:
        return a.get_reference() == constant(a.type, value).get_reference()

    def first_if(self, order: str, a: ir.Value, b: ir.Value) -> ir.Value:
        """a where a is above (below) b, else b, which for NaN is b too: what x86's maximum and minimum do."""
        return self.builder.select(self.builder.fcmp_ordered(order, a, b), a, b)

    def _or_nan(self, a: ir.Value, b: ir.Value, best: ir.Value) -> ir.Value:
        """NaN where a or b is. `best` there is a mixture of their bits."""
        nan = constant(a.type, float("nan"))
        return self.builder.select(self.builder.fcmp_unordered("uno", a, b), nan, best)

    # -- rounding to integers ------------------------------------------------------------------------------------

    def round_even(self, a: ir.Value) -> ir.Value:
        """To the nearest integer, halves to even; the sign of zero is kept."""
        if self._rounds_natively:
            return self.intrinsic("roundeven", a)
        magic = 2.0 ** (52 if bits_of(a.type) == 64 else 23)
        size = self.fabs(a)
        rounded = self.builder.fsub(self.plus(size, magic), constant(a.type, magic))
        return self.copysign(self.builder.select(self.less(size, magic), rounded, size), a)

    def floor(self, a: ir.Value) -> ir.Value:
        if self._rounds_natively:
            return self.intrinsic("floor", a)
        rounded = self.round_even(a)
        above = self.builder.fcmp_ordered(">", rounded, a)
        lowered = self.builder.select(above, self.plus(rounded, -1.0), rounded)
        return self.copysign(lowered, a)

    def ceil(self, a: ir.Value) -> ir.Value:
        if self._rounds_natively:
            return self.intrinsic("ceil", a)
        return self.builder.fneg(self.floor(self.builder.fneg(a)))

    @property
    def _rounds_natively(self) -> bool:
        return not self.target.is_x86 or self.target.has("sse4.2")

    # -- bits ----------------------------------------------------------------------------------------------------

    def as_int(self, a: ir.Value) -> ir.Value:
        """The bits of floats as integers of equal width."""
        return self.builder.bitcast(a, like(int_type(bits_of(a.type)), a.type))

    def as_float(self, a: ir.Value) -> ir.Value:
        """Integers of 32 or 64 bits as the floats that they are the bits of."""
        return self.builder.bitcast(a, like(F64 if bits_of(a.type) == 64 else F32, a.type))

    def to_int(self, a: ir.Value) -> ir.Value:
        """A float that holds an i32's value, as i32."""
        return self.builder.fptosi(a, like(I32, a.type))

    def power_of_two(self, n: ir.Value, element: ir.Type) -> ir.Value:
        """2**n of i32 lanes; n within the normal range of `element` (F32 or F64)."""
        b = self.builder
        if element == F64:
            wide = b.sext(n, like(I64, n.type))
            return self.as_float(b.shl(b.add(wide, constant(wide.type, 1023)), constant(wide.type, 52)))
        return self.as_float(b.shl(b.add(n, constant(n.type, 127)), constant(n.type, 23)))

    def not_(self, mask: ir.Value) -> ir.Value:
        return self.builder.xor(mask, constant(mask.type, 1))

    def convert_float(self, a: ir.Value, element: ir.Type) -> ir.Value:
        """Between f32 and f64."""
        if element_of(a.type) == element:
            return a
        type_ = like(element, a.type)
        return self.builder.fpext(a, type_) if element == F64 else self.builder.fptrunc(a, type_)
