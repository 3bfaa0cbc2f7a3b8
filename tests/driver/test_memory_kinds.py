"""Kinds of memory: what each device has, what each is, and how the rest is refused."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, Device, DeviceMemory, HostMemory, MemoryKind, device_memory
from rlx.errors import MemoryKindError, OutOfMemory
from rlx.ir.dtypes import f32, u8
from rlx.ir.types import TensorType

FOUR = TensorType((4,), f32)


def _locked_kib() -> int:
    """What the system says that this process has locked."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmLck"))


@pytest.mark.parametrize("kind", ["device", "host", "unified"])
def test_on_the_cpu_device_host_and_unified_memory_are_one(kind: MemoryKind) -> None:
    buffer = Buffer.empty(FOUR, HOST, kind=kind)
    assert buffer.block.memory is device_memory(HOST)
    assert (buffer.kind, buffer.kinds) == ("host", ("host", "device", "unified"))


def test_a_device_that_works_in_host_memory_has_unified_memory() -> None:
    buffer = Buffer.empty(FOUR, Device("reference"), kind="unified")
    assert (buffer.kind, buffer.device) == ("unified", Device("reference"))
    assert Buffer.empty(FOUR, Device("reference"), kind="host").device == HOST


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not say what is locked")
def test_pinned_memory_is_locked_while_it_is_reserved_and_has_an_account_of_its_own() -> None:
    memory, before = device_memory(HOST, "pinned"), device_memory(HOST).statistics.in_use
    memory.trim()
    free = _locked_kib()
    buffer = Buffer.empty(TensorType((100_000,), u8), HOST, kind="pinned")
    assert (buffer.device, buffer.kind, buffer.kinds) == (HOST, "pinned", ("pinned", "host"))
    assert _locked_kib() - free >= 98
    assert memory.statistics.in_use >= 100_000
    assert device_memory(HOST).statistics.in_use == before
    buffer.numpy()[...] = 3
    assert buffer.to(HOST) is buffer
    buffer.free()
    memory.trim()
    assert _locked_kib() == free


def test_pinned_memory_beyond_what_may_be_locked_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 16, 1 << 16))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    memory = DeviceMemory(HOST, HostMemory(locked=True), "pinned")
    with pytest.raises(
        OutOfMemory, match=r"the pinned memory of cpu:0 has no room for 65537 bytes: the limit is reached"
    ):
        memory.allocate(1 << 16 | 1)
    memory.set_limit(1 << 50)

    class Refusing:
        @staticmethod
        def mlock(address: object, nbytes: object) -> int:
            ctypes.set_errno(12)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: Refusing)
    with pytest.raises(
        OutOfMemory, match=r"does not lock 4096 bytes .*Cannot allocate memory; .* 65536 in all \(ulimit -l\)"
    ):
        memory.allocate(4096)
    assert memory.statistics.in_use == 0


def test_a_mapped_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    buffer = Buffer.map_file(tmp_path / "weights", FOUR)
    assert (buffer.kind, buffer.kinds, buffer[1:].kind) == ("file", ("file", "host"), "file")


def test_a_kind_that_a_device_lacks_is_refused_with_those_that_it_has(opaque: Device) -> None:
    assert Buffer.empty(FOUR, opaque).kinds == ("device",)
    for kind in ("pinned", "unified"):
        with pytest.raises(MemoryKindError, match=f"opaque:0 has no memory of kind '{kind}'; it has: device, host"):
            Buffer.empty(FOUR, opaque, kind=kind)
    with pytest.raises(MemoryKindError, match="(?s)'file'; it has: device, host, pinned, unified.*Buffer.map_file"):
        Buffer.empty(FOUR, HOST, kind="file")
    with pytest.raises(MemoryKindError, match="'nonsense'"):
        Buffer.empty(FOUR, HOST, kind="nonsense")  # type: ignore[arg-type]
