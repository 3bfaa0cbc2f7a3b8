"""Where the elements of a memory are in a shader, and what loads and stores one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rlx.codegen.wgsl.types import decode, encode, is_packed
from rlx.ir.dtypes import DType

#: Binds an expression to a fresh name and gives the name.
Named = Callable[[str], str]


@dataclass(frozen=True)
class Place:
    """A memory: its array's name, and the first element's place in it.

    packed: elements share the array's words; atomic: which are then atomic, as the shader writes them.
    private: a local array of the invocation's own places; the element is always that of the turn at hand, or the only
        one there is. spilled: the element's type, of an array that stands in the scratch binding, which has every
        `lanes`-th word from an invocation's own, `flat`, on.
    """

    name: str
    dtype: DType
    packed: bool = False
    atomic: bool = False
    base: int = 0
    private: Literal["", "turn", "one"] = ""
    spilled: str = ""
    lanes: int = 0

    @staticmethod
    def of_argument(name: str, dtype: DType, *, atomic: bool, base: int) -> Place:
        return Place(name, dtype, is_packed(dtype), atomic, base)

    def load(self, at: str, named: Named) -> str:
        """The element at `at`, as a value."""
        if self.packed:
            word, shift = self._word(at, named)
            bits = f"atomicLoad(&{self.name}[{word}])" if self.atomic else f"{self.name}[{word}]"
            return decode(f"(({bits} >> {shift}) & {self._mask}u)", self.dtype)
        if self.spilled:
            return f"bitcast<{self.spilled}>({self.name}[({at}) * {self.lanes} + flat])"
        return f"{self.name}[{at}]"

    def store(self, at: str, value: str, named: Named) -> list[str]:
        """Lines that store a value at `at`; neighbours in a word keep theirs, whoever writes them meanwhile."""
        if self.packed:
            word, shift = self._word(at, named)
            bits = named(f"({encode(value, self.dtype)}) & {self._mask}u")
            return [
                f"atomicAnd(&{self.name}[{word}], ~({self._mask}u << {shift}));",
                f"atomicOr(&{self.name}[{word}], {bits} << {shift});",
            ]
        if self.spilled:
            return [f"{self.name}[({at}) * {self.lanes} + flat] = bitcast<u32>({value});"]
        return [f"{self.name}[{at}] = {value};"]

    @property
    def _mask(self) -> int:
        return (1 << (8 * self.dtype.itemsize)) - 1

    def _word(self, at: str, named: Named) -> tuple[str, str]:
        """Where a packed element lies: (word, shift)."""
        name = named(f"u32({at})")
        per = 4 // self.dtype.itemsize
        return f"{name} >> {1 if per == 2 else 2}u", f"(({name} & {per - 1}u) * {8 * self.dtype.itemsize}u)"
