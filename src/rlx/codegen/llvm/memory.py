"""Loads and stores of lanes: contiguous, uniform, gathered, masked, complex.

Pointers are to the first element. What is stored to is aligned to its elements; what is loaded need not be, for weights
lie where their file has them. Masked-off lanes touch no memory on any target.
"""

from __future__ import annotations

from llvmlite import ir

from rlx.codegen.llvm.types import (
    I1,
    I8,
    I32,
    I64,
    VOID,
    Complex,
    Value,
    constant,
    lane_constants,
    lanes_of,
    like,
    memory_type,
    real,
    suffix,
    undefined,
    vector,
)
from rlx.codegen.llvm.values import ValueEmitter, VectorGep, declare
from rlx.ir.dtypes import DType

#: What is fetched farther ahead than this many bytes would only drive out of the first cache what is used meanwhile.
_NEAR = 4096


def _wrapped(value: int) -> int:
    """An i64 after overflow."""
    return (value + 2**63) % 2**64 - 2**63


class MemoryEmitter(ValueEmitter):
    """A `ValueEmitter` that reaches memory. needs_fence: whether it has stored past the caches."""

    needs_fence = False

    # -- addresses -----------------------------------------------------------------------------------------------

    def integer_add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """a + b of i64 scalars, folded where both are known."""
        if type(a) is ir.Constant and type(b) is ir.Constant:
            return I64(_wrapped(a.constant + b.constant))
        if type(a) is ir.Constant:
            a, b = b, a
        if type(b) is ir.Constant and b.constant == 0:
            return a
        return self.builder.add(a, b)

    def integer_mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """a * b of i64 scalars, folded where both are known."""
        if type(a) is ir.Constant and type(b) is ir.Constant:
            return I64(_wrapped(a.constant * b.constant))
        if type(a) is ir.Constant:
            a, b = b, a
        if type(b) is ir.Constant:
            if b.constant == 1:
                return a
            if b.constant == 0:
                return I64(0)
        return self.builder.mul(a, b)

    def element_pointer(self, base: ir.Value, dtype: DType, offset: ir.Value) -> ir.Value:
        """The address of element `offset` (i64) from `base`."""
        if dtype.is_complex:
            offset = self.integer_mul(offset, I64(2))
        if type(offset) is ir.Constant and offset.constant == 0:
            return base
        return self.builder.gep(base, [offset], source_etype=memory_type(dtype))

    def lane_pointers(self, base: ir.Value, dtype: DType, offsets: ir.Value) -> ir.Value:
        """Addresses of elements `offsets` (i64 lanes) from `base`."""
        if dtype.is_complex:
            offsets = self.builder.mul(offsets, constant(offsets.type, 2))
        return self._vector_gep(memory_type(dtype), base, offsets)

    def _vector_gep(self, element: ir.Type, base: ir.Value, offsets: ir.Value) -> ir.Value:
        gep = VectorGep(self.builder.block, element, base, offsets)
        self.builder._insert(gep)
        return gep

    # -- what memory holds ---------------------------------------------------------------------------------------

    def from_memory(self, raw: ir.Value, dtype: DType) -> ir.Value:
        """The register form of loaded bits."""
        b = self.builder
        if dtype.kind == "bool":
            return b.icmp_unsigned("!=", raw, constant(raw.type, 0))
        if dtype.bits == 4:
            return self.wrap_nibble(raw, dtype)
        return raw

    def to_memory(self, value: ir.Value, dtype: DType) -> ir.Value:
        """The bits to store."""
        if dtype.kind == "bool":
            return self.builder.zext(value, like(I8, value.type))
        if dtype.bits == 4:
            return self.builder.and_(value, constant(value.type, 15))
        return value

    def wrap_nibble(self, value: ir.Value, dtype: DType) -> ir.Value:
        """The low four bits of i8 lanes, extended as i4 or u4 wants."""
        b = self.builder
        if dtype.kind == "uint":
            return b.and_(value, constant(value.type, 15))
        four = constant(value.type, 4)
        return b.ashr(b.shl(value, four), four)

    # -- loads ---------------------------------------------------------------------------------------------------

    def load_one(
        self, pointer: ir.Value, dtype: DType, mask: ir.Value | None = None, other: Value | None = None
    ) -> Value:
        """One element; where the i1 mask is false, `other` (zero without one) and no access."""
        type_ = memory_type(dtype)
        if mask is not None:
            # Both arms are addresses that may be read, so no branch is needed.
            pointer = self.builder.select(mask, pointer, self.spare())
        if dtype.is_complex:
            re = self._load(pointer, type_, type_)
            im = self._load(self.builder.gep(pointer, [I64(1)], source_etype=type_), type_, type_)
            value: Value = Complex(re, im)
        else:
            value = self.from_memory(self._load(pointer, type_, type_), dtype)
        if mask is None:
            return value
        return self.select(mask, value, self._zero(dtype, 1) if other is None else other)

    def load_lanes(
        self, pointer: ir.Value, dtype: DType, lanes: int, mask: ir.Value | None = None, other: Value | None = None
    ) -> Value:
        """`lanes` neighbours, the first at `pointer`; `other` (zero if there is none) where mask is false."""
        if lanes == 1:
            return self.load_one(pointer, dtype, mask, other)
        type_ = memory_type(dtype)
        if mask is not None:
            mask = self.splat(mask, lanes)
        if dtype.is_complex:
            wide = vector(type_, 2 * lanes)
            if mask is None:
                both = self._load(pointer, wide, type_)
            else:
                both = self._masked_load(pointer, wide, type_, self._twice(mask), constant(wide, 0))
            value = Complex(self.shuffle(both, range(0, 2 * lanes, 2)), self.shuffle(both, range(1, 2 * lanes, 2)))
            if mask is None or other is None:
                return value
            return self.select(mask, value, self.splat_value(other, lanes))
        wide = vector(type_, lanes)
        if mask is None:
            return self.from_memory(self._load(pointer, wide, type_), dtype)
        fill = constant(wide, 0) if other is None else self.to_memory(self.splat(real(other), lanes), dtype)
        return self.from_memory(self._masked_load(pointer, wide, type_, mask, fill), dtype)

    def load_reversed(
        self, pointer: ir.Value, dtype: DType, lanes: int, mask: ir.Value | None, other: Value | None
    ) -> Value:
        """Lane i from element -i of `pointer`: neighbours, loaded at once and turned around."""
        lowest = self.element_pointer(pointer, dtype, I64(1 - lanes))
        if mask is not None:
            mask = self.reverse(self.splat(mask, lanes))
        if other is not None:
            other = self.reverse_value(self.splat_value(other, lanes))
        return self.reverse_value(self.load_lanes(lowest, dtype, lanes, mask, other))

    def load_strided(
        self, pointer: ir.Value, dtype: DType, stride: int, lanes: int, mask: ir.Value | None, other: Value | None
    ) -> Value:
        """Lane i from element i * stride of `pointer`."""
        step = stride * (2 if dtype.is_complex else 1)
        offsets = lane_constants(I64, range(0, step * lanes, step)) if step else constant(vector(I64, lanes), 0)
        return self.gather(self._vector_gep(memory_type(dtype), pointer, offsets), dtype, mask, other)

    def gather(self, pointers: ir.Value, dtype: DType, mask: ir.Value | None, other: Value | None) -> Value:
        """One element from each pointer; `other` (zero without one) where mask is false."""
        lanes = lanes_of(pointers.type)
        if mask is not None:
            mask = self.splat(mask, lanes)
        type_ = memory_type(dtype)
        if dtype.is_complex:
            re = self._gather(pointers, type_, mask)
            im = self._gather(self._next_component(pointers, type_), type_, mask)
            value: Value = Complex(re, im)
        else:
            value = self.from_memory(self._gather(pointers, type_, mask), dtype)
        if mask is None or other is None:
            return value
        return self.select(mask, value, self.splat_value(other, lanes))

    def _gather(self, pointers: ir.Value, type_: ir.Type, mask: ir.Value | None) -> ir.Value:
        lanes = lanes_of(pointers.type)
        wide = vector(type_, lanes)
        if self.target.has("avx2") and type_ != I8 and suffix(type_) != "i16":
            every = constant(vector(I1, lanes), 1)
            name = f"llvm.masked.gather.{suffix(wide)}.{suffix(pointers.type)}"
            mask = every if mask is None else mask
            call = self.call(name, wide, [pointers, mask, constant(wide, 0)])
            call.arg_attributes[0] = ir.values.ArgumentAttributes()
            call.arg_attributes[0].align = 1
            return call
        b = self.builder
        if mask is not None:
            spare = self.splat(self.spare(), lanes)
            pointers = b.select(mask, pointers, spare)
        result: ir.Value = undefined(wide)
        for lane in range(lanes):
            one = self._load(b.extract_element(pointers, I64(lane)), type_, type_)
            result = b.insert_element(result, one, I64(lane))
        return result if mask is None else b.select(mask, result, constant(wide, 0))

    def fetch_ahead(self, pointer: ir.Value, nbytes: int) -> None:
        """Have what lies nbytes behind `pointer` brought near, if it is memory at all."""
        self.fetch(self.builder.gep(pointer, [I64(nbytes)], source_etype=I8), near=nbytes <= _NEAR)

    def fetch(self, pointer: ir.Value, *, write: bool = False, near: bool = True) -> None:
        """Have the line at `pointer` brought into the first cache, or the second, if it is memory at all.

        write: it will be stored to.
        """
        self.void_call("llvm.prefetch.p0", [pointer, I32(int(write)), I32(3 if near else 2), I32(1)])

    # -- stores --------------------------------------------------------------------------------------------------

    def store_one(self, pointer: ir.Value, dtype: DType, value: Value, mask: ir.Value | None = None) -> None:
        """One element, where the i1 mask (if any) is true."""
        if mask is not None:
            with self.builder.if_then(mask):
                self.store_one(pointer, dtype, value)
            return
        type_ = memory_type(dtype)
        if isinstance(value, Complex):
            self._store(value.re, pointer, type_)
            self._store(value.im, self.builder.gep(pointer, [I64(1)], source_etype=type_), type_)
        else:
            self._store(self.to_memory(value, dtype), pointer, type_)

    def store_lanes(
        self,
        pointer: ir.Value,
        dtype: DType,
        value: Value,
        lanes: int,
        mask: ir.Value | None = None,
        *,
        streamed: bool = False,
    ) -> None:
        """Lanes to neighbours from `pointer` on, where the i1 lanes of mask (if any) are true.

        streamed: without a mask, past the caches; `pointer` is aligned to the size of all the lanes.
        """
        if lanes == 1:
            self.store_one(pointer, dtype, value, mask)
            return
        value = self.splat_value(value, lanes)
        if mask is not None:
            mask = self.splat(mask, lanes)
        type_ = memory_type(dtype)
        if isinstance(value, Complex):
            order = [i // 2 + (i % 2) * lanes for i in range(2 * lanes)]
            raw = self.shuffle(value.re, order, value.im)
            mask = None if mask is None else self._twice(mask)
        else:
            raw = self.to_memory(value, dtype)
        if mask is None:
            if streamed:
                self._store_past_caches(raw, pointer, lanes * self._size(type_))
            else:
                self._store(raw, pointer, type_)
            return
        if self.target.has("avx512f") and isinstance(type_, ir.IntType) and type_.width < 64:
            mask = self._opaque(mask)
        call = self.builder.call(
            declare(self.module, f"llvm.masked.store.{suffix(raw.type)}.p0", VOID, [raw.type, pointer.type, mask.type]),
            [raw, pointer, mask],
        )
        call.arg_attributes[1] = ir.values.ArgumentAttributes()
        call.arg_attributes[1].align = self._size(type_)

    def store_first(self, pointer: ir.Value, dtype: DType, value: ir.Value, lanes: int, count: ir.Value) -> None:
        """The first `count` (i64, at most `lanes`) lanes of a real vector to neighbours, in pieces of powers of two.

        On AMD's Zen 4 a masked store among stores past the caches takes some 60 ns; pieces take a few.
        """
        b = self.builder
        type_ = memory_type(dtype)
        raw = self.to_memory(self.splat(value, lanes), dtype)
        width = lanes
        while width:
            before = b.block
            with b.if_then(b.icmp_unsigned("!=", b.and_(count, I64(width)), I64(0))):
                self._store(self.shuffle(raw, range(width)), pointer, type_)
                rest = self.shuffle(raw, [(i + width) % lanes for i in range(lanes)])
                behind = self.element_pointer(pointer, dtype, I64(width))
                inside = b.block
            parts = []
            for old, new in ((raw, rest), (pointer, behind)):
                part = b.phi(old.type)
                part.add_incoming(old, before)
                part.add_incoming(new, inside)
                parts.append(part)
            raw, pointer = parts
            width //= 2

    def scatter(self, pointers: ir.Value, dtype: DType, value: Value, mask: ir.Value | None) -> None:
        """One element to each pointer, in lane order, where the i1 lanes of mask (if any) are true."""
        lanes = lanes_of(pointers.type)
        value = self.splat_value(value, lanes)
        if mask is not None:
            mask = self.splat(mask, lanes)
        b = self.builder
        for lane in range(lanes):
            index = I64(lane)
            if isinstance(value, Complex):
                one: Value = Complex(b.extract_element(value.re, index), b.extract_element(value.im, index))
            else:
                one = b.extract_element(value, index)
            on = None if mask is None else b.extract_element(mask, index)
            self.store_one(b.extract_element(pointers, index), dtype, one, on)

    def store_strided(
        self, pointer: ir.Value, dtype: DType, value: Value, stride: int, lanes: int, mask: ir.Value | None
    ) -> None:
        """Lane i to element i * stride of `pointer`."""
        step = stride * (2 if dtype.is_complex else 1)
        offsets = lane_constants(I64, range(0, step * lanes, step)) if step else constant(vector(I64, lanes), 0)
        self.scatter(self._vector_gep(memory_type(dtype), pointer, offsets), dtype, value, mask)

    def reverse(self, value: ir.Value) -> ir.Value:
        """The lanes from last to first."""
        return self.shuffle(value, range(lanes_of(value.type))[::-1])

    def reverse_value(self, value: Value) -> Value:
        """`reverse` that also takes complex pairs."""
        if isinstance(value, Complex):
            return Complex(self.reverse(value.re), self.reverse(value.im))
        return self.reverse(value)

    # -- pieces --------------------------------------------------------------------------------------------------

    def select(self, mask: ir.Value, a: Value, b: Value) -> Value:
        """Lanes of a where mask is true, else of b; all three scalar or all vectors."""
        if isinstance(a, Complex):
            assert isinstance(b, Complex)
            return Complex(self.builder.select(mask, a.re, b.re), self.builder.select(mask, a.im, b.im))
        return self.builder.select(mask, a, b)

    def spare(self) -> ir.Value:
        """The address of 16 bytes that nobody reads: where masked-off accesses may go."""
        raise NotImplementedError

    def _zero(self, dtype: DType, lanes: int) -> Value:
        type_ = vector(I1 if dtype.kind == "bool" else memory_type(dtype), lanes)
        zero = constant(type_, 0)
        return Complex(zero, zero) if dtype.is_complex else zero

    def _size(self, type_: ir.Type) -> int:
        return type_.width // 8 if isinstance(type_, ir.IntType) else 8 if suffix(type_) == "f64" else 4

    def _load(self, pointer: ir.Value, type_: ir.Type, element: ir.Type) -> ir.Value:
        return self.builder.load(pointer, align=1, typ=type_)

    def _store(self, value: ir.Value, pointer: ir.Value, element: ir.Type) -> None:
        self.builder.store(value, pointer, align=self._size(element))

    def _store_past_caches(self, value: ir.Value, pointer: ir.Value, size: int) -> None:
        """Must be followed by `fence_streamed` before others are told of it."""
        store = self.builder.store(value, pointer, align=size)
        store.set_metadata("nontemporal", self.module.add_metadata([I32(1)]))
        self.needs_fence = True

    def fence_streamed(self) -> None:
        """Order streamed stores before all that follows, where the target does not by itself."""
        if self.needs_fence and self.target.is_x86:
            self.void_call("llvm.x86.sse.sfence", [])

    def _masked_load(
        self, pointer: ir.Value, wide: ir.Type, element: ir.Type, mask: ir.Value, fill: ir.Value
    ) -> ir.Value:
        call = self.call(f"llvm.masked.load.{suffix(wide)}.p0", wide, [pointer, mask, fill])
        call.arg_attributes[0] = ir.values.ArgumentAttributes()
        call.arg_attributes[0].align = 1
        return call

    def _opaque(self, mask: ir.Value) -> ir.Value:
        """The mask, such that LLVM cannot see which lanes are set.

        LLVM 22 stores a whole wide lane where a truncated vector is stored under a mask that it knows to have one lane
        set (llvm-project issue 179489), and so overwrites what lies behind.
        """
        b, lanes = self.builder, lanes_of(mask.type)
        bits, wide = ir.IntType(lanes), ir.IntType(max(32, lanes))
        word = b.bitcast(mask, bits)
        if lanes < 32:
            word = b.zext(word, wide)
        word = b.asm(ir.FunctionType(wide, [wide]), "", "=r,0", [word], side_effect=False)
        if lanes < 32:
            word = b.trunc(word, bits)
        return b.bitcast(word, mask.type)

    def _next_component(self, pointers: ir.Value, type_: ir.Type) -> ir.Value:
        b = self.builder
        size = constant(like(I64, pointers.type), self._size(type_))
        addresses = b.add(b.ptrtoint(pointers, size.type), size)
        return b.inttoptr(addresses, pointers.type)

    def _twice(self, mask: ir.Value) -> ir.Value:
        return self.shuffle(mask, [i // 2 for i in range(2 * lanes_of(mask.type))])
