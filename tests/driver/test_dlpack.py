"""DLPack, both ways: dtypes, strides, offsets, flags, lifetimes, and what must be refused."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, Device, device_memory
from rlx.errors import BufferReadOnly, DLPackError
from rlx.ir import dtypes
from rlx.ir.dtypes import bf16, f32, i4, u4
from rlx.ir.types import TensorType

sys.path.insert(0, str(Path(__file__).parent))
from dlpack_producer import OldProducer, Producer, capsule_name, read

# (code, bits) of dlpack.h, written out again
CODES = {
    "bool": (6, 8), "i4": (0, 4), "u4": (1, 4), "i8": (0, 8), "i16": (0, 16), "i32": (0, 32), "i64": (0, 64),
    "u8": (1, 8), "u16": (1, 16), "u32": (1, 32), "u64": (1, 64), "f8e4m3": (10, 8), "f8e5m2": (12, 8),
    "f16": (2, 16), "bf16": (4, 16), "f32": (2, 32), "f64": (2, 64), "c64": (5, 64), "c128": (5, 128),
}  # fmt: skip
READ_ONLY, COPIED, PADDED = 1, 2, 4
NUMPY_READS = [d for d in dtypes.ALL if d.numpy.isbuiltin == 1]
MODERN = (1, 1)


def _buffer(dtype: dtypes.DType, seed: int = 0) -> Buffer:
    raw = np.random.default_rng(seed).integers(0, 2, (4, 6 * dtype.itemsize), np.uint8)
    return Buffer.from_numpy(raw.view(dtype.numpy))


# -- out --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_an_exported_capsule_says_what_dlpack_h_says(dtype: dtypes.DType) -> None:
    buffer = _buffer(dtype)[1:, ::2]
    capsule = buffer.__dlpack__(max_version=MODERN)
    assert capsule_name(capsule) == b"dltensor_versioned"
    managed = read(capsule)
    tensor = managed.tensor
    assert managed.major == 1
    assert (tensor.code, tensor.bits, tensor.lanes) == (*CODES[dtype.name], 1)
    assert (tensor.device_type, tensor.device_id, tensor.ndim) == (1, 0, 2)
    assert [tensor.shape[i] for i in range(2)] == [3, 3]
    assert [tensor.strides[i] for i in range(2)] == [6, 2]
    assert tensor.data + tensor.byte_offset == buffer.address
    assert managed.flags == (PADDED if dtype in (i4, u4) else 0)


@pytest.mark.parametrize("dtype", NUMPY_READS, ids=str)
@pytest.mark.parametrize("make", [lambda b: b, lambda b: b[::-1, ::2], lambda b: b.transpose(1, 0), lambda b: b[2, 3]])
def test_numpy_reads_the_same_bytes(dtype: dtypes.DType, make: object) -> None:
    buffer = make(_buffer(dtype))  # type: ignore[operator]
    array = np.from_dlpack(buffer)
    assert array.dtype == dtype.numpy
    assert array.strides == buffer.strides
    assert array.ctypes.data == buffer.address
    assert np.array_equal(array, buffer.numpy())
    assert array.flags.writeable


def test_a_reader_without_version_gets_a_legacy_capsule() -> None:
    for max_version in (None, (0, 8)):
        capsule = _buffer(f32).__dlpack__(max_version=max_version)
        assert capsule_name(capsule) == b"dltensor"
        assert (read(capsule).tensor.code, read(capsule).tensor.bits) == (2, 32)


def test_read_only_bytes_carry_the_flag_and_are_refused_to_a_legacy_reader() -> None:
    array = np.arange(4.0)
    array.flags.writeable = False
    buffer = Buffer.from_numpy(array)
    assert read(buffer.__dlpack__(max_version=MODERN)).flags == READ_ONLY
    assert not np.from_dlpack(buffer).flags.writeable
    with pytest.raises(DLPackError, match="read-only"):
        buffer.__dlpack__()


@pytest.mark.parametrize("dtype", [i4, u4], ids=str)
def test_sub_byte_elements_are_refused_to_a_legacy_reader(dtype: dtypes.DType) -> None:
    with pytest.raises(DLPackError, match="a byte an element"):
        _buffer(dtype).__dlpack__()


def test_a_copy_is_one_and_says_so() -> None:
    buffer = _buffer(f32)
    capsule = buffer.__dlpack__(max_version=MODERN, copy=True)
    assert read(capsule).flags == COPIED
    assert read(capsule).tensor.data != buffer.address
    assert read(buffer.__dlpack__(max_version=MODERN, copy=False)).tensor.data == buffer.address


def test_a_copy_of_read_only_bytes_is_writable() -> None:
    array = np.arange(4.0)
    array.flags.writeable = False
    assert np.from_dlpack(Buffer.from_numpy(array), copy=True).flags.writeable


def test_another_device_or_a_stream_is_refused() -> None:
    buffer = _buffer(f32)
    with pytest.raises(DLPackError, match=r"\(1, 0\).*\(2, 0\)"):
        buffer.__dlpack__(dl_device=(2, 0))
    with pytest.raises(DLPackError, match="asked for stream 7"):
        buffer.__dlpack__(stream=7)
    assert buffer.__dlpack__(dl_device=(1, 0), stream=-1)


def test_strides_between_elements_are_refused() -> None:
    records = np.zeros(4, np.dtype([("a", "u1"), ("b", "<f4")]))
    with pytest.raises(DLPackError, match="multiples"):
        Buffer.from_numpy(records["b"]).__dlpack__()


def test_the_readers_tensor_keeps_the_bytes_past_free() -> None:
    memory = device_memory(HOST)
    before = memory.statistics.in_use
    buffer = Buffer.empty(TensorType((1 << 18,), f32))
    buffer.fill(4)
    array = np.from_dlpack(buffer)
    buffer.free()
    del buffer
    gc.collect()
    assert memory.statistics.in_use == before + (1 << 20)
    assert array.min() == array.max() == 4
    del array
    assert memory.statistics.in_use == before


def test_a_capsule_that_nobody_takes_gives_the_bytes_back() -> None:
    memory = device_memory(HOST)
    before = memory.statistics.in_use
    for max_version in (None, MODERN):
        buffer = Buffer.empty(TensorType((1 << 18,), f32))
        capsule = buffer.__dlpack__(max_version=max_version)
        buffer.free()
        assert memory.statistics.in_use == before + (1 << 20)
        del capsule
        assert memory.statistics.in_use == before


def test_a_reader_that_fails_on_the_capsule_leaves_nothing_behind() -> None:
    memory = device_memory(HOST)
    before = memory.statistics.in_use
    buffer = Buffer.empty(TensorType((1 << 18,), bf16))
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(buffer)  # NumPy has no bf16
    buffer.free()
    gc.collect()
    assert memory.statistics.in_use == before


def test_device_memory_is_exported_under_its_own_number_or_not_at_all(opaque: Device) -> None:
    buffer = Buffer.from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3)).to(opaque)
    assert buffer.__dlpack_device__() == (12, 0)
    tensor = read(buffer[1].__dlpack__(max_version=MODERN)).tensor
    assert (tensor.device_type, tensor.device_id, tensor.data) == (12, 0, buffer.address + 12)
    again = Buffer.from_dlpack(buffer)
    assert (again.device, again.address) == (opaque, buffer.address)
    assert again[1].to(HOST).numpy().tolist() == [3, 4, 5]
    with pytest.raises(DLPackError, match="opaque:1"):
        buffer.to(Device("opaque:1")).__dlpack__()


def test_tensors_that_outlive_the_interpreters_modules_do_no_harm() -> None:
    program = """
