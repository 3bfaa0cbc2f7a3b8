"""One element of a dtype, from a number: what fills write."""

from __future__ import annotations

import cmath

import numpy as np

from rlx.errors import BufferMismatch
from rlx.ir.dtypes import DType


def element_of(dtype: DType, value: complex | np.generic) -> np.ndarray:
    """`value` as an array without axes.

    Floats are rounded, but no finite number to an infinity; integers and bools take only what they hold exactly.
    Raises BufferMismatch for any other number, and for what is not one number.
    """
    if np.ndim(value) or isinstance(value, str | bytes):
        raise BufferMismatch(f"{dtype} cannot hold {value!r}: it is not one number")
    if isinstance(value, complex | np.complexfloating) and not dtype.is_complex:
        raise BufferMismatch(f"{dtype} cannot hold {value!r}: it is complex")
    try:
        number = complex(value)  # raises for what is no number
        with np.errstate(all="ignore"):
            element = np.array(value, dtype.numpy)
    except (OverflowError, TypeError, ValueError) as error:
        raise BufferMismatch(f"{dtype} cannot hold {value!r}: {error}") from None
    held = complex(element[()])
    if dtype.is_float or dtype.is_complex:
        fits = cmath.isinf(held) == cmath.isinf(number) and cmath.isnan(held) == cmath.isnan(number)
    else:
        fits = bool(element == value)
    if not fits:
        raise BufferMismatch(f"{dtype} cannot hold {value!r}: it would become {element}")
    return element
