"""Donated inputs: what a program may overwrite, and what a caller must give for that.

A program compiled with `donate` may use a donated input's bytes as its own: overwrite them once it needs them no more,
and compute an output of the same type in them. That is a permission; what the caller promises and loses is the same on
every backend. An array must be one that can be written in place, and what it holds afterwards is unspecified; a Buffer
is consumed by every call that is not refused, whether its run succeeds or not. Nothing else that the
program reads or writes may lie in the same bytes. Whoever else holds them (the array below a Buffer, a Buffer that was
retained) sees them change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from rlx.driver import Buffer
from rlx.errors import DonationError, UnknownInput, nearest


def known_names(donate: Iterable[str], inputs: Collection[str]) -> tuple[str, ...]:
    """The names, each once, in the inputs' order. Raises UnknownInput for one that is no input."""
    names = {donate} if isinstance(donate, str) else set(donate)
    for name in sorted(names.difference(inputs)):
        close = nearest(name, inputs)
        raise UnknownInput(
            f"donate names {name!r}, which is no input; the inputs are: {', '.join(inputs) or 'none'}",
            hint=f"did you mean {close!r}?" if close else None,
        )
    return tuple(name for name in inputs if name in names)


def check_arrays(
    donated: Collection[str], given: Mapping[str, Any], inputs: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]
) -> None:
    """Raises DonationError where a donated array cannot be overwritten, or shares bytes with another input or output.

    given: what the caller gave. inputs: the same as arrays that fit the program.
    """
    for name in donated:
        array = inputs[name]
        if array is not given[name] or not array.flags.writeable:
            raise DonationError(
                f"input {name!r} is donated, but it is not a writable, aligned, C-contiguous NumPy array",
                hint="donate a copy: np.array(it, order='C')",
            )
        for what, other in (*_named("input", inputs), *_named("out", out)):
            if what != f"input {name!r}":
                _refuse_shared(name, what, np.may_share_memory(array, other))


def check_buffers(donated: Collection[str], inputs: Mapping[str, Buffer], out: Mapping[str, Buffer]) -> None:
    """As `check_arrays`, for contiguous Buffers; and a donated one must own its bytes."""
    for name in donated:
        buffer = inputs[name]
        if buffer.readonly or buffer.is_view:
            state = "read-only" if buffer.readonly else "a view, which does not own its bytes"
            raise DonationError(f"input {name!r} is donated, but it is {state}", hint="donate a copy: buffer.copy()")
        for what, other in (*_named("input", inputs), *_named("out", out)):
            if what != f"input {name!r}":
                _refuse_shared(name, what, overlap(buffer, other))


def overlap(one: Buffer, two: Buffer) -> bool:
    """Whether two contiguous buffers of one device share a byte."""
    return one.address < two.address + two.nbytes and two.address < one.address + one.nbytes


def _named(kind: str, values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((f"{kind} {name!r}", value) for name, value in values.items())


def _refuse_shared(name: str, what: str, shared: bool) -> None:
    if shared:
        raise DonationError(f"input {name!r} is donated, but {what} lies in the same memory", hint="give a copy")
