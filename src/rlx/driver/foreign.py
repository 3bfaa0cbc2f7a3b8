"""Bytes that belong to others: arrays, tensors and files that a buffer can stand over without copying."""

from __future__ import annotations

from typing import NamedTuple

from rlx.driver.layout import Strides, byte_range
from rlx.driver.memory import Block, DeviceMemory
from rlx.ir.types import TensorType


class ForeignBytes(NamedTuple):
    """Where they are and what they hold.

    address: of the first element. strides: bytes. keep: what holds the bytes. name: as messages tell it.
    """

    memory: DeviceMemory
    address: int
    type: TensorType
    strides: Strides
    readonly: bool
    keep: object
    name: str

    def block(self, *, is_file: bool = False) -> Block:
        """All bytes that the elements touch."""
        low, high = byte_range(self.type.sizes, self.strides, self.type.dtype.itemsize)
        return Block(self.memory, self.address + low, high - low, keep=self.keep, is_file=is_file)
