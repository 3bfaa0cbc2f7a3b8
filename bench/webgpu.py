"""Kernels of the WebGPU backend by the device's own clock, beside what the device can do at most.

    python bench/webgpu.py [--device webgpu] [--only PART] [--rounds R] [--small] [--tiles]

For each workload: every kernel's best time over the rounds, the rate, and its share of the ceiling that it can reach
first: products a second against a loop of multiply-adds in registers, bytes a second against a kernel that copies. Both
ceilings are measured first, on the same device. Results are compared with NumPy's on a sample of their elements.

--only: workloads whose name has this in it. --small: sizes for software adapters. --tiles: every matrix product in each
size of tile instead of the chosen one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

import rlx.backends.webgpu.matmul as matmul_template
from rlx.backends.webgpu.tiles import TILES, tile_for
from rlx.backends.webgpu.timestamps import Timestamps
from rlx.driver import Buffer, Device
from rlx.ir import GraphBuilder, Value, type_of
from rlx.options import Options
from rlx.runtime import Session

#: Chains of multiply-adds in one invocation, turns of its loop, and invocations.
CHAINS, TURNS, INVOCATIONS = 16, 2048, 1 << 18
#: Seconds of work before each timing.
BUSY_S = 0.03


@dataclass(frozen=True)
class Workload:
    """build: emits the graph of the inputs. flops, bytes: of the work, not of what a kernel makes of it.

    expected: of the inputs, a few elements of the result and their values.
    """

    name: str
    inputs: tuple[np.ndarray, ...]
    build: Callable[..., Value]
    flops: float
    bytes: float
    expected: Callable[..., tuple[object, np.ndarray]]


def product(m: int, k: int, n: int, batch: int = 0) -> Workload:
    """x [m, k] by y [k, n], or batch of them."""
    lead = (batch,) if batch else ()
    x, y = random(*lead, m, k), random(*lead, k, n)
    over = {"lhs_batch": (0,), "rhs_batch": (0,)} if batch else {}

    def build(b: GraphBuilder, x: Value, y: Value) -> Value:
        return b.emit("dot_general", x, y, lhs_contract=(len(lead) + 1,), rhs_contract=(len(lead),), **over)

    name = f"product {'x'.join(map(str, (*lead, m, k, n)))}"
    count = max(batch, 1)
    rows = (*([-1] if batch else []), slice(0, m, max(1, m // 3)))
    size = 4.0 * count * (m * k + k * n + m * n)
    return Workload(name, (x, y), build, 2.0 * count * m * k * n, size, lambda x, y: (rows, x[rows] @ y[rows[:-1]]))


def attention(batch: int, heads: int, m: int, d: int, causal: bool) -> Workload:
    """Self-attention of m tokens."""
    q, k, v = (random(batch, heads, m, d) for _ in range(3))

    def expected(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[object, np.ndarray]:
        scores = (q[-1, -1] @ k[-1, -1].T) / np.sqrt(d)
        if causal:
            scores = np.where(np.tri(m, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return (-1, -1), weights @ v[-1, -1] / weights.sum(-1, keepdims=True)

    flops = 4.0 * batch * heads * m * m * d * (0.5 if causal else 1)
    name = f"attention{' causal' if causal else ''} {batch}x{heads}x{m}x{d}"

    def build(b: GraphBuilder, *inputs: Value) -> Value:
        return b.emit("attention", *inputs, causal=causal)

    return Workload(name, (q, k, v), build, flops, 16.0 * batch * heads * m * d, expected)


def convolution(channels: int, features: int, size: int, kernel: int, stride: int = 1, groups: int = 1) -> Workload:
    """A square image and kernel, batch 1, padded to keep its size where the stride is 1."""
    x, w = random(1, channels, size, size), random(features, channels // groups, kernel, kernel)
    pad, out = kernel // 2, (size + 2 * (kernel // 2) - kernel) // stride + 1

    def expected(x: np.ndarray, w: np.ndarray) -> tuple[object, np.ndarray]:
        padded = np.pad(x[0], ((0, 0), (pad, pad), (pad, pad)))
        per = channels // groups
        part = padded[(groups - 1) * per :]  # the last feature is of the last group
        rows = [
            (part[:, stride * i : stride * i + kernel, stride * i : stride * i + kernel] * w[-1]).sum()
            for i in range(out)
        ]
        return (0, -1, np.arange(out), np.arange(out)), np.array(rows)

    def build(b: GraphBuilder, x: Value, w: Value) -> Value:
        both = {"strides": (stride,) * 2, "padding": ((pad, pad),) * 2}
        return b.emit("conv_general", x, w, **both, lhs_dilation=(1, 1), rhs_dilation=(1, 1), groups=groups)

    flops = 2.0 * features * out * out * (channels // groups) * kernel * kernel
    nbytes = 4.0 * (x.size + w.size + features * out * out)
    name = f"conv {channels}x{size}x{size} to {features}, {kernel}x{kernel}/{stride}"
    name += f" in {groups}" if groups > 1 else ""
    return Workload(name, (x, w), build, flops, nbytes, expected)


def rows(name: str, shape: tuple[int, ...], build: Callable[..., Value], meaning, traffic: int) -> Workload:
    """A reduction or a row kernel; traffic: times that each element must move."""
    x = random(*shape)

    def expected(x: np.ndarray) -> tuple[object, np.ndarray]:
        return (), meaning(x)

    return Workload(f"{name} {'x'.join(map(str, shape))}", (x,), build, 0.0, traffic * 4.0 * x.size, expected)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def workloads(small: bool) -> Iterator[Workload]:
    s = 8 if small else 1
    yield rows("copy", (1 << (20 if small else 24),), lambda b, x: b.emit("neg", x), np.negative, 2)
    for name, shape, dims in (
        ("sum of all", (1 << (20 if small else 24),), (0,)),
        ("sum of rows", (4096 // s, 4096 // s), (1,)),
        ("sum of columns", (4096 // s, 4096 // s), (0,)),
        ("sum of few columns", (65536 // s, 96), (0,)),
    ):

        def build(b: GraphBuilder, x: Value, dims: tuple[int, ...] = dims) -> Value:
            return b.emit("reduce_sum", x, dimensions=dims)

        yield rows(name, shape, build, lambda x, dims=dims: x.sum(dims, dtype=np.float64), 1)
    yield rows("softmax", (4096 // s, 4096 // s), lambda b, x: b.emit("softmax", x, axis=-1), softmax, 2)
    yield rows("softmax", (4096 // s, 128), lambda b, x: b.emit("softmax", x, axis=-1), softmax, 2)
    for m in (16, 128, 4096 // s):
        for k, n in ((384, 384), (384, 1536), (1536, 384)):
            yield product(m, k, n)
    yield product(1, 4096 // s, 4096 // s)
    yield product(4096 // s, 4096 // s, 4096 // s)
    yield product(128, 64, 128, batch=384 // s)
    yield attention(32 // s, 12, 128, 32, False)
    yield attention(1, 12, 128, 32, False)
    yield attention(1, 12, 1024 // s, 64, True)
    yield convolution(3, 64, 224 // s, 7, 2)
    yield convolution(64, 64, 56, 3)
    yield convolution(256 // s, 64, 56, 1)
    yield convolution(256 // s, 256 // s, 14, 3)
    yield convolution(96, 96, 112 // s, 3, groups=96)


def ceilings(device: Device, rounds: int) -> tuple[float, float]:
    """(multiply-adds as operations a second, bytes a second)."""
    gpu = device.backend.memory(device.ordinal).gpu
    chains = "\n".join(f"c{i} = c{i} * x + y;" for i in range(CHAINS))
    declared = "\n".join(f"var c{i} = vec4<f32>(f32(id.x) + {i}.0);" for i in range(CHAINS))
    total = " + ".join(f"c{i}" for i in range(CHAINS))
    source = f"""@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
