"""How the tests call `rlx`: in this process, with what it wrote and its exit code at hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx.cli.app import invoke
from rlx.ir import Dim, GraphBuilder, TensorType, print_graph
from rlx.ir.dtypes import f32, i64


@dataclass(frozen=True)
class Outcome:
    """One command: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as strict JSON: no NaN, nothing before or after."""

        def refuse(token: str) -> None:
            raise ValueError(f"{token} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def rlx(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    monkeypatch.setenv("RLX_CACHE_DIR", str(tmp_path / "cache"))

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = invoke([str(a) for a in arguments])
        written = capsys.readouterr()
        return Outcome(code, written.out, written.err)

    return call


@pytest.fixture
def affine(tmp_path: Path) -> Path:
    """y = x * 2 + 1 for f32 x [2, 3], and a count i64 [] that is passed on."""
    b = GraphBuilder("affine")
    x, n = b.input("x", TensorType((2, 3), f32)), b.input("n", TensorType((), i64))
    path = tmp_path / "affine.rlx.txt"
    path.write_text(print_graph(b.build({"y": b.binary("add", b.binary("mul", x, 2.0), 1.0), "m": b.emit("neg", n)})))
    return path


@pytest.fixture
def open_model(tmp_path: Path) -> Path:
    """y = exp(x) for f32 x [batch, 4]."""
    b = GraphBuilder("open")
    x = b.input("x", TensorType((Dim("batch", 1), 4), f32))
    path = tmp_path / "open.rlx.txt"
    path.write_text(print_graph(b.build({"y": b.emit("exp", x)})))
    return path


@pytest.fixture
def x_file(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6, dtype=np.float32).reshape(2, 3))
    return path
