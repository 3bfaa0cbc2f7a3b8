"""LLVM's memory is given back, and LLVM works afterwards as before."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import pytest

from rlx.codegen.llvm.object import compile_module
from rlx.codegen.llvm.residency import release_memory
from rlx.codegen.target import PRESETS

MODULE = "define i32 @twice(i32 %x) {\n  %y = mul i32 %x, 2\n  ret i32 %y\n}\n"


def resident_code_kb() -> int:
    """Resident pages of the LLVM library's code."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        field, _, rest = line.partition(" ")
        if not field.endswith(":"):
            inside = "libllvmlite" in line and " r-xp " in line
        elif inside and field == "Rss:":
            total += int(rest.split()[0])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux alone")
def test_code_that_a_compilation_touched_is_resident_no_longer_and_serves_the_next_one() -> None:
    target = PRESETS["avx2"]
    before = compile_module(MODULE, target)
    assert resident_code_kb() > 4096
    release_memory()
    assert resident_code_kb() < 1024
    assert compile_module(MODULE, target) == before


class _Malloc(ctypes.Structure):
    """glibc's mallinfo2, of which `uordblks` is the bytes in use."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    ))  # fmt: skip


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc alone tells what malloc has in use")
def test_compilations_leave_next_to_nothing_in_use() -> None:
    in_use = ctypes.CDLL(None).mallinfo2
    in_use.restype = _Malloc

    def compile_ten_times() -> int:
        for _ in range(10):
            compile_module(MODULE, PRESETS["avx2"])
        gc.collect()
        return in_use().uordblks

    first = compile_ten_times()
    assert compile_ten_times() - first < 10 * 20_000  # a pass manager alone takes 60 KB
