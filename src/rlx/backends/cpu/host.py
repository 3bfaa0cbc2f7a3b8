"""What the processor under us can do, found from the flags that the kernel reports.

Model names and numbers are not trusted (virtual machines mask them); a feature counts only when its flag is there,
which also says that the operating system saves its registers. Nothing heavy is imported: the compile cache asks this
module for its key.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from rlx.options import OptionError

_AVX2 = frozenset("avx2 fma f16c bmi1 bmi2 movbe abm popcnt".split())
_AVX512 = _AVX2 | frozenset("avx512f avx512bw avx512dq avx512vl avx512cd".split())
#: Flags of /proc/cpuinfo that each x86-64 instruction set needs; the widest first.
REQUIRED_FLAGS: dict[str, frozenset[str]] = {"avx512": _AVX512, "avx2": _AVX2, "portable": frozenset()}
_PAIRS, _FOURS = _AVX512 | {"avx512_bf16"}, _AVX512 | {"avx512_vnni"}
#: Instruction sets that have what one precision policy is for, and what they need. Under the policy "native" means the
#: first that runs here.
PRECISION_FLAGS: dict[str, dict[str, frozenset[str]]] = {
    "bf16": {"amx_bf16": _PAIRS | {"amx_tile", "amx_bf16"}, "avx512_bf16": _PAIRS},
    "int8-dynamic": {"avx512_vnni": _FOURS, "amx_int8": _FOURS | {"amx_tile", "amx_int8"}},
}
#: Linux on x86-64: the system call arch_prctl, its request for a state component, and the component of tile data.
_ARCH_PRCTL, _REQUEST_COMPONENT, _TILE_DATA = 158, 0x1023, 18


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of this machine's processors; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


@cache
def cpu_name() -> str:
    """The processor's model name, for people; never used to decide anything."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def cache_sizes() -> tuple[tuple[str, int, bool], ...]:
    """(name, bytes, whether each processor has its own) of the second and third level caches, the nearest first.

    Empty where the system does not tell.
    """
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, size, kind = ((index / name).read_text().strip() for name in ("level", "size", "type"))
        except OSError:
            continue
        if level in ("2", "3") and kind == "Unified" and size.endswith("K"):
            found.append((f"L{level}", int(size[:-1]) << 10, level == "2"))
    return tuple(sorted(found))


def memory_bytes() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def supported_targets() -> tuple[str, ...]:
    """Names of the instruction sets that this machine runs, the best first."""
    if platform.machine() in ("aarch64", "arm64"):
        return ("neon",)
    return tuple(name for name, needs in REQUIRED_FLAGS.items() if needs <= cpu_flags())


def suited_targets(precision: str) -> Iterator[str]:
    """Names of the instruction sets for a precision policy that this machine runs; "native" means the first."""
    for name, needs in PRECISION_FLAGS.get(precision, {}).items():
        if needs <= cpu_flags() and _granted(needs):
            yield name


def resolve_target(name: str, precision: str = "f32") -> str:
    """The instruction set that `Options.target` means here, "native" being the best that this machine has for a
    precision policy. Raises OptionError where this machine cannot run it.
    """
    have = supported_targets()
    refined = {t: needs for kinds in PRECISION_FLAGS.values() for t, needs in kinds.items()}
    if name == "native":
        return next(suited_targets(precision), have[0])
    if name in have or (name in refined and refined[name] <= cpu_flags()):
        return name
    missing = sorted({**refined, **REQUIRED_FLAGS}.get(name, frozenset()) - cpu_flags())
    raise OptionError(
        f"target {name!r} cannot run on this machine",
        where=f"missing: {', '.join(missing) or 'another architecture'}",
        hint=f"this machine runs: native, {', '.join(have)}",
    )


def check_processors(numbers: Iterable[int]) -> None:
    """Raise OptionError where a thread of this process cannot be bound to each of these processors."""
    if not hasattr(os, "sched_setaffinity"):
        raise OptionError(f"affinity is to be had on Linux alone, not on {platform.system()}")
    refused: list[int] = []

    def ask() -> None:
        for number in numbers:
            try:
                os.sched_setaffinity(0, {number})
            except (OSError, OverflowError, ValueError):
                refused.append(number)

    asking = threading.Thread(target=ask, name="rlx-affinity")  # not the caller, which stays where it may run
    asking.start()
    asking.join()
    if refused:
        raise OptionError(
            f"affinity names processors that this process may not use: {', '.join(map(str, refused))}",
            hint=f"the calling thread may use: {', '.join(map(str, sorted(os.sched_getaffinity(0))))}",
        )


def _granted(needs: frozenset[str]) -> bool:
    """Whether the system gives this process the registers that these flags' instructions work on."""
    if "amx_tile" not in needs:
        return True
    try:
        request_tiles()
    except OptionError:
        return False
    return True


def request_tiles() -> None:
    """Ask the system for AMX's matrix registers, for every thread of this process. Raises OptionError if it refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_ARCH_PRCTL, _REQUEST_COMPONENT, _TILE_DATA):
        raise OptionError(
            "the system refuses this process AMX's matrix registers",
            where=os.strerror(ctypes.get_errno()),
            hint='compile for target="avx512_bf16" or "avx512_vnni"',
        )
