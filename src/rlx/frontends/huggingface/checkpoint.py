"""The weights of a directory: one `model.safetensors`, or the shards that `model.safetensors.index.json` lists.

Shards are opened once each. The index must agree with what they hold and must name files of the directory itself,
though these may be links, as the hub's cache makes them.

Errors. ModelNotFound where there are no weights or a shard is missing; ExternalDataRefused for a shard outside the
directory; InvalidModel where the index and a shard disagree; and what `open_safetensors` raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rlx.errors import ExternalDataRefused, InvalidModel, ModelNotFound
from rlx.frontends.huggingface.config import read_json
from rlx.frontends.huggingface.safetensors import open_safetensors

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def open_checkpoint(directory: Path) -> Mapping[str, np.ndarray]:
    """All weights by name, memory-mapped and read-only. Raises as the module says."""
    if (directory / _SINGLE).is_file():
        return open_safetensors(directory / _SINGLE).tensors
    if (directory / _INDEX).is_file():
        return _open_shards(directory)
    others = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".h5", ".msgpack"))
    raise ModelNotFound(
        f"directory {str(directory)!r} has no {_SINGLE}",
        hint=f"it holds {', '.join(others)}: save the model again with safe_serialization=True" if others else None,
    )


def _open_shards(directory: Path) -> Mapping[str, np.ndarray]:
    index = read_json(directory / _INDEX)
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(shard, str) for shard in placed.values()):
        raise InvalidModel(f"{_INDEX} must have a weight_map from tensor names to file names", where=str(directory))
    shards: dict[str, Mapping[str, np.ndarray]] = {}
    for shard in sorted(set(placed.values())):
        if Path(shard).name != shard:
            raise ExternalDataRefused(f"{_INDEX} names the shard {shard!r}, expected a file name in {str(directory)!r}")
        shards[shard] = open_safetensors(directory / shard).tensors
    for name, shard in placed.items():
        if name not in shards[shard]:
            raise InvalidModel(f"{_INDEX} places {name!r} in {shard!r}, which does not hold it", where=str(directory))
    return {name: shards[shard][name] for name, shard in placed.items()}
