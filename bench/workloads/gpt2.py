"""GPT-2 small with seeded random weights: a prompt of 128 tokens, and one step of decoding at a context of 256.

Every system computes the logits of every token it is given. In decoding, RLX (caches donated), PyTorch and JAX
put the new key and value into caches of 256; onnxruntime and OpenVINO read caches of 255 keys and values and give new
ones of 256. RLX and onnxruntime have inputs and outputs bound beforehand.
"""

from __future__ import annotations

from functools import partial

import gpt2_model as model
import numpy as np
import systems
from workload import Run, Workload

from workloads import inductor, xla


def _parts(decodes: bool) -> tuple[systems.Save, dict[str, np.ndarray]]:
    return (model.save_decode, model.decode_feeds()) if decodes else (model.save_prefill, model.prefill_feeds())


def rlx(decodes: bool, threads: int) -> Run:
    if decodes:
        save, feeds = model.save_decode_in_place, model.in_place_feeds()
    else:
        save, feeds = model.save_prefill, model.prefill_feeds()
    caches = [name for name in feeds if name.startswith("past")]
    program = systems.rlx_program(save, feeds, threads, caches)
    given = {name: type for name, type in program.outputs.items() if name not in program.in_inputs}
    results = {name: np.empty(type.sizes, type.dtype.numpy) for name, type in given.items()}
    once = program.bind(feeds, results)

    def run() -> np.ndarray:
        once()
        return results["logits"]

    return run


def onnxruntime(decodes: bool, threads: int) -> Run:
    save, feeds = _parts(decodes)
    session = systems.onnxruntime_session(save, threads)
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    results = {}
    for output in session.get_outputs():
        results[output.name] = array = np.empty(output.shape, np.float32)
        binding.bind_output(output.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        return results["logits"]

    return run


def openvino(decodes: bool, threads: int) -> Run:
    save, feeds = _parts(decodes)
    return systems.openvino(save, feeds, "logits", threads)


def pytorch(decodes: bool, threads: int, *, compiled: bool = False) -> Run:
    import gpt2_torch
    import torch

    torch.set_num_threads(threads)
    function = (gpt2_torch.decode if decodes else gpt2_torch.prefill)(inductor.compiled if compiled else lambda f: f)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return function().numpy()

    return run


def jax(decodes: bool, threads: int) -> Run:
    import gpt2_jax

    function = (gpt2_jax.decode if decodes else gpt2_jax.prefill)(partial(xla.compiled, threads=threads))
    return lambda: np.asarray(function())


def _workload(name: str, title: str, decodes: bool, tokens: int, context: int, nbytes: float) -> Workload:
    return Workload(
        name=name,
        title=title,
        systems={
            "RLX": partial(rlx, decodes),
            "onnxruntime": partial(onnxruntime, decodes),
            "OpenVINO": partial(openvino, decodes),
            "PyTorch": partial(pytorch, decodes),
            "PyTorch inductor": partial(pytorch, decodes, compiled=True),
            "JAX": partial(jax, decodes),
        },
        judge="PyTorch",
        tolerance=2e-5,
        flops=model.flops(tokens, context),
        nbytes=nbytes,
    )


WORKLOADS = [
    _workload(
        "gpt2-prefill", "GPT-2 small, prompt of 128 tokens", False, model.PREFILL, model.PREFILL, model.WEIGHT_BYTES
    ),
    _workload(
        "gpt2-decode", "GPT-2 small, one token at 256", True, 1, model.CONTEXT, model.WEIGHT_BYTES + model.CACHE_BYTES
    ),
]
