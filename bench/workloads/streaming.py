"""Work that is bound by memory: long chains of cheap operations, softmax, layer norm, gelu.

A fresh result costs fresh pages from the system, which takes longer than the work. Systems therefore run twice where
they can: with a fresh result each time, and writing into memory of the run before ("reused"). RLX's fresh row is what
`program.run` gives; its row to compare with a reused one is `run(out=...)`, which stands first.

The limit is that of the bytes or of the arithmetic, whichever is longer. Of the arithmetic only products count:
multiplications and multiply-adds in vectors take the place of a multiply-add each, whose rate is measured. Their number
is that of the shortest sequence that we know at f32's accuracy (errors below 2 ulp), whoever runs it: exp in 7 (Cody
and Waite's reduction in three, sixteen roots of two from a register, a cubic), gelu in 5 (four for one of 32
polynomials of degree 4 that lie in registers, one for the product with its argument), a division as 1. Sums,
permutations and stores have places of their own and are not counted, though all together may be what limits a kernel:
docs/log-streaming.md tells where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from workload import Run, SetUp, Workload

from workloads import inductor, xla

A, B = 1.25, -0.375


@dataclass(frozen=True)
class Kernel:
    """One function of an f32 array, as each system writes it.

    rlx: a graph builder's steps. torch: with `out=` honoured where it is given. products: multiplications and
    multiply-adds that an element needs at least.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    rlx: Callable[[Any, Any], Any]
    torch: Callable[[Any], Any]
    jax: Callable[[Any], Any]
    numba: Callable[[Any, Any], Callable[[np.ndarray, np.ndarray], None]]
    tolerance: float
    products: int

    @property
    def x(self) -> np.ndarray:
        return np.random.default_rng(1).standard_normal(self.shape, np.float32)

    @property
    def nbytes(self) -> int:
        """Read once, written once."""
        return 2 * 4 * int(np.prod(self.shape))

    @property
    def flops(self) -> float:
        """Two a product, as ceilings count multiply-adds."""
        return 2.0 * self.products * int(np.prod(self.shape))


def _chain(x: Any, relu: Callable[[Any], Any], smaller: Callable[[Any], Any]) -> Any:
    """Ten elementwise operations."""
    y = relu(x * 1.5 + 0.25) * x - 0.125
    return -(smaller(abs(y) * 0.75 + 1.0))


def rlx(kernel: Kernel, threads: int, *, reuse: bool) -> Run:
    import rlx
    from rlx.ir import GraphBuilder, TensorType, dtypes

    builder = GraphBuilder(kernel.name)
    result = kernel.rlx(builder, builder.input("x", TensorType(kernel.shape, dtypes.f32)))
    program = rlx.Session("cpu", rlx.Options(threads=threads)).compile(builder.build({"y": result}))
    feeds = {"x": kernel.x}
    if not reuse:
        return lambda: program.run(feeds)["y"]
    out = {"y": np.empty(kernel.shape, np.float32)}
    return lambda: program.run(feeds, out=out)["y"]


def pytorch(kernel: Kernel, threads: int, *, compiled: bool, reuse: bool) -> Run:
    import torch

    torch.set_num_threads(threads)
    x = torch.from_numpy(kernel.x)
    function = kernel.torch
    if reuse:
        kept = torch.empty_like(x)

        def function(x: torch.Tensor) -> torch.Tensor:
            return kept.copy_(kernel.torch(x))

    function = inductor.compiled(function) if compiled else function

    def run() -> np.ndarray:
        with torch.inference_mode():
            return function(x).numpy()

    return run


def jax(kernel: Kernel, threads: int) -> Run:
    function = xla.compiled(kernel.jax, threads)
    from jax import numpy as jnp

    x = jnp.asarray(kernel.x)
    return lambda: np.asarray(function(x).block_until_ready())


def numba(kernel: Kernel, threads: int) -> Run:
    import numba

    numba.set_num_threads(threads)
    function = kernel.numba(numba, partial(numba.njit, parallel=True, error_model="numpy"))
    x, out = kernel.x, np.empty(kernel.shape, np.float32)

    def run() -> np.ndarray:
        function(x, out)
        return out

    return run


def _gelu_numba(numba: Any, njit: Any) -> Callable[[np.ndarray, np.ndarray], None]:
    from math import erf

    @njit()
    def gelu(x: np.ndarray, out: np.ndarray) -> None:
        for i in numba.prange(x.size):
            y = np.float32(A) * x[i] + np.float32(B)
            out[i] = np.float32(0.5) * y * (np.float32(1) + np.float32(erf(y * np.float32(0.70710678))))

    return gelu


def _softmax_numba(numba: Any, njit: Any) -> Callable[[np.ndarray, np.ndarray], None]:
    @njit(fastmath={"reassoc", "contract", "nsz"})
    def softmax(x: np.ndarray, out: np.ndarray) -> None:
        for row in numba.prange(x.shape[0]):
            top = x[row].max()
            total = np.float32(0)
            for i in range(x.shape[1]):
                out[row, i] = np.exp(x[row, i] - top)
                total += out[row, i]
            for i in range(x.shape[1]):
                out[row, i] /= total

    return softmax