import builtins, sys, numpy as np
from rlx.driver import Buffer
from rlx.ir.dtypes import f32, bf16
from rlx.ir.types import TensorType
builtins.a = np.from_dlpack(Buffer.empty(TensorType((1000,), f32)))
builtins.b = Buffer.from_dlpack(Buffer.empty(TensorType((1000,), bf16)))
builtins.c = Buffer.empty(TensorType((1000,), f32)).__dlpack__(max_version=(1, 0))
sys.c = Buffer.empty(TensorType((1 << 20,), f32)).__dlpack__()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# -- in ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_every_dtype_comes_in(dtype: dtypes.DType, versioned: bool) -> None:
    array = _buffer(dtype).numpy()
    code, bits = CODES[dtype.name]
    producer = Producer(array, code=code, bits=bits, versioned=versioned, flags=PADDED if bits < 8 else 0)
    if bits < 8 and not versioned:
        with pytest.raises(DLPackError, match="packed"):
            Buffer.from_dlpack(producer)
        return
    buffer = Buffer.from_dlpack(producer)
    assert buffer.type == TensorType((4, 6), dtype)
    assert buffer.address == array.ctypes.data
    assert buffer.numpy().tobytes() == array.tobytes()


def test_strides_byte_offset_and_absent_strides_are_honoured() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    view = array[::-1, 1::2]
    buffer = Buffer.from_dlpack(Producer(view, code=2, bits=32, byte_offset=64))
    assert np.array_equal(buffer.numpy(), view)
    buffer = Buffer.from_dlpack(Producer(array, code=2, bits=32, versioned=False, strides=None, shape=(8, 3)))
    assert np.array_equal(buffer.numpy(), array.reshape(8, 3))


