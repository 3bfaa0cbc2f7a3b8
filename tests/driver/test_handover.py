"""Bytes handed to other libraries: in which order with work that is still to be done, and by which protocols."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, CommandStream, Device, device_memory
from rlx.driver import memory as memory_module
from rlx.driver.registry import Entry, registry
from rlx.errors import ArrayInterfaceError, BufferFreed, DeviceError, DLPackError, DriverError
from rlx.ir import dtypes
from rlx.ir.dtypes import bf16, f32
from rlx.ir.types import TensorType
from rlx.testing.conformance import conform

sys.path.insert(0, str(Path(__file__).parent))
from dlpack_producer import read

FOUR = TensorType((4,), f32)


@pytest.fixture
def cuda(plugin_path: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device of kind "cuda", for one test."""
    search = registry._search
    monkeypatch.setattr(registry, "_search", lambda: [*search(), Entry("cuda", "cuda_like:backend", "a test")])
    monkeypatch.setattr(registry, "_found", None)
    yield Device("cuda")
    registry._backends.pop("cuda", None)
    for key in [key for key in memory_module._memories if key[0].kind == "cuda"]:
        del memory_module._memories[key]
    sys.modules.pop("cuda_like", None)


def _orders(device: Device) -> list[tuple[int, int]]:
    return device_memory(device).backend.orders  # type: ignore[attr-defined]


def _filled(device: Device, content: np.ndarray) -> Buffer:
    return Buffer.from_numpy(content, copy=True, device=device)


class _Reader:
    """Reads a buffer by DLPack on a thread of its own."""

    def __init__(self, buffer: Buffer, **arguments: Any) -> None:
        self.got: list[Any] = []

        def body() -> None:
            try:
                self.got.append(buffer.__dlpack__(max_version=(1, 0), **arguments))
            except DriverError as error:
                self.got.append(error)

        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()

    def waits(self) -> bool:
        self.thread.join(0.05)
        return self.thread.is_alive()

    def result(self) -> Any:
        self.thread.join(20)
        return self.got[0]


# -- work that is still to be done ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["written", "read", "a view written"])
def test_an_export_waits_for_what_streams_have_yet_to_do_with_the_bytes(what: str) -> None:
    buffer, gate = Buffer.empty(FOUR), threading.Event()
    with CommandStream() as stream:
        stream.run(lambda i, o: gate.wait(20) and None)
        if what == "read":
            stream.copy(Buffer.empty(FOUR), buffer)
        else:
            stream.fill(buffer if what == "written" else buffer[1:2], 3)
        reader, control = _Reader(buffer), _Reader(Buffer.empty(FOUR))
        assert not control.waits()
        assert reader.waits()
        gate.set()
        assert "dltensor" in repr(reader.result())


def test_an_export_with_minus_one_does_not_wait() -> None:
    buffer, gate = Buffer.empty(FOUR), threading.Event()
    with CommandStream() as stream:
        stream.run(lambda i, o: gate.wait(20) and None, [buffer])
        assert not _Reader(buffer, stream=-1).waits()
        gate.set()


def test_an_export_gets_the_failure_of_the_work_it_waited_for_and_of_no_other() -> None:
    buffer, gate = Buffer.empty(FOUR), threading.Event()

    def fails(inputs: object, outputs: object) -> None:
        gate.wait(20)
        raise ValueError("no such thing")

    with CommandStream() as stream:
        stream.run(fails, [], [buffer], name="the matmul")
        reader = _Reader(buffer)
        assert reader.waits()
        gate.set()
        assert isinstance(reader.result(), DeviceError) and "the matmul" in str(reader.result())
        assert "dltensor" in repr(_Reader(buffer).result())


def test_a_copy_for_a_reader_is_made_when_the_work_is_done() -> None:
    buffer, gate = Buffer.empty(FOUR), threading.Event()
    with CommandStream() as stream:
        stream.run(lambda i, o: gate.wait(20) and None)
        stream.fill(buffer, 3)
        reader = _Reader(buffer, copy=True)
        assert reader.waits()
        gate.set()
        capsule = reader.result()
    given = SimpleNamespace(__dlpack__=lambda **_: capsule, __dlpack_device__=lambda: (1, 0))
    assert np.from_dlpack(given).tolist() == [3, 3, 3, 3]  # type: ignore[arg-type]


