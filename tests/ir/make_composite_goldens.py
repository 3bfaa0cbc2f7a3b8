"""Make tests/ir/data/composites.npz: what PyTorch and onnxruntime answer for each composite.

    python tests/ir/make_composite_goldens.py

Needs torch, onnx and onnxruntime, which the tests themselves do without. Each case becomes entries `NAME/in0..`,
`NAME/out0..` and `NAME/call` (op and attributes, as the text form of the IR prints them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime
import torch
import torch.nn.functional as F

from rlx.ir import dtypes
from rlx.ir.printer import print_attribute

TARGET = Path(__file__).parent / "data" / "composites.npz"

entries: dict[str, np.ndarray] = {}


def case(name: str, op: str, inputs: list[np.ndarray], outputs: list[np.ndarray], **attrs: Any) -> None:
    call = f"{op} {{{', '.join(f'{k}={print_attribute(v)}' for k, v in attrs.items())}}}"
    assert f"{name}/call" not in entries, name
    entries[f"{name}/call"] = np.array(call)
    for kind, arrays in (("in", inputs), ("out", outputs)):
        for i, array in enumerate(arrays):
            entries[f"{name}/{kind}{i}"] = np.array(array)


def t(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def activations(rng: np.random.Generator) -> None:
    edges = [0.0, -0.0, 1e-4, -1e-4, 3.0, -3.0, 6.0, -20.0, 20.0, 88.0, -88.0, np.inf, -np.inf, np.nan]
    x = np.concatenate([rng.normal(size=50) * 4, edges]).astype(np.float32)
    functions: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "relu": ("relu", F.relu, {}),
        "leaky_relu": ("leaky_relu", lambda v: F.leaky_relu(v, 0.2), {"alpha": 0.2}),
        "elu": ("elu", lambda v: F.elu(v, 1.5), {"alpha": 1.5}),
        "selu": ("selu", F.selu, {}),
        "celu": ("celu", lambda v: F.celu(v, 1.3), {"alpha": 1.3}),
        "softplus": ("softplus", lambda v: F.softplus(v, threshold=1e9), {}),
        "softsign": ("softsign", F.softsign, {}),
        "mish": ("mish", F.mish, {}),
        "silu": ("silu", F.silu, {}),
        "hard_sigmoid": ("hard_sigmoid", F.hardsigmoid, {"alpha": 1 / 6, "beta": 0.5}),
        "hard_swish": ("hard_swish", F.hardswish, {}),
        "gelu": ("gelu", F.gelu, {}),
        "gelu_tanh": ("gelu", lambda v: F.gelu(v, approximate="tanh"), {"approximate": "tanh"}),
        "thresholded_relu": ("thresholded_relu", lambda v: F.threshold(v, 1.2, 0.0), {"alpha": 1.2}),
    }
    for name, (op, function, attrs) in functions.items():
        # Computed in f64 and rounded: PyTorch's own f32 kernels are the looser side for some.
        case(name, op, [x], [function(t(x.astype(np.float64))).float().numpy()], **attrs)
        half = x.astype(np.float16)
        case(f"{name}_f16", op, [half], [function(t(half.astype(np.float64))).half().numpy()], **attrs)
    y, slope = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    case("prelu", "prelu", [y, slope.reshape(3, 1)], [F.prelu(t(y), t(slope)).numpy()])


def softmaxes(rng: np.random.Generator) -> None:
    x = (rng.normal(size=(3, 5, 7)) * 10).astype(np.float32)
    x[0, 0] = -np.inf
    x[0, 1, 2] = -np.inf
    x[1, 1, 3] = np.nan
    x[2, 2] = 1e30
    for axis in (-1, 1):
        case(f"softmax{axis}", "softmax", [x], [torch.softmax(t(x), axis).numpy()], axis=axis)
        case(f"log_softmax{axis}", "log_softmax", [x], [torch.log_softmax(t(x), axis).numpy()], axis=axis)
    x[2, 1, 1] = np.inf
    case("logsumexp", "logsumexp", [x], [torch.logsumexp(t(x), (0, 2)).numpy()], axes=(0, 2))
    case("logsumexp_keep", "logsumexp", [x], [torch.logsumexp(t(x), -1, True).numpy()], axes=(-1,), keepdims=True)


def normalizations(rng: np.random.Generator) -> None:
    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    x, s, c = draw(2, 6, 5), draw(6, 5), draw(6, 5)
    case("layer_norm", "layer_norm", [x, s, c], [F.layer_norm(t(x), (6, 5), t(s), t(c), 1e-5).numpy()], axis=1)
    far = (x + 1000).astype(np.float32)
    want = F.layer_norm(t(far.astype(np.float64)), (5,), None, None, 1e-3).float().numpy()
    case("layer_norm_far", "layer_norm", [far, np.ones(5, np.float32)], [want], axis=-1, epsilon=1e-3)
    half, hs, hc = (v.astype(np.float16) for v in (x, s[0], c[0]))
    want = F.layer_norm(t(half).float(), (5,), t(hs).float(), t(hc).float()).half().numpy()
    case("layer_norm_f16", "layer_norm", [half, hs, hc], [want])
    case("rms_norm", "rms_norm", [x, s[0]], [F.rms_norm(t(x), (5,), t(s[0]), 1e-6).numpy()], epsilon=1e-6)
    g, b = draw(6), draw(6)
    case("group_norm", "group_norm", [x, g, b], [F.group_norm(t(x), 3, t(g), t(b), 1e-5).numpy()], groups=3)
    case("instance_norm", "instance_norm", [x, g, b], [F.instance_norm(t(x), None, None, t(g), t(b)).numpy()])
    m, v = draw(6), rng.random(6).astype(np.float32)
    want = F.batch_norm(t(x), t(m), t(v), t(g), t(b), False, 0.0, 1e-3).numpy()
    case("batch_norm", "batch_norm", [x, g, b, m, v], [want], epsilon=1e-3)
    want = np.moveaxis(want, 1, -1).copy()
    case("batch_norm_last", "batch_norm", [np.moveaxis(x, 1, -1).copy(), g, b, m, v], [want], epsilon=1e-3, axis=-1)
    case("reduce_mean", "reduce_mean", [x], [t(x).mean((0, 2)).numpy()], dimensions=(0, 2))


def attentions(rng: np.random.Generator) -> None:
    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    sdpa = F.scaled_dot_product_attention
    q, k, v = draw(2, 4, 5, 8), draw(2, 4, 7, 8), draw(2, 4, 7, 6)
    case("attention", "attention", [q, k, v], [sdpa(t(q), t(k), t(v)).numpy()])
    case("attention_scale", "attention", [q, k, v], [sdpa(t(q), t(k), t(v), scale=0.7).numpy()], scale=0.7)
    case("attention_causal", "attention", [q, k, v], [sdpa(t(q), t(k), t(v), is_causal=True).numpy()], causal=True)
    seen = rng.random((2, 1, 5, 7)) < 0.5
    seen[0, 0, 1] = False
    case("attention_bool", "attention", [q, k, v, seen], [sdpa(t(q), t(k), t(v), attn_mask=t(seen)).numpy()])
    added = np.where(seen[:, :, :1], draw(2, 1, 1, 7), -np.inf).astype(np.float32)
    case("attention_added", "attention", [q, k, v, added], [sdpa(t(q), t(k), t(v), attn_mask=t(added)).numpy()])
    kg, vg = k[:, :2].copy(), v[:, :2].copy()
    want = sdpa(t(q), t(kg), t(vg), attn_mask=t(seen), enable_gqa=True).numpy()
    case("attention_grouped", "attention", [q, kg, vg, seen], [want])
    scores = torch.einsum("bhsd,bhtd->bhst", t(q), t(k)) * 0.5
    want = torch.softmax(3.0 * torch.tanh(scores / 3.0), -1) @ t(v)
    case("attention_softcap", "attention", [q, k, v], [want.numpy()], scale=0.5, softcap=3.0)
    qh, kh, vh = (x.astype(np.float16) for x in (q, k, v))
    want = sdpa(t(qh).double(), t(kh).double(), t(vh).double()).half().numpy()
    case("attention_f16", "attention", [qh, kh, vh], [want])


def ort(
    op: str, inputs: dict[str, np.ndarray | None], outputs: list[str], opset: int, **attrs: Any
) -> list[np.ndarray]:
    """One ONNX node through onnxruntime. A None input is left out."""
    node = oh.make_node(op, [name if x is not None else "" for name, x in inputs.items()], outputs, **attrs)
    present = {name: x for name, x in inputs.items() if x is not None}
    infos = [oh.make_tensor_value_info(n, oh.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in present.items()]
    results = [onnx.ValueInfoProto(name=o) for o in outputs]
    model = oh.make_model(oh.make_graph([node], "g", infos, results), opset_imports=[oh.make_opsetid("", opset)])
    model.ir_version = 9
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, present)


def recurrent(rng: np.random.Generator) -> None:
    steps, batch, width, hidden = 6, 3, 4, 5
    lens = np.array([6, 2, 4], np.int32)
    kinds = {"lstm": ("LSTM", 4, ["y", "y_h", "y_c"]), "gru": ("GRU", 3, ["y", "y_h"]), "rnn": ("RNN", 1, ["y", "y_h"])}

    def run(name: str, op: str, optional: tuple[str, ...], direction: str, **extra: Any) -> None:
        onnx_op, gates, outputs = kinds[op]
        d = 2 if direction == "bidirectional" else 1
        shapes = {
            "x": (steps, batch, width),
            "w": (d, gates * hidden, width),
            "r": (d, gates * hidden, hidden),
            "b": (d, 2 * gates * hidden),
            "initial_h": (d, batch, hidden),
            "initial_c": (d, batch, hidden),
            "p": (d, 3 * hidden),
        }
        slots = ["x", "w", "r", "b", "sequence_lens", "initial_h"] + (["initial_c", "p"] if op == "lstm" else [])
        inputs: dict[str, np.ndarray | None] = {}
        for slot in slots:
            used = slot in ("x", "w", "r", *optional)
            value = (
                lens if slot == "sequence_lens" else (rng.normal(size=shapes.get(slot, ())) * 0.6).astype(np.float32)
            )
            inputs[slot] = value if used else None
        onnx_attrs = {k: int(v) if isinstance(v, bool) else list(v) for k, v in extra.items()}
        got = ort(onnx_op, inputs, outputs, 14, hidden_size=hidden, direction=direction, **onnx_attrs)
        given = [x for x in inputs.values() if x is not None]
        case(name, op, given, got, optional=optional, direction=direction, **extra)

    for op in kinds:
        states = ("initial_h", "initial_c") if op == "lstm" else ("initial_h",)
        for direction in ("forward", "reverse", "bidirectional"):
            run(f"{op}_{direction}", op, ("b",), direction)
            run(f"{op}_{direction}_all", op, ("b", "sequence_lens", *states), direction)
        run(f"{op}_bare", op, (), "forward")
    run("lstm_peepholes", "lstm", ("b", "p"), "bidirectional")
    run("lstm_coupled", "lstm", ("b", "initial_h", "initial_c"), "forward", input_forget=True)
    scaled = {"activation_alpha": (0.3, 1.5), "activation_beta": (0.4,)}
    run("lstm_activations", "lstm", ("b",), "forward", activations=("HardSigmoid", "Elu", "Softsign"), **scaled)
    run("gru_linear", "gru", ("b", "sequence_lens", "initial_h"), "bidirectional", linear_before_reset=True)
    run("gru_linear_bare", "gru", (), "forward", linear_before_reset=True)
    both = ("Tanh", "Affine")
    run(
        "rnn_activations",
        "rnn",
        ("b",),
        "bidirectional",
        activations=both,
        activation_alpha=(0.5,),
        activation_beta=(0.1,),
    )
    run("rnn_leaky", "rnn", ("b",), "forward", activations=("LeakyRelu",), activation_alpha=(0.2,))


def one_hots(rng: np.random.Generator) -> None:
    indices = np.array([[0, 3, -1], [-4, 4, -5]], np.int64)
    values = np.array([0.25, 4.0], np.float32)
    for axis in (-1, 0, 1):
        (want,) = ort("OneHot", {"i": indices, "d": np.array(4, np.int64), "v": values}, ["y"], 11, axis=axis)
        inputs = [indices, values[0], values[1]]
        case(f"one_hot{axis}", "one_hot", inputs, [want], depth=4, axis=axis, dtype=dtypes.f32)


if __name__ == "__main__":
    generator = np.random.default_rng(20261122)
    for make in (activations, softmaxes, normalizations, attentions, recurrent, one_hots):
        make(generator)
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **entries)
    print(f"{TARGET}: {sum(name.endswith('/call') for name in entries)} cases, {TARGET.stat().st_size} bytes")
