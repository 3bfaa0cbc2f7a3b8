"""What decides a decoded model's graphs: a digest of its content, but for sizes and the values of weights.

It is made of the content in memory, not of the file's name, size or time, so no file can pass for another one. Weights
are the outermost graph's initializers that become parameters (`rlx.frontends.onnx.scope.is_weight`); of these name,
dtype and shape count. All else counts in full, other tensors' bytes among it.

An import may look at the values of weights (`PartialBuilder.data_of`); its graph then has no identity. Whether it looks
follows from what the digest is made of, so two models of one digest both do or both do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from rlx.frontends.onnx.node import REQUIRED, DecodedModel
from rlx.frontends.onnx.scope import is_weight
from rlx.ir.dim import Dim
from rlx.ir.location import Location
from rlx.ir.types import TensorType


def weights_of(model: DecodedModel) -> Mapping[str, np.ndarray]:
    """The initializers that are weights, by name."""
    return {name: data for name, data in model.graph.initializers.items() if is_weight(data)}


def identity_of(model: DecodedModel) -> str:
    """The digest. Raises TypeError for a kind of content that it does not know."""
    weights = set(map(id, weights_of(model).values()))
    digest = hashlib.sha256()
    for piece in _pieces(model, weights):
        digest.update(len(piece).to_bytes(8, "little"))  # so that no two contents run into the same bytes
        digest.update(piece)
    return digest.hexdigest()


def _pieces(content: Any, weights: Collection[int]) -> Iterator[bytes]:
    """Content as bytes: what kind it is, how many parts it has, and its parts. weights: `id`s of arrays."""
    if isinstance(content, np.ndarray):
        yield f"array {content.dtype.name} {content.shape}".encode()
        if id(content) not in weights:
            yield content.tobytes()
    elif isinstance(content, Location):
        yield b"location"  # for messages alone
    elif isinstance(content, TensorType):
        yield f"type {content.dtype.name}".encode()
        yield from _pieces(content.shape, weights)
    elif isinstance(content, Dim):
        yield f"dim {content!s} {content.lo} {content.hi}".encode()
    elif content is REQUIRED:
        yield b"required"
    elif isinstance(content, tuple):
        yield f"tuple {len(content)}".encode()
        for part in content:
            yield from _pieces(part, weights)
    elif isinstance(content, Mapping):
        yield f"mapping {len(content)}".encode()
        for key, part in content.items():
            yield from _pieces(key, weights)
            yield from _pieces(part, weights)
    elif is_dataclass(content) and not isinstance(content, type):
        yield type(content).__name__.encode()
        for field in fields(content):
            yield from _pieces(getattr(content, field.name), weights)
    elif content is None or isinstance(content, bool | int | float | str | bytes):
        yield f"{type(content).__name__} {content!r}".encode()
    else:
        raise TypeError(f"no digest of {type(content)}")
