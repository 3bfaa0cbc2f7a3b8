"""Make data/commands.safetensors: a recording with its program's text, its operands and what it is to give.

Make it again only where the file's form changes: that recordings of older versions still replay is what it is for.
"""

from pathlib import Path

import numpy as np

from rlx.driver import CommandBuffer, save_commands
from rlx.ir import GraphBuilder, TensorType, fingerprint, print_graph
from rlx.ir.dtypes import f32

PATH = Path(__file__).parent / "data" / "commands.safetensors"


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


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    save_commands(PATH, recording())