def test_work_on_a_stream_may_hand_over_what_it_works_on() -> None:
    seen: list[float] = []
    with CommandStream() as stream:
        stream.run(lambda i, o: seen.append(np.from_dlpack(i[0]).sum()), [_filled(HOST, np.ones(4))])  # type: ignore[arg-type]
        stream.synchronize()
    assert seen == [4]


# -- queues -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "orders"),
    [(None, [(7001, 1)]), (1, [(7001, 1)]), (2, [(7001, 2)]), (99, [(7001, 99)]), (7001, []), (-1, [])],
)
def test_a_readers_queue_is_ordered_behind_the_devices_own(cuda: Device, stream: int | None, orders: object) -> None:
    buffer = _filled(cuda, np.arange(4, dtype=np.float32))
    capsule = buffer.__dlpack__(stream=stream, max_version=(1, 0))
    assert _orders(cuda) == orders
    assert (read(capsule).tensor.device_type, read(capsule).tensor.data) == (2, buffer.address)


@pytest.mark.parametrize("stream", [0, -2, 1.5, "1", True])
def test_a_queue_that_cannot_be_is_refused(cuda: Device, stream: object) -> None:
    with pytest.raises(DLPackError, match="stream"):
        Buffer.empty(FOUR, cuda).__dlpack__(stream=stream)
    assert _orders(cuda) == []


def test_memory_without_queues_refuses_to_order_with_one(opaque: Device) -> None:
    buffer = Buffer.empty(FOUR, opaque)
    with pytest.raises(DLPackError, match="opaque:0 has no queues to order with, asked for stream 5"):
        buffer.__dlpack__(stream=5)
    assert buffer.__dlpack__(stream=-1) and buffer.__dlpack__()


