"""Handles: state at one address that outlives runs, and files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from rlx.driver import BufferHandle, Device, load_handles, save_handles
from rlx.errors import BufferFreed, BufferMismatch, StateMismatch
from rlx.ir import TensorType
from rlx.ir.dtypes import bf16, i32
from rlx.testing.conformance.case import Subject, Suite
from rlx.testing.conformance.expect import expect_bits, expect_equal, expect_raises
from rlx.testing.conformance.graphs import VECTOR, add

SUITE = Suite("handles")


@SUITE.case
def state_is_written_read_and_reset_at_one_address(subject: Subject) -> None:
    initial, content = subject.content(VECTOR), subject.content(VECTOR)
    with BufferHandle("state", VECTOR, subject.device, initial=initial) as handle:
        where = handle.address, subject.device
        handle.write(content)
        expect_equal((handle.address, handle.device), where, "where the state is after it was written")
        expect_bits(handle.read(), content, "the state that was written")
        handle.reset()
        expect_equal((handle.address, handle.device), where, "where the state is after its reset")
        expect_bits(handle.read(), initial, "the state after its reset")
        expect_equal(handle.version, 2, "how often it was changed")


@SUITE.case
def programs_update_it_in_place(subject: Subject) -> None:
    program, stream = subject.program(add()), subject.stream()
    step, next_state = subject.buffer(np.ones(64, np.float32)), subject.buffer(np.zeros(64, np.float32))
    with BufferHandle("state", VECTOR, subject.device) as handle:
        for _ in range(10):
            stream.run(program, [handle.buffer, step], [next_state])
            stream.copy(handle.buffer, next_state)
            handle.mark_updated()
        stream.synchronize()
        expect_bits(handle.read(), np.full(64, 10, np.float32), "the state after ten steps")


@SUITE.case
def it_is_saved_and_loaded_on_any_device(subject: Subject) -> None:
    types = {"floats": VECTOR, "halves": TensorType((3, 5), bf16), "counts": TensorType((2, 2), i32)}
    contents = {name: subject.content(type) for name, type in types.items()}
    here = [BufferHandle(n, t, subject.device, initial=contents[n]) for n, t in types.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "states.safetensors")
        save_handles(path, here)
        for device in Device.all():
            there = [BufferHandle(n, t, device) for n, t in types.items()]
            load_handles(path, there)
            for handle in there:
                expect_bits(handle.read(), contents[handle.name], f"{handle.name!r} on {device}")
                handle.close()
        for handle in here:
            handle.write(np.zeros_like(contents[handle.name]))
        load_handles(path, here)
        for handle in here:
            expect_bits(handle.read(), contents[handle.name], f"{handle.name!r} loaded again")
            handle.close()


@SUITE.case
def loading_changes_all_states_or_none(subject: Subject) -> None:
    a, b = BufferHandle("a", VECTOR, subject.device), BufferHandle("b", VECTOR, subject.device)
    with tempfile.TemporaryDirectory() as folder, a, b:
        path = Path(folder, "a.safetensors")
        a.write(np.ones(64, np.float32))
        a.save(path)
        a.reset()
        expect_raises(StateMismatch, lambda: load_handles(path, [a, b]), "'b'")
        expect_bits(a.read(), np.zeros(64, np.float32), "the state after a refused load")


@SUITE.case
def another_type_is_refused_and_closing_ends_it(subject: Subject) -> None:
    handle = BufferHandle("state", VECTOR, subject.device)
    view = handle.buffer
    expect_raises(BufferMismatch, lambda: handle.write(np.zeros(63, np.float32)), "'state'")
    expect_raises(BufferMismatch, lambda: handle.write(np.zeros(64)), "'state'")
    handle.close()
    for use in (handle.read, handle.reset, lambda: view.fill(0)):
        expect_raises(BufferFreed, use, "'state'")