let x = out[0]; let y = out[1]; {declared}
for (var i = 0i; i < {TURNS}; i = i + 1i) {{ {chains} }}
let t = {total}; out[id.x & 255u] = t.x + t.y + t.z + t.w; }}"""
    buffer = gpu.device.create_buffer(size=1024, usage=gpu.wgpu.BufferUsage.STORAGE)
    module = gpu.device.create_shader_module(code=source)
    pipeline = gpu.device.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": "main"})
    entries = [{"binding": 0, "resource": {"buffer": buffer, "offset": 0, "size": 1024}}]
    group = gpu.device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
    software = gpu.adapter.info["adapter_type"] == "CPU"
    invocations = INVOCATIONS >> 10 if software else INVOCATIONS
    stamps = Timestamps(gpu)
    for _ in range(rounds):
        encoder = gpu.device.create_command_encoder()
        on = encoder.begin_compute_pass(timestamp_writes=stamps.next("multiply-add"))
        on.set_pipeline(pipeline)
        on.set_bind_group(0, group)
        on.dispatch_workgroups(invocations // 256)
        on.end()
        stamps.resolve(encoder)
        gpu.device.queue.submit([encoder.finish()])
        stamps.take(device.backend.memory(device.ordinal))
    fastest = min(t for _, t in stamps.times) * 1e-9
    copy = next(workloads(software))
    copied = sum(t for _, t in measured(copy, device, rounds)) * 1e-9
    return 8.0 * CHAINS * TURNS * invocations / fastest, copy.bytes / copied


def measured(workload: Workload, device: Device, rounds: int, note: str = "") -> list[tuple[str, int]]:
    """(label, best nanoseconds) of each kernel, once results are right. note: keeps compiled programs apart."""
    b = GraphBuilder(workload.name.split()[0])
    values = [b.input(f"x{i}{note}", type_of(x)) for i, x in enumerate(workload.inputs)]
    graph = b.build({"y": workload.build(b, *values)})
    with Session(device, Options(cache=False)).compile(graph) as program:
        feeds = [Buffer.from_numpy(x).to(device) for x in workload.inputs]
        got = program.run(dict(zip(graph.input_types, feeds, strict=True)))["y"]
        at, expected = workload.expected(*workload.inputs)
        np.testing.assert_allclose(
            np.asarray(got.to(Device("cpu")).numpy())[at], expected, rtol=2e-3, atol=2e-3 * (np.abs(expected).max() + 1)
        )
        executable = program.executable
        runs = []
        for _ in range(rounds):
            busy(device, lambda: executable.run(feeds, [got]))
            runs.append(executable.time_kernels(feeds, [got]))
    return [(label, min(run[i][1] for run in runs)) for i, (label, _) in enumerate(runs[0])]


def busy(device: Device, run: Callable[[], None]) -> None:
    """Keep a GPU at work, so that what is timed next meets its full clock: an idle one runs at a fifth of that."""
    if device.properties.features["adapter"] == "CPU":
        return
    memory, end = device.backend.memory(device.ordinal), time.perf_counter() + BUSY_S
    while time.perf_counter() < end:
        for _ in range(8):
            run()
        memory.synchronize()


def report(workload: Workload, times: list[tuple[str, int]], flops: float, rate: float, note: str = "") -> None:
    total = sum(t for _, t in times) * 1e-9
    limit = max(workload.flops / flops, workload.bytes / rate)
    kernels = ", ".join(f"{label} {t / 1000:.1f}" for label, t in times)
    speed = (
        f"{workload.flops / total / 1e9:9.0f} GFLOP/s"
        if workload.flops
        else f"{workload.bytes / total / 1e9:9.1f} GB/s   "
    )
    print(
        f"{workload.name:42} {note:10}{total * 1e6:10.1f} us {speed} {limit / total:6.1%} of its limit  [{kernels}]",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="webgpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tiles", action="store_true")
    options = parser.parse_args()
    device = Device(options.device)
    flops, rate = ceilings(device, options.rounds)
    print(f"{device.properties.name}: {flops / 1e12:.2f} TFLOP/s of multiply-adds, {rate / 1e9:.0f} GB/s of copying")
    for workload in workloads(options.small):
        if options.only not in workload.name:
            continue
        if not options.tiles:
            report(workload, measured(workload, device, options.rounds), flops, rate)
        elif workload.name.startswith("product"):
            for tile, _ in TILES:
                matmul_template.tile_for = lambda *_, tile=tile, **__: tile
                note = f"{tile.height}x{tile.width}" + ("" if tile.slices == 1 else f"/{tile.slices}")
                times = measured(workload, device, options.rounds, note)
                matmul_template.tile_for = tile_for
                report(workload, times, flops, rate, note)


if __name__ == "__main__":
    main()
