"""Where the real models of the tests lie: inside installed Python packages, from which nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

#: What the tests install, with --no-deps: requirement -> importable package.
REQUIREMENTS = {
    "magika==1.0.3": "magika",
    "rapidocr-onnxruntime==1.4.4": "rapidocr_onnxruntime",
    "silero-vad==6.2.3": "silero_vad",
    "basic-pitch==0.4.0": "basic_pitch",
    "onnx": "onnx",
}


@dataclass(frozen=True)
class RealModel:
    """One file in one package, and inputs that mean something to it.

    shapes: inputs whose sizes the model leaves open, with sizes that it takes.
    """

    package: str
    path: str
    shapes: dict[str, tuple[int, ...]]

    def find(self) -> Path | None:
        """The file; None where the package is not installed."""
        spec = find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return None
        return Path(spec.submodule_search_locations[0]) / self.path

    def requirement(self) -> str:
        """What to install, as pip takes it."""
        return next(requirement for requirement, package in REQUIREMENTS.items() if package == self.package)


_OCR, _VAD, _LIGHT = "rapidocr_onnxruntime", "silero_vad", "backend/test/data/light/light_"
_VAD_SHAPES = {"input": (1, 576), "state": (2, 1, 128)}

MODELS: dict[str, RealModel] = {
    "magika": RealModel("magika", "models/standard_v3_3/model.onnx", {"bytes": (2, 2048)}),
    "basic-pitch": RealModel(
        "basic_pitch", "saved_models/icassp_2022/nmp.onnx", {"serving_default_input_2:0": (1, 43844, 1)}
    ),
    "ocr-direction": RealModel(_OCR, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    "ocr-recognition": RealModel(_OCR, "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 96)}),
    "ocr-detection": RealModel(_OCR, "models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 96, 160)}),
    "silero": RealModel(_VAD, "data/silero_vad.onnx", _VAD_SHAPES),
    "silero-half": RealModel(_VAD, "data/silero_vad_half.onnx", _VAD_SHAPES),
    "silero-16k": RealModel(_VAD, "data/silero_vad_16k_op15.onnx", _VAD_SHAPES),
    "silero-ifless": RealModel(_VAD, "data/silero_vad_op18_ifless.onnx", _VAD_SHAPES),
    "silero-openvino": RealModel(_VAD, "data/silero_vad_openvino_16k.onnx", {}),
    "silero-sequence": RealModel(_VAD, "data/silero_vad_16k_sequence.onnx", {"input": (5, 576)}),
    **{
        f"light-{name}": RealModel("onnx", f"{_LIGHT}{name}.onnx", {})
        for name in (
            "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet",
            "vgg19", "zfnet512",
        )
    },
}  # fmt: skip


def fresh_inputs(name: str, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Inputs for the model `name`, seeded: `shapes` names every float input; integer inputs are known here."""
    rng = np.random.default_rng(seed)
    if name == "magika":
        return {"bytes": rng.integers(0, 257, shapes["bytes"]).astype(np.int32)}
    made: dict[str, np.ndarray] = {}
    for key, shape in shapes.items():
        if key == "sr":
            made[key] = np.array(16000, dtype=np.int64)
        elif name.startswith("ocr"):
            made[key] = printed_page(rng, shape)
        elif name == "basic-pitch":
            made[key] = voice(shape[1]).reshape(shape)
        else:
            made[key] = (rng.normal(size=shape) * (1.0 if name.startswith("light") else 0.3)).astype(np.float32)
    return made


_GLYPHS = {
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "O": "01110 10001 10001 10001 10001 10001 01110",
}


def printed_page(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A light page that says HELLO in dark letters, in [-1, 1], with a little noise: a text detector reacts to it."""
    page = np.full(shape, 0.95, np.float32)
    height, width = shape[-2:]
    scale = max(height // 24, 1)
    top, left = height // 2 - 7 * scale // 2, 8
    for letter in "HELLOHELLO":
        if left + 5 * scale > width - 8:
            break
        glyph = np.array([[int(bit) for bit in row] for row in _GLYPHS[letter].split()])
        page[..., top : top + 7 * scale, left : left + 5 * scale] -= 1.9 * np.kron(glyph, np.ones((scale, scale)))
        left += 6 * scale
    return page + rng.normal(size=shape).astype(np.float32) * np.float32(0.02)


def voice(samples: int, rate: int = 16000) -> np.ndarray:
    """A voiced sound that starts, glides and stops twice a second: harmonics of 120 to 180 Hz under an envelope."""
    t = np.arange(samples) / rate
    phase = 2 * np.pi * np.cumsum(150 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 16))
    envelope = np.clip(np.sin(2 * np.pi * 1.1 * t) * 3, 0, 1)
    return (0.2 * envelope * harmonics).astype(np.float32)