def test_the_read_only_flag_is_honoured_and_a_legacy_capsule_counts_as_read_only() -> None:
    array = np.zeros(3, np.float32)
    assert not Buffer.from_dlpack(Producer(array, code=2, bits=32)).readonly
    for producer in (
        Producer(array, code=2, bits=32, flags=READ_ONLY),
        Producer(array, code=2, bits=32, versioned=False),
        OldProducer(array, code=2, bits=32, versioned=False),
    ):
        buffer = Buffer.from_dlpack(producer)
        assert buffer.readonly
        with pytest.raises(BufferReadOnly):
            buffer.fill(1)


def test_the_deleter_runs_once_when_the_last_reader_ends() -> None:
    for versioned in (True, False):
        producer = Producer(np.ones(3, np.float32), code=2, bits=32, versioned=versioned)
        buffer = Buffer.from_dlpack(producer)
        assert capsule_name(producer.capsule).startswith(b"used_dltensor")
        view = buffer[1:].numpy()
        buffer.free()
        del buffer
        gc.collect()
        assert (producer.deleted, view.sum()) == (0, 2)
        del view
        assert producer.deleted == 1


def test_a_capsule_is_taken_once() -> None:
    producer = Producer(np.ones(3, np.float32), code=2, bits=32)
    Buffer.from_dlpack(producer)
    with pytest.raises(DLPackError, match="used already"):
        Buffer.from_dlpack(producer)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"version": (2, 0)}, "DLPack 2.0"),
        ({"code": 3, "bits": 64}, r"\(3, 64\)"),
        ({"code": 2, "bits": 32, "lanes": 4}, "4 lanes"),
        ({"code": 0, "bits": 4}, "packed"),
        ({"device": (2, 0)}, r"DLPack device \(2, 0\)"),
    ],
)
def test_what_has_no_counterpart_is_refused_and_given_back(fields: dict[str, object], why: str) -> None:
    producer = Producer(np.ones(3, np.float32), **{"code": 2, "bits": 32, **fields})  # type: ignore[arg-type]
    with pytest.raises(DLPackError, match=why):
        Buffer.from_dlpack(producer)
    gc.collect()
    # either the capsule is still the producer's to end, or its deleter has run
    assert (capsule_name(producer.capsule) == b"dltensor_versioned") != (producer.deleted == 1)


def test_an_object_without_dlpack_is_named() -> None:
    with pytest.raises(DLPackError, match="list"):
        Buffer.from_dlpack([1, 2, 3])


def test_numpy_arrays_come_in_with_their_strides() -> None:
    array = np.arange(24, dtype=np.int16).reshape(4, 6)[1::2, ::-1]
    buffer = Buffer.from_dlpack(array)
    assert buffer.address == array.ctypes.data
    assert np.array_equal(buffer.numpy(), array)
    assert not buffer.readonly


def test_buffers_of_every_dtype_cross_to_themselves() -> None:
    for dtype in dtypes.ALL:
        buffer = _buffer(dtype)[::2, ::-1]
        again = Buffer.from_dlpack(buffer)
        assert (again.type, again.strides, again.address) == (buffer.type, buffer.strides, buffer.address)


def test_torch_shares_bytes_both_ways_in_every_dtype_it_has() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is no test dependency")
    for name in ("bool", "uint8", "int32", "float16", "bfloat16", "float32", "complex64", "float8_e4m3fn"):
        tensor = torch.arange(12).reshape(3, 4).to(getattr(torch, name))
        buffer = Buffer.from_dlpack(tensor.t())
        assert buffer.address == tensor.data_ptr()
        assert buffer.shape == (4, 3)
        back = torch.from_dlpack(buffer.retain())
        assert back.dtype == tensor.dtype
        assert back.data_ptr() == tensor.data_ptr()
        assert back.stride() == (1, 4)
        assert torch.equal(back.t().view(torch.uint8), tensor.view(torch.uint8))