def test_a_device_that_runs_behind_its_calls_is_waited_for(opaque: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    buffer = Buffer.empty(FOUR, opaque)
    monkeypatch.setattr(device_memory(opaque).backend, "synchronize", lambda: waits.append(1), raising=False)
    buffer.__dlpack__(stream=-1)
    assert waits == []
    buffer.__dlpack__()
    assert waits == [1]


def test_a_writers_queue_comes_before_the_devices_own(cuda: Device) -> None:
    buffer, asked = Buffer.empty(FOUR, cuda), []

    def export(**arguments: Any) -> object:
        asked.append(arguments["stream"])
        return buffer.__dlpack__(**arguments)

    tensor = SimpleNamespace(__dlpack__=export, __dlpack_device__=buffer.__dlpack_device__)
    back = Buffer.from_dlpack(tensor)
    assert asked == [7001] and (back.address, back.device) == (buffer.address, cuda)


# -- where to, and whether copied -------------------------------------------------------------------------------------


def test_device_memory_is_exported_to_the_host_as_a_copy_or_not_at_all(cuda: Device) -> None:
    buffer = _filled(cuda, np.arange(4, dtype=np.float32))
    capsule = buffer.__dlpack__(dl_device=(1, 0), max_version=(1, 0))
    assert read(capsule).flags & 2  # "copied"
    given = SimpleNamespace(__dlpack__=lambda **_: capsule, __dlpack_device__=lambda: (1, 0))
    assert np.from_dlpack(given).tolist() == [0, 1, 2, 3]  # type: ignore[arg-type]
    with pytest.raises(DLPackError, match="copy=False"):
        buffer.__dlpack__(dl_device=(1, 0), copy=False)
    with pytest.raises(DLPackError, match="no queues"):
        buffer.__dlpack__(dl_device=(1, 0), stream=5)


def test_an_imported_tensor_may_be_asked_for_elsewhere_and_as_a_copy(cuda: Device) -> None:
    array = np.arange(4, dtype=np.float32)
    there = Buffer.from_dlpack(array, device=cuda)
    assert there.device == cuda and there.to(HOST).numpy().tolist() == [0, 1, 2, 3]
    copy = Buffer.from_dlpack(array, copy=True)
    assert not np.shares_memory(copy.numpy(), array)
    assert np.shares_memory(Buffer.from_dlpack(array, device=HOST, copy=False).numpy(), array)
    with pytest.raises(DLPackError, match="copy=False"):
        Buffer.from_dlpack(array, device=cuda, copy=False)


# -- the CUDA array interface -----------------------------------------------------------------------------------------


def test_a_buffer_on_cuda_describes_itself(cuda: Device) -> None:
    buffer = _filled(cuda, np.zeros((3, 4), np.int16))
    assert buffer.__cuda_array_interface__ == {
        "version": 3, "shape": (3, 4), "typestr": "<i2", "data": (buffer.address, False), "strides": None,
        "stream": 7001,
    }  # fmt: skip
    turned = buffer.transpose(1, 0)[1:]
    described = turned.__cuda_array_interface__
    assert (described["shape"], described["strides"], described["data"]) == (
        (3, 3),
        (2, 8),
        (buffer.address + 2, False),
    )
    assert Buffer.empty(TensorType((0, 4), f32), cuda).__cuda_array_interface__["data"] == (0, False)
    buffer.free()
    with pytest.raises(BufferFreed):
        _ = turned.__cuda_array_interface__


def test_only_cuda_has_it_and_only_for_dtypes_that_it_names(cuda: Device, opaque: Device) -> None:
    for device in (HOST, opaque):
        assert not hasattr(Buffer.empty(FOUR, device), "__cuda_array_interface__")
    assert hasattr(Buffer.empty(FOUR, cuda), "__cuda_array_interface__")
    assert not hasattr(Buffer.empty(TensorType((4,), bf16), cuda), "__cuda_array_interface__")


@pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if d.numpy.isbuiltin == 1], ids=str)
def test_what_it_describes_comes_back_over_the_same_bytes(cuda: Device, dtype: dtypes.DType) -> None:
    buffer = _filled(cuda, np.zeros((3, 4), dtype.numpy))[:, 1:]
    back = Buffer.from_cuda_array(buffer)
    assert (back.address, back.type, back.strides, back.device) == (buffer.address, buffer.type, buffer.strides, cuda)
    assert _orders(cuda) == []  # its own queue: nothing to order


def test_the_devices_work_is_ordered_behind_the_stream_that_is_named(cuda: Device) -> None:
    buffer = _filled(cuda, np.zeros(4, np.float32))
    said = buffer.__cuda_array_interface__
    for stream, orders in ((None, []), (55, [(55, 7001)])):
        foreign = SimpleNamespace(__cuda_array_interface__={**said, "stream": stream, "data": (buffer.address, True)})
        taken = Buffer.from_cuda_array(foreign)
        assert _orders(cuda) == orders
        assert taken.readonly


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1}, "version 1"),
        ({"mask": object()}, "mask"),
        ({"stream": 0}, "0 as its stream"),
        ({"typestr": "<M8[s]"}, "no RLX dtype"),
        ({"typestr": ">f4"}, "no RLX dtype"),
        ({"shape": None}, "cannot take"),
        ({"data": 5}, "cannot take"),
    ],
)
def test_an_interface_that_no_buffer_can_have_is_refused(cuda: Device, changes: dict[str, Any], words: str) -> None:
    said = Buffer.empty(FOUR, cuda).__cuda_array_interface__
    with pytest.raises(ArrayInterfaceError, match=words):
        Buffer.from_cuda_array(SimpleNamespace(__cuda_array_interface__={**said, **changes}))


def test_an_object_without_it_is_named(cuda: Device) -> None:
    with pytest.raises(ArrayInterfaceError, match="a ndarray has no __cuda_array_interface__"):
        Buffer.from_cuda_array(np.zeros(3))


def test_a_device_with_queues_and_pinned_memory_passes_the_kit(cuda: Device) -> None:
    suites = ["allocator", "memory_limits", "buffers", "dlpack", "transfers"]
    failed = {r.id: r.message for r in conform(cuda, suites=suites).results if r.status != "passed"}
    assert failed == {}
