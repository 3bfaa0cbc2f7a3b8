"""What a model is run on: arrays from files, and random ones for the rest.

Random inputs are a function of the seed, the input's name and its type: the same on every machine, whatever else is
given. Floats and complex numbers are standard normal, integers are 0 or 1 (valid for masks and as indices of any table
with two rows), booleans are fair coins.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlx.errors import UsageError, nearest
from rlx.ir import TensorType


@dataclass(frozen=True)
class Feed:
    """One input: its array and where that came from, in words."""

    array: np.ndarray
    origin: str


def read_arrays(given: Sequence[str]) -> dict[str, Feed]:
    """From texts NAME=FILE.npy. Raises UsageError for bad syntax, an unreadable file or a name given twice."""
    found: dict[str, Feed] = {}
    for text in given:
        name, file = _split(text, "--input", "NAME=FILE.npy")
        if name in found:
            raise UsageError(f"--input gives {name!r} twice")
        path = Path(file)
        try:
            array = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise UsageError(f"--input {name}: there is no file {file!r}") from None
        except (ValueError, OSError, EOFError) as error:
            raise UsageError(f"--input {name}: {file!r} is no array that NumPy reads: {error}") from None
        if not isinstance(array, np.ndarray):
            raise UsageError(f"--input {name}: {file!r} is an archive, expected one .npy array")
        found[name] = Feed(array, file)
    return found


def read_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """From texts NAME=1,128; an empty list of sizes is a scalar. Raises UsageError for bad syntax or a name twice."""
    found: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, sizes = _split(text, "--shape", "NAME=1,128")
        if name in found:
            raise UsageError(f"--shape gives {name!r} twice")
        parts = [part.strip() for part in sizes.split(",")] if sizes.strip() else []
        if not all(part.isdecimal() for part in parts):
            raise UsageError(f"--shape {name}: {sizes!r} is no list of sizes", hint=f"for example --shape {name}=1,128")
        found[name] = tuple(int(part) for part in parts)
    return found


def _split(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} {text!r} is not of the form {form}")
    return name, value


def check_names(given: Mapping[str, object], inputs: Mapping[str, TensorType], option: str) -> None:
    """Raises UsageError where `option` names what is no input."""
    for name in given:
        if name not in inputs:
            close = nearest(name, inputs)
            raise UsageError(
                f"{option} names {name!r}, which is no input of the model; it has: {', '.join(inputs) or 'none'}",
                hint=f"did you mean {close!r}?" if close else None,
            )


def complete(given: Mapping[str, Feed], inputs: Mapping[str, TensorType], seed: int) -> dict[str, Feed]:
    """A feed for every input, in the model's order: the given one, or a random one.

    Raises UsageError where there is no memory for it.
    """
    try:
        return {name: given[name] if name in given else _random(name, type, seed) for name, type in inputs.items()}
    except MemoryError:
        sizes = ", ".join(f"{name!r} of {type}" for name, type in inputs.items())
        raise UsageError(f"there is no memory for random inputs: {sizes}") from None


def _random(name: str, type: TensorType, seed: int) -> Feed:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shape, dtype = type.sizes, type.dtype
    if dtype.is_float or dtype.is_complex:
        values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype.is_complex else 0)
        return Feed(np.asarray(values, dtype.numpy), f"random normal, seed {seed}")
    return Feed(np.asarray(rng.integers(0, 2, shape), dtype.numpy), f"random 0 or 1, seed {seed}")
