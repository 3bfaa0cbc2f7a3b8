"""The file of goldens: for each primitive, inputs, attributes and what an outside reference answers.

One npz with two entries: `bytes`, all distinct arrays after one another, and `index`, a JSON text that holds the
arrays' places and the cases. `make_op_goldens.py` writes it, `test_ops_goldens.py` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlx.ir.dtypes import DType, by_name, from_numpy

PATH = Path(__file__).parent / "data" / "ops.npz"


@dataclass(frozen=True)
class Golden:
    """One case: the op, what goes in, and what must come out."""

    op: str
    arrays: tuple[np.ndarray, ...]
    attrs: Mapping[str, Any]
    expected: tuple[np.ndarray, ...]


def save(cases: list[Golden]) -> None:
    places: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def place(array: np.ndarray) -> int:
        return places.setdefault((from_numpy(array.dtype).name, array.shape, array.tobytes()), len(places))

    def encode(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {"array": place(value)}
        if isinstance(value, DType):
            return {"dtype": value.name}
        return [encode(v) for v in value] if isinstance(value, tuple) else value

    listed = [
        [
            case.op,
            [place(x) for x in case.arrays],
            {name: encode(value) for name, value in case.attrs.items()},
            [place(x) for x in case.expected],
        ]
        for case in cases
    ]
    arrays = [[dtype, shape] for dtype, shape, _ in places]
    np.savez_compressed(
        PATH,
        bytes=np.frombuffer(b"".join(data for _, _, data in places), np.uint8),
        index=np.frombuffer(json.dumps({"arrays": arrays, "cases": listed}).encode(), np.uint8),
    )


def load() -> list[Golden]:
    with np.load(PATH) as file:
        data, index = file["bytes"].tobytes(), json.loads(file["index"].tobytes())
    arrays: list[np.ndarray] = []
    offset = 0
    for name, shape in index["arrays"]:
        dtype = by_name(name).numpy
        count = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(data, dtype, count, offset).reshape(shape))
        offset += count * dtype.itemsize

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            return arrays[value["array"]] if "array" in value else by_name(value["dtype"])
        return tuple(decode(v) for v in value) if isinstance(value, list) else value

    return [
        Golden(
            op,
            tuple(arrays[i] for i in given),
            {name: decode(value) for name, value in attrs.items()},
            tuple(arrays[i] for i in expected),
        )
        for op, given, attrs, expected in index["cases"]
    ]
