"""Make the recordings in data/: each with its program's text, its operands and what it is to give.

commands.safetensors has no weights; weighted_commands.safetensors brings one. Make one again only where the file's form
changes, and only that one: that recordings of older versions still replay is what they are for.
"""

from pathlib import Path

import numpy as np

from rlx.driver import CommandBuffer, save_commands
from rlx.ir import GraphBuilder, TensorType, fingerprint, print_graph
from rlx.ir.dtypes import f32

DATA = Path(__file__).parent / "data"


def recording() -> CommandBuffer:
    """h = tanh(x @ w + b); the first half of out is h, the second a constant; time goes on by one."""
    b = GraphBuilder("layer")
    x, w, bias = (b.input(n, TensorType(s, f32)) for n, s in (("x", (2, 8)), ("w", (8, 4)), ("b", (2, 4))))
    product = b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build({"h": b.emit("tanh", b.binary("add", product, bias))})
    rng = np.random.default_rng(2026)
    values = {n: rng.standard_normal(t.sizes).astype(np.float32) for n, t in graph.input_types.items()}
    commands = CommandBuffer("layer")
    half = TensorType((2, 4), f32)
    h, out = commands.slot("h", half), commands.slot("out", TensorType((4, 4), f32))
    operands = [commands.constant(name, array) for name, array in values.items()]
    expected = np.tanh(values["x"] @ values["w"] + values["b"])
    commands.constant("expected", np.concatenate([expected, np.full((2, 4), -1.5, np.float32)]))
    types = list(graph.input_types.values()), list(graph.output_types.values())
    program = commands.program(fingerprint(graph), *types, graph=print_graph(graph))
    done = commands.semaphore("done")
    commands.fill(out, -1.5)
    commands.run(program, operands, [h])
    commands.copy(out.part(0, half), h)
    commands.signal(done, 1)
    return commands


def weighted_recording() -> CommandBuffer:
    """out = tanh(x @ w), where w is a weight that the recording brings."""
    rng = np.random.default_rng(2027)
    weight, content = (rng.standard_normal(s).astype(np.float32) for s in ((8, 4), (2, 8)))
    b = GraphBuilder("weighted layer")
    x = b.input("x", TensorType((2, 8), f32))
    product = b.emit("dot_general", x, b.parameter("layer.0/weight:0", weight), lhs_contract=(1,), rhs_contract=(0,))
    graph = b.build({"h": b.emit("tanh", product)})
    commands = CommandBuffer("weighted")
    out = commands.slot("out", TensorType((2, 4), f32))
    commands.constant("expected", np.tanh(content @ weight))
    done = commands.semaphore("done")
    commands.run(commands.graph(graph), [commands.constant("x", content)], [out])
    commands.signal(done, 1)
    return commands


if __name__ == "__main__":
    save_commands(DATA / "commands.safetensors", recording())
    save_commands(DATA / "weighted_commands.safetensors", weighted_recording())
