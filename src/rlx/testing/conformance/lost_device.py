"""Losing a device, and what must hold then.

A lost device stays lost for as long as its process lives, so the suite `device_loss` lets this module lose it in a
process of its own. `PROMISES` hold after the loss, in this order; each is a function of the `Scene`, which was built
before. The backend's `lose_device(ordinal)` loses the device as a reset of its driver would.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable

import numpy as np

from rlx.driver import HOST, Buffer, BufferHandle, CommandStream, Device, DeviceArena, Event, Semaphore, device_memory
from rlx.errors import DeviceLost
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session
from rlx.testing.conformance.blocking import Caller, Gate
from rlx.testing.conformance.case import Programs
from rlx.testing.conformance.expect import expect, expect_bits, expect_equal
from rlx.testing.conformance.graphs import VECTOR, affine


class Scene:
    """Work on a device at the moment when it is lost."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.in_use = device_memory(device).statistics.in_use
        self.programs = Programs(device)
        self.program = self.programs.get(affine())
        compiled = Session(device, Options(cache=False)).compile(affine())
        assert isinstance(compiled, CompiledGraph)
        self.compiled = compiled
        ones = np.ones(64, np.float32)
        self.x, self.y = (Buffer.from_numpy(ones, copy=True, device=device) for _ in range(2))
        self.host = Buffer.from_numpy(ones.copy())
        self.state, self.arena = BufferHandle("state", VECTOR, device), DeviceArena(device, 4096)
        self.busy, self.idle = CommandStream(device, name="busy"), CommandStream(device, name="idle")
        self.elsewhere = CommandStream(HOST, name="elsewhere")
        self.idle.run(self.program, [self.x], [self.y])
        self.idle.synchronize()
        self.time = Semaphore(name="time")
        with Gate(self.busy) as gate:
            gate.await_reached()
            self.before = self.busy.record(Event("behind the loss"))
            self.busy.fill(self.x, 3)
            self.busy.run(self.program, [self.x], [self.y])
            self.busy.signal(self.time, 1)
            self.elsewhere.wait(self.time, 1)
            self.elsewhere.fill(self.host, 7)
            waits = (self.before.wait, lambda: self.time.wait(1), self.busy.synchronize, self.elsewhere.synchronize)
            self.waiting = [Caller(wait, "a wait begun before the loss") for wait in waits]
            for caller in self.waiting:
                caller.must_wait()
            device.backend.lose_device(device.ordinal)  # type: ignore[attr-defined]
        self.said: str | None = None

    def expect_lost(self, error: BaseException) -> None:
        """Fail where the error is no DeviceLost, or not the one that all others were."""
        expect(isinstance(error, DeviceLost), f"{type(error).__name__} was raised and not DeviceLost: {error}")
        assert isinstance(error, DeviceLost)
        names = (str(self.device), self.device.properties.name)
        expect(any(name in error.message for name in names), f"the error does not name {' or '.join(names)}: {error}")
        self.said = self.said or error.message
        expect_equal(error.message, self.said, "what a later call said of the loss")


def waits_begun_before_raise_it(scene: Scene) -> None:
    for caller in scene.waiting:
        scene.expect_lost(caller.must_raise())


def later_waits_raise_it_on_every_stream(scene: Scene) -> None:
    waits = (
        scene.busy.synchronize, scene.idle.synchronize, scene.elsewhere.synchronize, scene.before.query,
        lambda: scene.time.wait(1), scene.time.query, scene.idle.record(Event("after the loss")).wait,
    )  # fmt: skip
    for wait in waits * 2:
        scene.expect_lost(Caller(wait, "a wait after the loss").must_raise())


def every_operation_raises_it(scene: Scene) -> None:
    x, y, new = scene.x, scene.y, np.zeros(64, np.float32)
    operations: tuple[Callable[[], object], ...] = (
        lambda: x.fill(1), lambda: x[3:5].fill(1), lambda: x.copy_from(y), lambda: x.copy_from(scene.host), x.copy,
        lambda: x.to(HOST), lambda: scene.program.run([x], [y]), lambda: scene.idle.run_now(scene.program, [x], [y]),
        lambda: scene.compiled(x=new), lambda: scene.compiled.run({"x": x}, {"y": y}), scene.state.read,
        lambda: scene.state.write(new), scene.state.reset,
        lambda: Buffer.from_numpy(new, copy=True, device=scene.device),
    )  # fmt: skip
    for operation in operations:
        scene.expect_lost(Caller(operation, "an operation on a lost device").must_raise())


def a_reset_stream_finds_it_lost_again(scene: Scene) -> None:
    scene.busy.reset()
    scene.expect_lost(Caller(scene.busy.synchronize, "synchronize").must_raise())
    scene.busy.reset()
    scene.busy.fill(scene.x, 1)
    scene.expect_lost(Caller(scene.busy.synchronize, "synchronize").must_raise())


def nothing_that_waited_for_it_was_done(scene: Scene) -> None:
    expect_bits(scene.host.numpy(), np.ones(64, np.float32), "what was to be written when the device was done")


def other_devices_go_on(scene: Scene) -> None:
    scene.elsewhere.reset()
    scene.elsewhere.fill(scene.host, 5)
    scene.elsewhere.synchronize()
    expect_equal(set(scene.host.numpy().tolist()), {5}, "what the host's stream wrote after the loss")
    reference = Programs(Device("reference"))
    there, result = scene.host.to(reference.device), Buffer.empty(VECTOR, reference.device)
    with CommandStream(reference.device) as stream:
        stream.run(reference.get(affine()), [there], [result])
        stream.synchronize()
    expect_equal(set(result.to(HOST).numpy().tolist()), {11}, "what the reference device computed after the loss")
    reference.close()


def everything_can_be_given_back(scene: Scene) -> None:
    for buffer in (scene.x, scene.y):
        buffer.free()
    scene.state.close()
    scene.arena.close()
    scene.programs.close()
    scene.compiled.close()
    for stream in (scene.busy, scene.idle, scene.elsewhere):
        stream.close()
    scene.waiting.clear()
    del buffer, scene.program, scene.compiled
    gc.collect()
    memory = device_memory(scene.device)
    expect(memory.statistics.in_use <= scene.in_use, f"{memory.statistics.in_use} bytes are still in use")


PROMISES: tuple[Callable[[Scene], None], ...] = (
    waits_begun_before_raise_it,
    later_waits_raise_it_on_every_stream,
    every_operation_raises_it,
    a_reset_stream_finds_it_lost_again,
    nothing_that_waited_for_it_was_done,
    other_devices_go_on,
    everything_can_be_given_back,
)


def lose(device: Device) -> dict[str, str | None]:
    """Lose the device; promise -> what broke it, None where it was kept."""
    scene = Scene(device)
    found: dict[str, str | None] = {}
    for promise in PROMISES:
        try:
            promise(scene)
        except Exception as error:  # noqa: BLE001  # whatever a device raises breaks the promise
            found[promise.__name__] = f"{type(error).__name__}: {error}"
        else:
            found[promise.__name__] = None
    return found


def main() -> None:
    """Lose the device that the command line names, and print what `lose` finds as JSON."""
    sys.stdout.write(json.dumps(lose(Device(sys.argv[1]))))
