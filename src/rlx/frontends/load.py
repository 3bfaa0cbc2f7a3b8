"""`rlx.load`: from a path to a model, whatever kind of file it is.

The kind is told from content where content tells, from the name otherwise: a directory with `config.json` is a
Hugging Face model, a `.rlx.txt` file is RLX text, a `.onnx` file or a file that begins as an ONNX protobuf does is
ONNX. A frontend is imported when a file of its kind is loaded.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from rlx import ir
from rlx.errors import DamagedModel, FrontendError, ModelNotFound, NotAModel, RLXError, nearest
from rlx.frontends.model import Model
from rlx.ir.graph import Graph

_KINDS = "an .onnx file, a Hugging Face directory (config.json and *.safetensors), or RLX text (.rlx.txt)"
#: ONNX protobufs begin with field 1 (ir_version, a varint), RLX text with its keyword.
_ONNX_MAGIC = b"\x08"


def load(path: str | os.PathLike[str]) -> Model | Graph:
    """The model in the file or directory `path`; a `Graph` where it is RLX text.

    Nothing is compiled or copied to a device. Raises ModelNotFound, NotAModel, DamagedModel or another FrontendError
    from the frontend, FrontendError itself where the system refuses to read; TextError for RLX text that does not
    parse.
    """
    try:
        return _load(Path(path), path)
    except RLXError:
        raise
    except OSError as error:
        raise FrontendError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error


def _load(place: Path, path: str | os.PathLike[str]) -> Model | Graph:
    if not place.exists():
        raise ModelNotFound(f"there is no file or directory {str(path)!r}", hint=_siblings(place))
    if place.is_dir():
        return _load_directory(place)
    if not place.is_file():
        raise NotAModel(f"{str(path)!r} is a device, a pipe or a socket, expected a file")
    name = place.name.lower()
    if name.endswith(".rlx.txt"):
        return ir.parse_text(_text(place))
    with place.open("rb") as file:
        head = file.read(1)
    if name.endswith(".onnx") or head == _ONNX_MAGIC:
        return _frontend("onnx").load_onnx(place)
    raise NotAModel(f"{str(path)!r} is not a model that RLX reads", hint=f"expected {_KINDS}")


def _text(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedModel(f"{str(place)!r} is not UTF-8 at byte {error.start}") from None


def _load_directory(place: Path) -> Model:
    if (place / "config.json").is_file():
        return _frontend("huggingface").load_huggingface(place)
    models = sorted(p.name for p in place.glob("*.onnx"))
    raise NotAModel(
        f"directory {str(place)!r} has no config.json, so it is not a Hugging Face model",
        hint=f"it holds {', '.join(models[:5])}: load one of these files" if models else f"expected {_KINDS}",
    )


def _frontend(module: str):  # a module: its functions are looked up by the caller
    return import_module(f"rlx.frontends.{module}")


def _siblings(place: Path) -> str | None:
    folder = place.parent
    if not folder.is_dir():
        return f"the folder {str(folder)!r} does not exist either"
    close = nearest(place.name, [p.name for p in folder.iterdir()])
    return f"did you mean {str(folder / close)!r}?" if close else None
