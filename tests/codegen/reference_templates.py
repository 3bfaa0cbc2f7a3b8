"""Templates that run in NumPy: what a backend's templates must do with a spec and an epilogue, spelt out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from kernel_interpreter import Machine, apply

from rlx.codegen.kernel import Memory, TemplateKernel
from rlx.codegen.lower import (
    AttentionSpec,
    ConvKernels,
    ConvSpec,
    Epilogue,
    JoinedKernels,
    MatmulKernels,
    MatmulSpec,
    Scores,
)

Arrays = Mapping[str, tuple[np.ndarray, int]]


class ReferenceTemplates:
    """Takes every spec; packs constant operands as dense copies, so that a wrong pack shows."""

    def __init__(self) -> None:
        self.matmuls: list[tuple[MatmulSpec, Epilogue]] = []
        self.pairs = 0
        self.convs: list[tuple[ConvSpec, Epilogue]] = []
        self.attentions: list[tuple[AttentionSpec, Epilogue]] = []

    def matmul(self, spec: MatmulSpec, epilogue: Epilogue) -> MatmulKernels:
        self.matmuls.append((spec, epilogue))
        a_shape, b_shape = (*spec.batch, *spec.m, *spec.k), (*spec.batch, *spec.k, *spec.n)
        a_memory, b_memory = Memory("in_a", spec.a_dtype, spec.a.strides), Memory("in_b", spec.b_dtype, spec.b.strides)
        pack, packed_nbytes = None, 0
        if spec.a_constant or spec.b_constant:
            which, shape = (a_memory, a_shape) if spec.a_constant else (b_memory, b_shape)
            pack, packed_nbytes, dense = _packing(which, shape)
            if spec.a_constant:
                a_memory = dense
            else:
                b_memory = dense

        def compute(arrays: Arrays) -> None:
            a, b = _gathered(arrays, a_memory, a_shape), _gathered(arrays, b_memory, b_shape)
            size = [math.prod(g) for g in (spec.batch, spec.m, spec.n, spec.k)]
            wide = _wide(spec.acc_dtype.numpy)
            a = _convert(a, spec.acc_dtype).astype(wide).reshape(size[0], size[1], size[3])
            b = _convert(b, spec.acc_dtype).astype(wide).reshape(size[0], size[3], size[2])
            with np.errstate(all="ignore"):
                acc = np.matmul(a, b).astype(spec.acc_dtype.numpy).reshape((*spec.batch, *spec.m, *spec.n))
            _run_epilogue(arrays, epilogue, acc)

        args = (a_memory, b_memory, *epilogue.args)
        return MatmulKernels(pack, packed_nbytes, TemplateKernel("matmul", args, 1, "reference", compute))

    def joined(self, specs: Sequence[MatmulSpec], epilogues: Sequence[Epilogue]) -> JoinedKernels:
        """The parts one after the other; each part's dense copy lies in its place of the packed buffer."""
        if len(epilogues) < len(specs):
            return self._paired(specs, epilogues[0])
        parts = [self.matmul(spec, epilogue) for spec, epilogue in zip(specs, epilogues, strict=True)]
        offsets = tuple(itertools.accumulate((part.packed_nbytes for part in parts), initial=0))

        def compute(arrays: Arrays) -> None:
            elements, first = arrays["packed"]
            for part, offset in zip(parts, offsets, strict=False):
                place = first + offset // elements.itemsize
                part.compute.emit({**arrays, "in_a": arrays[specs[0].a.name], "packed": (elements, place)})

        packed = Memory("packed", specs[0].b_dtype, (1,))
        args = (specs[0].a, packed, *epilogues[0].args)
        kernel = TemplateKernel("matmul", args, 1, "reference", compute)
        return JoinedKernels(tuple(p.pack for p in parts if p.pack), offsets[:-1], offsets[-1], kernel)

    def _paired(self, specs: Sequence[MatmulSpec], epilogue: Epilogue) -> JoinedKernels:
        """Both sums, then the one epilogue."""
        self.pairs += 1
        (first_pack, size, _), (second_pack, _, _) = (
            _packing(Memory("in_b", s.b_dtype, s.b.strides), (*s.k, *s.n)) for s in specs
        )

        def compute(arrays: Arrays) -> None:
            elements, first = arrays["packed"]
            sums = []
            for i, spec in enumerate(specs):
                m, n, k = math.prod(spec.m), math.prod(spec.n), math.prod(spec.k)
                start = first + i * size // elements.itemsize
                b = elements[start : start + k * n].reshape(k, n).astype(_wide(elements.dtype))
                a = _gathered(arrays, specs[0].a, (*specs[0].m, *specs[0].k)).reshape(m, k)
                sums.append((a.astype(b.dtype) @ b).astype(spec.acc_dtype.numpy).reshape((*specs[0].m, *specs[0].n)))
            _run_epilogue(arrays, epilogue, *sums)

        args = (specs[0].a, Memory("packed", specs[0].b_dtype, (1,)), *epilogue.args)
        kernel = TemplateKernel("matmul", args, 1, "reference", compute)
        return JoinedKernels((first_pack, second_pack), (0, size), 2 * size, kernel)

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvKernels:
        from rlx.ir.op import RunRegion, get

        self.convs.append((spec, epilogue))
        x_memory, w_memory = Memory("in_x", spec.x_dtype, spec.x.strides), Memory("in_w", spec.w_dtype, spec.w.strides)
        w_shape = (spec.features, spec.channels // spec.groups, *spec.kernel)
        pack, packed_nbytes = None, 0
        if spec.w_constant:
            pack, packed_nbytes, w_memory = _packing(w_memory, w_shape)

        def compute(arrays: Arrays) -> None:
            x = _convert(_gathered(arrays, x_memory, (spec.batch, spec.channels, *spec.size)), spec.acc_dtype)
            w = _convert(_gathered(arrays, w_memory, w_shape), spec.acc_dtype)
            names = ("strides", "padding", "lhs_dilation", "rhs_dilation", "groups")
            evaluate = get("conv_general").evaluate
            assert evaluate is not None
            attrs = {"preferred_dtype": None, **{n: getattr(spec, n) for n in names}}
            (acc,) = evaluate([x, w], attrs, RunRegion((), lambda g, a: ()))
            assert acc.shape == (spec.batch, spec.features, *spec.out)
            _run_epilogue(arrays, epilogue, acc)

        args = (x_memory, w_memory, *epilogue.args)
        return ConvKernels(pack, packed_nbytes, TemplateKernel("conv", args, 1, "reference", compute))

    def attention(self, spec: AttentionSpec, epilogue: Epilogue) -> TemplateKernel:
        self.attentions.append((spec, epilogue))
        size = [math.prod(g) for g in (spec.batch, spec.m, spec.n, spec.d, spec.e)]
        b, m, n, d, e = size
        wide = _wide(spec.dtype.numpy)

        def compute(arrays: Arrays) -> None:
            q = _gathered(arrays, spec.q, (*spec.batch, *spec.m, *spec.d)).reshape(b, m, d).astype(wide)
            k = _gathered(arrays, spec.k, (*spec.batch, *spec.n, *spec.d)).reshape(b, n, d).astype(wide)
            v = _gathered(arrays, spec.v, (*spec.batch, *spec.n, *spec.e)).reshape(b, n, e).astype(wide)
            with np.errstate(all="ignore"):
                product = (q @ k.swapaxes(1, 2)).astype(spec.dtype.numpy)
                product = product.reshape((*spec.batch, *spec.m, *spec.n))
                scores = _scores(arrays, spec.scores, product).reshape(b, m, n).astype(wide)
                if spec.causal is not None:
                    query = np.arange(m) % spec.m[-1]
                    beyond = np.arange(n) > query[:, None] + spec.causal
                    assert np.all(scores[:, beyond] == -np.inf)
                largest = scores.max(-1, keepdims=True)
                blind = (largest == -np.inf) & spec.blind
                weights = np.exp(scores - np.where(blind, 0, largest))
                total = np.where(blind, 1, weights.sum(-1, keepdims=True))
                weights = weights / total
                if spec.cleared:
                    weights = np.where(np.isnan(weights), 0, weights)
                acc = (weights @ v).astype(spec.dtype.numpy)
            _run_epilogue(arrays, epilogue, acc.reshape((*spec.batch, *spec.m, *spec.e)))

        args = (spec.q, spec.k, spec.v, *spec.scores.args, *epilogue.args)
        assert len({memory.name for memory in args}) == len(args)
        return TemplateKernel("attention", args, 1, "reference", compute)


def _wide(dtype: np.dtype) -> np.dtype:
    return {np.dtype(np.float32): np.dtype(np.float64), np.dtype(np.complex64): np.dtype(np.complex128)}.get(
        dtype, dtype
    )


def _convert(x: np.ndarray, dtype) -> np.ndarray:
    return x if x.dtype == dtype.numpy else apply("convert", [x], dtype)


def _gathered(arrays: Arrays, memory: Memory, shape: tuple[int, ...]) -> np.ndarray:
    elements, first = arrays[memory.name]
    assert len(memory.strides) == len(shape)
    place = np.full(shape, first)
    for axis, stride in enumerate(memory.strides):
        steps = np.arange(shape[axis]) * stride
        place = place + steps.reshape(-1, *[1] * (len(shape) - axis - 1))
    assert place.size == 0 or (place.min() >= 0 and place.max() < len(elements))
    return elements[place]


def _packing(source: Memory, shape: tuple[int, ...]) -> tuple[TemplateKernel, int, Memory]:
    strides = [1] * len(shape)
    for d in range(len(shape) - 2, -1, -1):
        strides[d] = strides[d + 1] * shape[d + 1]
    packed = Memory("packed", source.dtype, tuple(strides), 0, True)

    def pack(arrays: Arrays) -> None:
        elements, first = arrays["packed"]
        elements[first : first + math.prod(shape)] = _gathered(arrays, source, shape).reshape(-1)

    kernel = TemplateKernel("pack", (source, packed), 1, "reference pack", pack)
    return kernel, math.prod(shape) * source.dtype.itemsize, Memory("packed", source.dtype, tuple(strides))


def _scores(arrays: Arrays, scores: Scores, product: np.ndarray) -> np.ndarray:
    """The score of every product, the last dimension's at once."""
    assert len(scores.index) == product.ndim
    result = np.empty_like(product)
    for place in itertools.product(*(range(n) for n in product.shape[:-1])):
        machine = Machine(arrays)
        for var, i in zip(scores.index, place, strict=False):
            machine.env[var.name] = np.array(i, np.int64)
        if product.ndim:
            machine.env[scores.index[-1].name] = np.arange(product.shape[-1], dtype=np.int64)
            machine.lanes = scores.index[-1].name
        machine.env[scores.acc.name] = product[place]
        result[place] = machine.eval(scores.value)
    return result


def _run_epilogue(arrays: Arrays, epilogue: Epilogue, acc: np.ndarray, second: np.ndarray | None = None) -> None:
    """Every output element's stores; the last dimension's elements at once, as a template's vectors would be."""
    assert len(epilogue.index) == acc.ndim
    for memory in epilogue.args:
        assert memory.name in arrays
    last = epilogue.index[-1] if acc.ndim else None
    for place in itertools.product(*(range(n) for n in acc.shape[:-1])):
        machine = Machine(arrays)
        for var, i in zip(epilogue.index, place, strict=False):
            machine.env[var.name] = np.array(i, np.int64)
        if last is not None:
            machine.env[last.name] = np.arange(acc.shape[-1], dtype=np.int64)
            machine.lanes = last.name
        machine.env[epilogue.acc.name] = acc[place]
        if epilogue.second is not None and second is not None:
            machine.env[epilogue.second.name] = second[place]
        machine.run(epilogue.stores)
