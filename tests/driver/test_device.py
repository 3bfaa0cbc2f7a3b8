"""Devices are names; only asking something of them needs them to be here."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from rlx.driver import HOST, Buffer, BufferHandle, CommandStream, Device, device_memory
from rlx.errors import DeviceNameError, DeviceNotFound
from rlx.ir.dtypes import f32
from rlx.ir.types import TensorType


@pytest.mark.parametrize(
    ("text", "kind", "ordinal"), [("cpu", "cpu", 0), ("cuda:1", "cuda", 1), ("my_npu2:10", "my_npu2", 10)]
)
def test_a_name_is_a_kind_and_an_ordinal_that_defaults_to_zero(text: str, kind: str, ordinal: int) -> None:
    device = Device(text)
    assert (device.kind, device.ordinal) == (kind, ordinal)
    assert device == Device(kind, ordinal) == Device(device)
    assert str(device) == f"{kind}:{ordinal}"


@pytest.mark.parametrize(
    "text", ["", ":0", "cpu:", "cpu:-1", "cpu:01", "cpu:x", "CPU", "1cpu", "cpu:0:0", " cpu", "cpu\n"]
)
def test_a_name_that_does_not_parse_says_what_a_name_is(text: str) -> None:
    with pytest.raises(DeviceNameError, match="'cpu', 'cuda:1'") as caught:
        Device(text)
    assert repr(text) in str(caught.value)


def test_an_ordinal_is_given_once_and_is_not_negative() -> None:
    with pytest.raises(DeviceNameError):
        Device("cuda:1", 1)
    with pytest.raises(DeviceNameError, match="-1"):
        Device("cuda", -1)


def test_devices_are_frozen_hashable_ordered_and_pickle() -> None:
    device = Device("cuda:1")
    with pytest.raises(AttributeError):
        device.kind = "cpu"  # type: ignore[misc]
    assert len({device, Device("cuda", 1), Device("cuda:0")}) == 2
    assert min([Device("cuda:1"), Device("cpu"), Device("cuda:0")]) == Device("cpu")
    assert pickle.loads(pickle.dumps(device)) == device


def test_a_device_elsewhere_can_be_named_but_not_asked() -> None:
    device = Device("quantum:3")
    with pytest.raises(DeviceNotFound, match="quantum") as caught:
        _ = device.properties
    assert "cpu:0" in str(caught.value)
    assert "reference:0" in str(caught.value)


def test_an_ordinal_past_the_last_device_lists_those_that_are_here() -> None:
    with pytest.raises(DeviceNotFound, match="'cpu:7'") as caught:
        _ = Device("cpu:7").properties
    assert "devices here: cpu:0" in str(caught.value)


def test_a_kind_misspelt_suggests_the_nearest() -> None:
    with pytest.raises(DeviceNotFound, match="did you mean 'reference'"):
        _ = Device("referense").backend


def test_all_devices_answer_for_themselves(opaque: Device) -> None:
    devices = Device.all()
    assert {HOST, Device("reference"), Device("opaque:0"), Device("opaque:1")} <= set(devices)
    for device in devices:
        assert device.properties.name
        assert device.properties.memory_bytes > 0
        assert device.backend.kind == device.kind


def test_a_name_stands_for_its_device_wherever_memory_or_a_stream_is_asked_for(opaque: Device) -> None:
    row = TensorType((3,), f32)
    assert device_memory("cpu") is device_memory(HOST)
    buffer = Buffer.empty(row, "cpu")
    assert buffer.to("cpu:0") is buffer and buffer.to(str(opaque)).device == opaque
    assert Buffer.from_dlpack(np.zeros(3, np.float32), device="cpu").device == HOST
    with CommandStream("cpu") as stream, BufferHandle("h", row, str(opaque)) as handle:
        assert stream.device == HOST and handle.device == opaque
        stream.fill(buffer, 2)
        stream.synchronize()
    assert buffer.numpy().tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["CPU", None, 5])
def test_what_names_no_device_is_refused_wherever_one_is_asked_for(name: str) -> None:
    row = TensorType((3,), f32)
    for ask in (device_memory, CommandStream, lambda n: Buffer.empty(row, n), Buffer.empty(row).to):
        with pytest.raises(DeviceNameError):
            ask(name)
