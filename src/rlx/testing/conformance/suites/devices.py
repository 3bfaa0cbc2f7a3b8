"""Devices: what they are called, what they say of themselves, and what asking for another gives."""

from __future__ import annotations

import json
import pickle

from rlx.driver import Backend, Device, DeviceProperties, MemoryBackend
from rlx.errors import DeviceNotFound
from rlx.options import Options
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect, expect_equal, expect_raises

SUITE = Suite("devices")


@SUITE.case
def is_listed_among_those_that_are_here(subject: Subject) -> None:
    expect(subject.device in Device.all(), f"{subject.device} is not among {Device.all()}")


@SUITE.case
def has_a_backend_of_its_kind_that_keeps_the_protocols(subject: Subject) -> None:
    backend = subject.device.backend
    expect_equal(backend.kind, subject.device.kind, "the backend's kind")
    expect(isinstance(backend, Backend), "the backend lacks a part of the protocol")
    expect(isinstance(subject.memory.backend, MemoryBackend), "the memory lacks a part of the protocol")


@SUITE.case
def tells_its_name_its_memory_and_plain_features(subject: Subject) -> None:
    properties = subject.device.properties
    expect(isinstance(properties, DeviceProperties), "properties are not DeviceProperties")
    expect(properties.name.strip(), "the name is empty")
    expect(properties.memory_bytes > 0, "memory_bytes is not above 0")
    expect_equal(json.loads(json.dumps(dict(properties.features))), dict(properties.features), "features through JSON")
    expect_equal(subject.device.properties, properties, "properties asked for twice")


@SUITE.case
def comes_back_from_its_name_and_from_a_pickle(subject: Subject) -> None:
    device = subject.device
    expect_equal(Device(str(device)), device, "the device by its name")
    expect_equal(pickle.loads(pickle.dumps(device)), device, "the device from its pickle")  # noqa: S301
    expect_equal(hash(Device(device.kind, device.ordinal)), hash(device), "the device's hash")


@SUITE.case
def of_an_ordinal_that_is_not_here_says_which_are(subject: Subject) -> None:
    missing = Device(subject.device.kind, subject.device.backend.device_count())
    error = expect_raises(DeviceNotFound, lambda: missing.properties, str(missing), str(subject.device))
    expect_equal(error.code, "RLX-D003", "the error's code")


@SUITE.case
def gives_one_memory_however_often_asked(subject: Subject) -> None:
    device = subject.device
    expect(
        device.backend.memory(device.ordinal) is device.backend.memory(device.ordinal),
        "memory() gives another object at each call",
    )


@SUITE.case
def has_a_target_key_of_strings_that_stays(subject: Subject) -> None:
    key = subject.device.backend.target_key(subject.device, Options(cache=False))
    expect(all(isinstance(k, str) and isinstance(v, str) for k, v in key.items()), f"not strings: {key}")
    expect_equal(
        subject.device.backend.target_key(subject.device, Options(cache=False)), key, "the key asked for twice"
    )


@SUITE.case
def has_a_dlpack_number_of_two_parts_or_none(subject: Subject) -> None:
    number = subject.device.properties.dlpack_device
    expect(
        number is None or (len(number) == 2 and all(isinstance(n, int) for n in number)), f"dlpack_device is {number}"
    )
