"""ONNX tensors -> NumPy arrays, without copies where the file's layout allows it.

Large arrays of `raw_data`, and all of external data, look at a map of their file (`rlx.driver.file_map`) and need not
be aligned; all arrays are read-only. External data is read only from inside the model's own folder: an absolute path, a
`..` or a link that leads out is refused, for a model file is not trusted to name other files of this machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rlx.driver.file_map import map_open_file
from rlx.errors import DamagedModel, ExternalDataRefused, ModelNotFound, UnsupportedModel
from rlx.frontends.onnx.schema import EXTERNAL, ElementType
from rlx.frontends.onnx.wire import Message
from rlx.ir import dtypes
from rlx.ir.dtypes import DType

_T = ElementType
_DTYPES: Mapping[int, DType] = {
    _T.FLOAT: dtypes.f32,
    _T.UINT8: dtypes.u8,
    _T.INT8: dtypes.i8,
    _T.UINT16: dtypes.u16,
    _T.INT16: dtypes.i16,
    _T.INT32: dtypes.i32,
    _T.INT64: dtypes.i64,
    _T.BOOL: dtypes.bool_,
    _T.FLOAT16: dtypes.f16,
    _T.DOUBLE: dtypes.f64,
    _T.UINT32: dtypes.u32,
    _T.UINT64: dtypes.u64,
    _T.COMPLEX64: dtypes.c64,
    _T.COMPLEX128: dtypes.c128,
    _T.BFLOAT16: dtypes.bf16,
    _T.FLOAT8E4M3FN: dtypes.f8e4m3,
    _T.FLOAT8E5M2: dtypes.f8e5m2,
    _T.UINT4: dtypes.u4,
    _T.INT4: dtypes.i4,
}
#: Types whose elements `int32_data` holds as bit patterns.
_BIT_PATTERNS = {dtypes.f16: np.uint16, dtypes.bf16: np.uint16, dtypes.f8e4m3: np.uint8, dtypes.f8e5m2: np.uint8}


def dtype_of(code: int, *, what: str) -> DType:
    """The dtype with ONNX's number `code`; `what` has it. Raises UnsupportedModel for types that RLX does not have."""
    dtype = _DTYPES.get(code)
    if dtype is None:
        name = next((t.name for t in ElementType if t == code), code)
        raise UnsupportedModel(f"{what} has ONNX element type {name}, which RLX does not have")
    return dtype


def to_array(tensor: Message, folder: Path) -> np.ndarray:
    """The array of an ONNX tensor of the model in `folder`; read-only.

    Raises DamagedModel where the bytes do not fill the shape, ExternalDataRefused and ModelNotFound for external data,
    UnsupportedModel for element types.
    """
    what = f"tensor {tensor.name!r}" if tensor.name else "a constant tensor"
    dtype = dtype_of(tensor.data_type, what=what)
    shape = tuple(map(int, tensor.dims))
    if any(n < 0 for n in shape):
        raise DamagedModel(f"{what} has the shape {shape}, with a negative size")
    count = math.prod(shape)
    if tensor.data_location == EXTERNAL:
        return _external(tensor, dtype, shape, count, folder, what)
    if tensor.HasField("raw_data"):
        array = _from_bytes(np.frombuffer(tensor.raw_data, dtype=np.uint8), dtype, count, what)
    else:
        array = _from_fields(tensor, dtype, count, what)
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _from_bytes(raw: np.ndarray, dtype: DType, count: int, what: str) -> np.ndarray:
    packed = dtype in (dtypes.i4, dtypes.u4)
    expected = (count + 1) // 2 if packed else count * dtype.itemsize
    if raw.size != expected:
        raise DamagedModel(f"{what} has {raw.size} bytes of data, its shape and type need {expected}")
    return _unpack_nibbles(raw, dtype, count) if packed else raw.view(dtype.numpy)


def _unpack_nibbles(raw: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Two elements a byte, low half first."""
    halves = np.stack([raw & 0xF, raw >> 4], axis=-1).reshape(-1)[:count].astype(np.int8)
    signed = np.where(halves > 7, halves - 16, halves) if dtype is dtypes.i4 else halves
    return signed.astype(dtype.numpy)


def _from_fields(tensor: Message, dtype: DType, count: int, what: str) -> np.ndarray:
    if dtype is dtypes.f32 or dtype is dtypes.c64:
        array = np.array(tensor.float_data, dtype=np.float32).view(dtype.numpy)
    elif dtype is dtypes.f64 or dtype is dtypes.c128:
        array = np.array(tensor.double_data, dtype=np.float64).view(dtype.numpy)
    elif dtype is dtypes.i64:
        array = np.array(tensor.int64_data, dtype=np.int64)
    elif dtype in (dtypes.u64, dtypes.u32):
        array = np.array(tensor.uint64_data, dtype=np.uint64).astype(dtype.numpy)
    elif dtype in (dtypes.i4, dtypes.u4):
        array = _unpack_nibbles(np.array(tensor.int32_data, dtype=np.int64).astype(np.uint8), dtype, count)
    elif dtype in _BIT_PATTERNS:
        array = np.array(tensor.int32_data, dtype=np.int64).astype(_BIT_PATTERNS[dtype]).view(dtype.numpy)
    else:
        array = np.array(tensor.int32_data, dtype=np.int64).astype(dtype.numpy)
    if array.size != count:
        raise DamagedModel(f"{what} has {array.size} elements, its shape {tuple(tensor.dims)} needs {count}")
    return array


def _external(tensor: Message, dtype: DType, shape: tuple[int, ...], count: int, folder: Path, what: str) -> np.ndarray:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(entries.get("location", ""), folder, what)
    size = path.stat().st_size
    try:
        offset = int(entries.get("offset", "0") or 0)
        length = int(entries.get("length", "0") or 0) or size - offset
    except ValueError:
        raise DamagedModel(f"{what} has external data with offset or length that is no number: {entries}") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise DamagedModel(
            f"{what} needs bytes {offset} to {offset + length} of {path.name!r}, which has {size}",
            hint="the weights file is cut short, or belongs to another model",
        )
    if length == 0 or count == 0:
        return np.empty(shape, dtype.numpy)
    if dtype not in (dtypes.i4, dtypes.u4):
        # A file may hold more than the tensor needs only where no length is given.
        length = length if "length" in entries else min(length, count * dtype.itemsize)
    with path.open("rb") as file:
        raw = map_open_file(file, path).array(offset, offset + length)
    return _from_bytes(raw, dtype, count, what).reshape(shape)


def _inside(location: str, folder: Path, what: str) -> Path:
    """The file `location` names, made sure to lie inside `folder`."""
    refused = None
    home = folder.resolve()
    path = (home / location).resolve()
    if not location:
        refused = "names no file"
    elif Path(location).is_absolute() or "\\" in location or ":" in location:
        refused = f"names the path {location!r}, which is not relative"
    elif ".." in Path(location).parts or not path.is_relative_to(home):
        refused = f"names {location!r}, which lies outside the model's folder"
    if refused:
        raise ExternalDataRefused(
            f"external data of {what} {refused}",
            where=f"the model's folder is {str(folder)!r}",
            hint="weights are read only from the model's own folder; move the file there",
        )
    if not path.is_file():
        raise ModelNotFound(f"external data of {what} is in {location!r}, which is not in {str(folder)!r}")
    return path
