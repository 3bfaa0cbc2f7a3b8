"""Native functions as built-in functions of Python: a call costs a quarter of one through ctypes.

CPython calls what a `Method` describes, as it calls a C extension's functions; this layout and `PyCFunction_NewEx` are
in its stable ABI. The native function takes the object that it is bound to and its argument (null where it takes none),
with the GIL held, and gives a new reference, or null with an exception set.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

NO_ARGUMENT, ONE_ARGUMENT = 4, 8  # METH_NOARGS, METH_O

_NAME = ctypes.create_string_buffer(b"native")


class Method(ctypes.Structure):
    """What CPython reads of a built-in function at each call; `name` and `function` are addresses."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("documentation", ctypes.c_void_p),
    )


#: 64-bit words that a `Method` takes.
METHOD_WORDS = 4


def built_in(address: int, flags: int, owner: np.ndarray, word: int) -> Callable[..., Any]:
    """The native function at `address` as a built-in function, bound to `owner`, an int64 array, which it keeps.

    flags: NO_ARGUMENT or ONE_ARGUMENT. The function's `Method` lies in `owner`, METHOD_WORDS from `word` on, and so
    lives as long as the function. The code must outlive its last call.
    """
    place = owner[word : word + METHOD_WORDS]
    method = Method(ctypes.addressof(_NAME), address, flags, None)
    place[:] = np.frombuffer(bytes(method), np.int64)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.argtypes, make.restype = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p), ctypes.py_object
    return make(place.ctypes.data, owner, None)


def address_of(name: str) -> int:
    """The address of a function of CPython's C API."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0