def _norm_numba(numba: Any, njit: Any) -> Callable[[np.ndarray, np.ndarray], None]:
    @njit(fastmath={"reassoc", "contract", "nsz"})
    def norm(x: np.ndarray, out: np.ndarray) -> None:
        for row in numba.prange(x.shape[0]):
            total, squares = np.float32(0), np.float32(0)
            for i in range(x.shape[1]):
                total += x[row, i]
            mean = total / np.float32(x.shape[1])
            for i in range(x.shape[1]):
                squares += (x[row, i] - mean) * (x[row, i] - mean)
            scale = np.float32(1) / np.sqrt(squares / np.float32(x.shape[1]) + np.float32(1e-5))
            for i in range(x.shape[1]):
                out[row, i] = (x[row, i] - mean) * scale

    return norm


def _chain_numba(numba: Any, njit: Any) -> Callable[[np.ndarray, np.ndarray], None]:
    @njit()
    def chain(x: np.ndarray, out: np.ndarray) -> None:
        f = np.float32
        for i in numba.prange(x.size):
            y = max(x[i] * f(1.5) + f(0.25), f(0)) * x[i] - f(0.125)
            out[i] = -min(abs(y) * f(0.75) + f(1), f(4))

    return chain


def _gelu_rlx(b: Any, x: Any) -> Any:
    return b.emit("gelu", b.binary("add", b.binary("mul", x, A), B))


def _norm_rlx(b: Any, x: Any) -> Any:
    width = x.type.sizes[-1]
    scale, shift = b.constant(np.ones(width, np.float32)), b.constant(np.zeros(width, np.float32))
    return b.emit("layer_norm", x, scale, shift, axis=1, epsilon=1e-5)


def _chain_rlx(b: Any, x: Any) -> Any:
    y = b.binary("max", b.binary("add", b.binary("mul", x, 1.5), 0.25), 0.0)
    y = b.binary("sub", b.binary("mul", y, x), 0.125)
    y = b.binary("add", b.binary("mul", b.emit("abs", y), 0.75), 1.0)
    return b.emit("neg", b.binary("min", y, 4.0))


def _gelu_torch(x: Any) -> Any:
    from torch.nn import functional

    return functional.gelu(A * x + B)


def _norm_torch(x: Any) -> Any:
    from torch.nn import functional

    return functional.layer_norm(x, x.shape[1:])


def _gelu_jax(x: Any) -> Any:
    from jax import nn

    return nn.gelu(A * x + B, approximate=False)


def _softmax_jax(x: Any) -> Any:
    from jax import nn

    return nn.softmax(x, axis=1)


def _norm_jax(x: Any) -> Any:
    from jax import nn

    return nn.standardize(x, axis=1, epsilon=1e-5)


def _chain_jax(x: Any) -> Any:
    from jax import nn

    return _chain(x, nn.relu, lambda y: y.clip(max=4.0))


MILLIONS = 1 << 24
KERNELS = [
    Kernel("gelu", "gelu(a x + b), 16M floats", (MILLIONS,), _gelu_rlx, _gelu_torch, _gelu_jax, _gelu_numba, 1e-6, 6),
    Kernel(
        "softmax",
        "softmax [4096, 4096]",
        (4096, 4096),
        lambda b, x: b.emit("softmax", x, axis=1),
        lambda x: x.softmax(1),
        _softmax_jax,
        _softmax_numba,
        1e-5,
        8,
    ),
    Kernel("norm", "layer norm [8192, 1024]", (8192, 1024), _norm_rlx, _norm_torch, _norm_jax, _norm_numba, 1e-5, 2),
    Kernel(
        "chain",
        "ten elementwise operations, 16M floats",
        (MILLIONS,),
        _chain_rlx,
        lambda x: _chain(x, lambda y: y.relu(), lambda y: y.clamp(max=4.0)),
        _chain_jax,
        _chain_numba,
        1e-6,
        3,
    ),
]


def _systems(kernel: Kernel) -> dict[str, SetUp]:
    return {
        "RLX": partial(rlx, kernel, reuse=True),
        "RLX, fresh result": partial(rlx, kernel, reuse=False),
        "PyTorch": partial(pytorch, kernel, compiled=False, reuse=False),
        "PyTorch inductor": partial(pytorch, kernel, compiled=True, reuse=False),
        "PyTorch inductor, reused": partial(pytorch, kernel, compiled=True, reuse=True),
        "JAX": partial(jax, kernel),
        "numba, reused": partial(numba, kernel),
    }


WORKLOADS = [
    Workload(
        name=f"stream-{kernel.name}",
        title=kernel.title,
        systems=_systems(kernel),
        judge="PyTorch",
        tolerance=kernel.tolerance,
        flops=kernel.flops,
        nbytes=kernel.nbytes,
        streams=True,
        note="RLX writes into the caller's array (`out=`), as the reused rows do; the limit is one reading and one "
        "writing of memory at the rate of a copy past the caches, or the products of the shortest sequence we know at "
        "the rate of multiply-adds.",
    )
    for kernel in KERNELS
]
