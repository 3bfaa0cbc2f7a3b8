"""Map a linked image into this process and call into it.

An `Image` owns its pages: code is mapped readable and executable, never writable at the same time; data after it is
writable. It lives as long as the object; worker threads that sit in an image's code keep that image alive (see
pool.py). Symbols that the code imports are looked up in libc and libm. No LLVM is needed, only ctypes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from functools import cache

from rlx.errors import RLXError


class ImageError(RLXError, OSError):
    """Code cannot be mapped, or imports a function that this system does not have."""

    code = "RLX-D060"


@cache
def _libraries() -> tuple[ctypes.CDLL, ...]:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        return (libc, ctypes.CDLL("libm.so.6"))
    except OSError:
        return (libc,)


def _external(name: str) -> int:
    for library in _libraries():
        try:
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
        except AttributeError:
            continue
    raise ImageError(f"compiled code needs the C function {name!r}, which this system's libc and libm do not have")


class Image:
    """Native code in memory.

    data, code_bytes, functions, externals, absolute: as in `rlx.backends.cpu.linker.LinkedImage`.
    Raises ImageError where the system refuses executable memory or lacks an imported function.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        code_bytes: int,
        functions: Mapping[str, int],
        externals: Mapping[str, int],
        absolute: Sequence[tuple[int, int]],
    ) -> None:
        self._pages = mmap.mmap(-1, max(len(data), 1), prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._pages[: len(data)] = bytes(data)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        self.functions = dict(functions)
        for name, slot in externals.items():
            self._set(slot, _external(name))
        for slot, target in absolute:
            self._set(slot, self.address + target)
        libc = _libraries()[0]
        protect = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(self.address), ctypes.c_size_t(code_bytes), protect) != 0:
            raise ImageError(
                "the system refuses to make compiled code executable",
                where=f"mprotect failed with errno {ctypes.get_errno()}",
                hint="a hardened kernel or container forbids it; allow executable anonymous memory for this process",
            )

    def _set(self, slot: int, value: int) -> None:
        self._pages[slot : slot + 8] = value.to_bytes(8, "little")

    def function(self, name: str) -> int:
        """The address of a function. Raises KeyError for an unknown one."""
        return self.address + self.functions[name]
