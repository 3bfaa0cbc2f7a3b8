"""Convolutions to test kernels with: sizes and strides, the definition as a sum, and an epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rlx.codegen.kernel import Apply, Load, Memory, Store, Var
from rlx.codegen.lower.templates import ConvSpec, Epilogue
from rlx.ir import dtypes
from rlx.ir.dtypes import DType


@dataclass
class Case:
    """One convolution; per-dimension values default to 1, padding to 0; strides None: C order."""

    batch: int
    channels: int
    features: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    lhs: tuple[int, ...] = ()
    rhs: tuple[int, ...] = ()
    groups: int = 1
    x_strides: tuple[int, ...] | None = None
    w_strides: tuple[int, ...] | None = None
    dtype: DType = dtypes.f32
    acc: DType = dtypes.f32
    constant: bool = True

    def __post_init__(self) -> None:
        ones = (1,) * len(self.size)
        self.strides, self.lhs, self.rhs = self.strides or ones, self.lhs or ones, self.rhs or ones
        self.padding = self.padding or ((0, 0),) * len(self.size)

    @property
    def out(self) -> tuple[int, ...]:
        result = []
        for axis, size in enumerate(self.size):
            spread = (size - 1) * self.lhs[axis] + 1 + sum(self.padding[axis])
            reach = (self.kernel[axis] - 1) * self.rhs[axis] + 1
            result.append((spread - reach) // self.strides[axis] + 1)
        return tuple(result)

    @property
    def x_sizes(self) -> tuple[int, ...]:
        return (self.batch, self.channels, *self.size)

    @property
    def w_sizes(self) -> tuple[int, ...]:
        return (self.features, self.channels // self.groups, *self.kernel)

    def spec(self) -> ConvSpec:
        return ConvSpec(
            self.dtype,
            self.dtype,
            self.acc,
            self.batch,
            self.channels,
            self.features,
            self.size,
            self.kernel,
            self.out,
            self.strides,
            self.padding,
            self.lhs,
            self.rhs,
            self.groups,
            Memory("x", self.dtype, self.x_strides or contiguous(self.x_sizes)),
            Memory("w", self.dtype, self.w_strides or contiguous(self.w_sizes)),
            self.constant,
        )


def contiguous(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(sizes[i + 1 :]) for i in range(len(sizes)))


def strided(raw: np.ndarray, sizes: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    return as_strided(raw, sizes, [s * raw.itemsize for s in strides])


def direct(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution's definition, one kernel position after the other."""
    spread = [(n - 1) * d + 1 for n, d in zip(case.size, case.lhs, strict=True)]
    room = 1 + max(abs(p) for pair in case.padding for p in pair) + max(spread) + max(case.kernel) * max(case.rhs)
    wide = np.zeros((case.batch, case.channels, *[n + 2 * room for n in spread]), x.dtype)
    wide[(slice(None), slice(None), *[slice(room, room + n, d) for n, d in zip(spread, case.lhs, strict=True)])] = x
    per, each = case.features // case.groups, case.channels // case.groups
    out = np.zeros((case.batch, case.features, *case.out), x.dtype)
    for tap in product(*[range(n) for n in case.kernel]):
        window = []
        for axis, t in enumerate(tap):
            first = room - case.padding[axis][0] + t * case.rhs[axis]
            window.append(slice(first, first + (case.out[axis] - 1) * case.strides[axis] + 1, case.strides[axis]))
        seen = wide[(slice(None), slice(None), *window)]
        for group in range(case.groups):
            weights = w[(slice(group * per, (group + 1) * per), slice(None), *tap)]
            part = np.einsum("oc,nc...->no...", weights, seen[:, group * each : (group + 1) * each])
            out[:, group * per : (group + 1) * per] += part
    return out


def channels_last(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of [N, C, ...] that lies as [N, ..., C]."""
    strides = contiguous((sizes[0], *sizes[2:], sizes[1]))
    return (strides[0], strides[-1], *strides[1:-1])


def epilogue_for(case: Case, extra: bool, last: bool = False) -> Epilogue:
    """out = acc, or out = max(acc + bias[o], residual); last: out and residual lie channels last."""
    sizes = (case.batch, case.features, *case.out)
    lies = channels_last(sizes) if last else contiguous(sizes)
    index = tuple(Var(f"i{axis}") for axis in range(len(sizes)))
    acc = Var("acc", case.acc)
    out = Memory("out", case.acc, lies, writable=True)
    if not extra:
        return Epilogue(acc, index, (Store(out, index, acc),), (out,))
    bias = Memory("bias", case.acc, (0, 1) + (0,) * len(case.out))
    residual = Memory("residual", case.acc, lies)
    value = Apply("add", (acc, Load(bias, index)), case.acc)
    value = Apply("max", (value, Load(residual, index)), case.acc)
    return Epilogue(acc, index, (Store(out, index, value),), (out, bias, residual), flops=2)
