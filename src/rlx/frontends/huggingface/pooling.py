"""Sentence embeddings: what `modules.json` of sentence-transformers adds after the encoder.

The modules form a chain: Transformer, then Pooling, then perhaps Normalize. Pooling makes one vector a sentence from
the token vectors [batch, sequence, hidden], with padding masked out; several modes are concatenated in the order of
`Modes`. Normalize divides by the Euclidean norm, which is at least 1e-12.

Errors. UnsupportedModel for a module or a mode that RLX has no rule for; InvalidModel where the files make no sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes

from rlx.errors import InvalidModel, UnsupportedModel
from rlx.frontends.huggingface.config import read_json

if TYPE_CHECKING:
    from rlx.ir.builder import GraphBuilder
    from rlx.ir.graph import Value

_PREFIX = "pooling_mode_"
_LEAST_NORM = 1e-12
_LEAST_COUNT = 1e-9


@dataclass(frozen=True)
class Pooling:
    """How token vectors become one vector: `modes` as the file names them, and whether the result is normalised."""

    modes: tuple[str, ...]
    normalize: bool


def read_pooling(directory: Path) -> Pooling | None:
    """What the directory says about sentence embeddings, None where it says nothing. Raises as the module says."""
    path = directory / "modules.json"
    if not path.is_file():
        return None
    modules = read_json(path)
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) and isinstance(m.get("path"), str) for m in modules
    ):
        raise InvalidModel("modules.json must list modules with a type and a path", where=str(path))
    kinds = [m["type"].rpartition(".")[2] for m in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModel(
            f"modules.json chains {', '.join(kinds) or 'nothing'}",
            where=str(path),
            hint="RLX reads Transformer, Pooling and an optional Normalize",
        )
    if modules[0]["path"] not in ("", "."):
        raise UnsupportedModel(f"modules.json keeps the encoder in {modules[0]['path']!r}", where=str(path))
    folder = modules[1]["path"]
    if Path(folder).name != folder:
        raise InvalidModel(f"modules.json keeps the pooling in {folder!r}, expected a folder's name", where=str(path))
    return Pooling(_read_modes(directory / folder / "config.json"), normalize=len(kinds) == 3)


def _read_modes(path: Path) -> tuple[str, ...]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InvalidModel("the pooling's config.json must hold an object", where=str(path))
    chosen = {key.removeprefix(_PREFIX) for key, on in config.items() if key.startswith(_PREFIX) and on is True}
    unknown = chosen - set(_MODES)
    if unknown or not chosen:
        raise UnsupportedModel(
            f"the pooling has the modes {', '.join(sorted(chosen)) or 'none'}",
            where=str(path),
            hint=f"RLX has: {', '.join(_MODES)}",
        )
    return tuple(mode for mode in _MODES if mode in chosen)


def sentence_embedding(b: GraphBuilder, pooling: Pooling, hidden: Value, mask: Value) -> Value:
    """One vector a sentence.

    hidden: token vectors, float [batch, sequence, hidden]. mask: bool [batch, sequence], False for padding.
    Returns [batch, hidden * number of modes], of the dtype of `hidden`.
    """
    spread = b.emit("broadcast_in_dim", mask, shape=hidden.type.shape, broadcast_dims=(0, 1))
    parts = [_MODES[mode](b, hidden, spread) for mode in pooling.modes]
    pooled = parts[0] if len(parts) == 1 else b.emit("concatenate", *parts, dimension=1)
    return _normalized(b, pooled) if pooling.normalize else pooled


def _cls(b: GraphBuilder, hidden: Value, mask: Value) -> Value:
    batch, _, width = hidden.type.shape
    first = b.emit("slice", hidden, starts=(0, 0, 0), limits=(batch, 1, width), strides=(1, 1, 1))
    return b.emit("reshape", first, shape=(batch, width))


def _max(b: GraphBuilder, hidden: Value, mask: Value) -> Value:
    least = b.full(hidden.type.shape, float(ml_dtypes.finfo(hidden.type.dtype.numpy).min), hidden.type.dtype)
    return b.emit("reduce_max", b.emit("select", mask, hidden, least), dimensions=(1,))


def _mean(b: GraphBuilder, hidden: Value, mask: Value) -> Value:
    total, count = _sums(b, hidden, mask)
    return b.emit("div", total, count)


def _mean_sqrt_len(b: GraphBuilder, hidden: Value, mask: Value) -> Value:
    total, count = _sums(b, hidden, mask)
    return b.emit("div", total, b.emit("sqrt", count))


def _sums(b: GraphBuilder, hidden: Value, mask: Value) -> tuple[Value, Value]:
    """The sum of the vectors that are no padding, and their number, both [batch, hidden]."""
    weight = b.convert(mask, hidden.type.dtype)
    total = b.emit("reduce_sum", b.emit("mul", hidden, weight), dimensions=(1,))
    count = b.emit("reduce_sum", weight, dimensions=(1,))
    return total, b.binary("max", count, _LEAST_COUNT)


def _normalized(b: GraphBuilder, x: Value) -> Value:
    squares = b.emit("reduce_sum", b.emit("mul", x, x), dimensions=(1,))
    norm = b.binary("max", b.emit("sqrt", squares), _LEAST_NORM)
    return b.emit("div", x, b.emit("broadcast_in_dim", norm, shape=x.type.shape, broadcast_dims=(0,)))


_MODES: dict[str, Callable[[GraphBuilder, Value, Value], Value]] = {
    "cls_token": _cls,
    "max_tokens": _max,
    "mean_tokens": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
}
