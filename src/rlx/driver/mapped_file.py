"""Files as memory: a range of a file's own pages, read as they are touched."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from rlx.driver.device import HOST
from rlx.driver.foreign import ForeignBytes
from rlx.driver.layout import dense_strides, layout_of
from rlx.driver.memory import device_memory
from rlx.errors import FileMapError
from rlx.ir.types import TensorType


def map_file(path: Path, type: TensorType, offset: int, *, writable: bool) -> ForeignBytes:
    """A file's bytes from byte `offset` on, row-major. writable: writes reach the file.

    A file that is cut short while it is mapped ends the process when the missing bytes are touched, as with any map.
    Raises FileMapError where the file cannot be opened or is too short.
    """
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        with path.open("r+b" if writable else "rb") as file:
            size = path.stat().st_size
            if offset < 0 or offset + type.nbytes > size:
                raise FileMapError(f"{path} has {size} bytes; {type} at byte {offset} needs {type.nbytes}")
            if type.nbytes == 0:  # an empty range cannot be mapped
                mapped = np.empty(0, np.uint8)
            else:
                access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
                mapping = mmap.mmap(file.fileno(), offset - start + type.nbytes, access=access, offset=start)
                mapped = np.frombuffer(mapping, np.uint8, type.nbytes, offset - start)
    except FileMapError:
        raise
    except (OSError, ValueError) as error:
        raise FileMapError(f"cannot map {path}: {error}") from error
    strides = dense_strides(type.sizes, type.dtype.itemsize)
    return ForeignBytes(
        device_memory(HOST), layout_of(mapped)[0], type, strides, not writable, mapped, f"the file {path}"
    )
