"""Every choice a user can make, in one dataclass; and the only reader of environment variables.

An option is honoured or refused, never ignored: a backend that cannot do what an option asks raises `OptionError`.
Environment variables only set defaults, at the time an `Options` is made:

    RLX_CACHE_DIR    directory of the compile cache (default: the user's cache directory + /rlx)
    RLX_CACHE        0 turns the disk cache off
    RLX_CACHE_BYTES  bound on the disk cache's size (default 2 GiB)
    RLX_THREADS      threads that run a program (default: the processors this process may use)
    RLX_VERIFY       1 runs the verifier after every pass
    RLX_TARGET       native (default) or another of TARGETS: the CPU's instruction set
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from rlx.errors import RLXError

Precision = Literal["f32", "bf16", "int8-dynamic"]
PRECISIONS = ("f32", "bf16", "int8-dynamic")
Convolution = Literal["direct", "winograd-2x2", "winograd-4x4"]
CONVOLUTIONS = ("direct", "winograd-2x2", "winograd-4x4")
TARGETS = ("native", "avx512", "avx512_bf16", "amx_bf16", "avx512_vnni", "amx_int8", "avx2", "portable", "neon")


class OptionError(RLXError, ValueError):
    """An option has a value that RLX, or the chosen backend, cannot honour."""

    code = "RLX-R030"


def _flag(name: str, default: bool) -> bool:
    text = os.environ.get(name, "")
    if text not in ("", "0", "1"):
        raise OptionError(f"environment variable {name} is {text!r}, expected 0 or 1")
    return default if text == "" else text == "1"


def _count(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text == "":
        return default
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"environment variable {name} is {text!r}, expected a whole number above 0")
    return int(text)


def _cache_dir() -> Path:
    given = os.environ.get("RLX_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlx"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to compile and run.

    threads: threads that run one program, the caller's included; at most the processors this process may use is wise,
        more is allowed. Results do not depend on it.
    affinity: the processor of each of a run's threads, by the system's numbers, as in (4, 5, 6, 7): at least `threads`
        of them, all different. The first is for the caller's thread, which RLX leaves where it is and never binds; the
        workers are bound to the others, and so stay out of its way. None: the system chooses. Results do not depend on
        it. Refused by devices without such threads.
    precision: "f32": every op computes in the dtype that the model names. "bf16": products and convolutions of
        activations with weights take their operands rounded to bf16 and sum in f32. "int8-dynamic": products take them
        in 8 bits, scaled by rows and by columns, and sum exactly. See `rlx.passes.precision`; only "f32" is ever the
        default.
    convolution: "direct": each output is the sum of its products. "winograd-2x2", "winograd-4x4": f32 convolutions of
        3 x 3 may be computed in tiles of up to so many outputs by Winograd's minimal filtering, where that is faster:
        with fewer products, other rounding errors, and NaN around what is not finite. See docs/backends.md; only
        "direct" is ever the default.
    target: CPU instruction set: "native" is what this machine has; the others are refused where it lacks them. Devices
        that are no CPU have none to choose.
    optimize: False keeps the graph as it is written, each op its own kernel (for comparing).
    cache: keep compiled programs on disk, in `cache_dir`, at most `cache_bytes` in all.
    verify: run the verifier after every pass.
    host_fallback: let the host run what the device cannot express, with copies each way; the report's dispatch names
        every such op. A device that can run everything, as the CPU, has nothing to leave to it.
    tune: measure, before a program is compiled, which schedules its kernels run fastest under on this machine and with
        these threads; what was measured is kept beside the compile cache and never measured again. Results do not
        depend on it. Refused by devices that have nothing to tune.
    tune_seconds: about how long that may take for one program. What there was no time for is left as it is, and
        measured by the next compilation.
    debug_memory: red zones around every value in the arena, poison in all memory, checked after each run.

    Raises OptionError where a value cannot be honoured.
    """

    threads: int = field(default_factory=lambda: _count("RLX_THREADS", available_processors()))
    affinity: tuple[int, ...] | None = None
    precision: Precision = "f32"
    convolution: Convolution = "direct"
    target: str = field(default_factory=lambda: os.environ.get("RLX_TARGET") or "native")
    optimize: bool = True
    cache: bool = field(default_factory=lambda: _flag("RLX_CACHE", True))
    cache_dir: Path = field(default_factory=_cache_dir)
    cache_bytes: int = field(default_factory=lambda: _count("RLX_CACHE_BYTES", 2 << 30))
    verify: bool = field(default_factory=lambda: _flag("RLX_VERIFY", False))
    host_fallback: bool = False
    tune: bool = False
    tune_seconds: float = 60.0
    debug_memory: bool = False

    def __post_init__(self) -> None:
        if type(self.threads) is not int or not 1 <= self.threads <= 256:
            raise OptionError(f"threads is {self.threads!r}, expected a whole number from 1 to 256")
        if self.affinity is not None:
            self._check_affinity(self.affinity)
        if self.precision not in PRECISIONS:
            raise OptionError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if self.convolution not in CONVOLUTIONS:
            raise OptionError(f"convolution is {self.convolution!r}, expected one of {', '.join(CONVOLUTIONS)}")
        if self.target not in TARGETS:
            raise OptionError(f"target is {self.target!r}, expected one of {', '.join(TARGETS)}")
        if type(self.cache_bytes) is not int or self.cache_bytes < 1:
            raise OptionError(f"cache_bytes is {self.cache_bytes!r}, expected a whole number above 0")
        if type(self.tune_seconds) not in (int, float) or not self.tune_seconds > 0:
            raise OptionError(f"tune_seconds is {self.tune_seconds!r}, expected seconds above 0")
        for name in ("optimize", "cache", "verify", "host_fallback", "tune", "debug_memory"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(f"{name} is {getattr(self, name)!r}, expected True or False")
        if not isinstance(self.cache_dir, str | os.PathLike):
            raise OptionError(f"cache_dir is {self.cache_dir!r}, expected a path")
        object.__setattr__(self, "cache_dir", Path(self.cache_dir))

    def _check_affinity(self, given: Iterable[int]) -> None:
        numbers = tuple(given) if isinstance(given, Iterable) else (given,)
        if not all(type(n) is int and n >= 0 for n in numbers) or len(set(numbers)) < len(numbers):
            raise OptionError(f"affinity is {given!r}, expected different processor numbers")
        if len(numbers) < self.threads:
            raise OptionError(
                f"affinity names {len(numbers)} processors for {self.threads} threads",
                hint=f"threads={len(numbers)}" if numbers else "leave affinity out",
            )
        object.__setattr__(self, "affinity", numbers)

    def key(self) -> dict[str, str]:
        """The options that change compiled code, as named parts of a cache key."""
        skip = {"affinity", "cache", "cache_dir", "cache_bytes", "verify", "tune_seconds"}
        if not self.tune:  # what was measured holds for so many threads
            skip.add("threads")
        return {f.name: str(getattr(self, f.name)) for f in fields(self) if f.name not in skip}


def available_processors() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
