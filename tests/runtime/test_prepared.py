"""Recordings that carry their programs are ready on any device in one call, weights and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlx import Options, Session
from rlx.backends.webgpu.gpu import adapters
from rlx.driver import Buffer, CommandBuffer, CommandStream, Device, Semaphore, load_commands, save_commands
from rlx.errors import CommandError, CommandFileError, DeviceError, ProgramClosed, TextError
from rlx.ir import Graph, GraphBuilder, TensorType, print_graph
from rlx.ir.dtypes import f32

SOON = 20.0
DATA = Path(__file__).parents[1] / "driver" / "data"
X, Y = TensorType((3, 8), f32), TensorType((3, 4), f32)
OPTIONS = Options(cache=False)


def layer(seed: int = 1) -> Graph:
    """y = tanh(x @ w): w is a weight."""
    b = GraphBuilder("layer")
    x = b.input("x", X)
    w = b.parameter("w: the weight", np.random.default_rng(seed).standard_normal((8, 4)).astype(np.float32))
    return b.build({"y": b.emit("tanh", b.emit("dot_general", x, w, lhs_contract=(1,), rhs_contract=(0,)))})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recording of one layer, its weights in it."""
    commands = CommandBuffer("step")
    x, y = commands.slot("x", X), commands.slot("y", Y)
    commands.fill(y, -1)
    commands.run(commands.graph(layer()), [x], [y])
    save_commands(tmp_path / "step.commands", commands)
    return tmp_path / "step.commands"


@pytest.fixture(params=["cpu", "reference", "opaque", "webgpu"])
def device(request: pytest.FixtureRequest, opaque: Device) -> Device:
    if request.param == "webgpu" and not adapters(None):
        pytest.skip("no Vulkan, Metal or DX12 adapter; Debian's mesa-vulkan-drivers brings one in software")
    return Device(request.param)


def test_a_file_is_ready_on_every_device_with_its_weights(file: Path, device: Device) -> None:
    rng, weight = np.random.default_rng(3), layer().parameters[0].data
    with Session(device, OPTIONS).prepare(file) as step, CommandStream(device) as stream:
        for _ in range(2):
            x = rng.standard_normal((3, 8)).astype(np.float32)
            bound = {"x": Buffer.from_numpy(x, copy=True, device=device), "y": Buffer.empty(Y, device)}
            step.replay(stream, bound)
            stream.synchronize()
            np.testing.assert_allclose(bound["y"].to(Device("cpu")).numpy(), np.tanh(x @ weight), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["commands", "weighted_commands"])
def test_a_recording_kept_from_an_earlier_version_is_ready_on_every_device(name: str, device: Device) -> None:
    with Session(device, OPTIONS).prepare(DATA / f"{name}.safetensors") as layer, CommandStream(device) as stream:
        commands, done = layer.commands, Semaphore()
        bound = {n: Buffer.empty(t, device) for n, t in commands.slots.items() if n not in commands.constants}
        layer.replay(stream, bound, semaphores={"done": done})
        done.wait(1, SOON)
        out = bound["out"].to(Device("cpu")).numpy()
    np.testing.assert_allclose(out, commands.constants["expected"], rtol=1e-5, atol=1e-6)


def test_a_recording_with_weights_comes_back_from_its_file_as_it_was(file: Path) -> None:
    commands = load_commands(file)
    save_commands(file.with_name("again"), commands)
    assert file.with_name("again").read_bytes() == file.read_bytes()
    other = CommandBuffer("step")
    x, y = other.slot("x", X), other.slot("y", Y)
    other.fill(y, -1)
    other.run(other.graph(layer(seed=2)), [x], [y])
    assert commands.diff(other).count("\n") == 0
    assert "! constant %parameter0" in commands.diff(other)


def test_a_recording_without_its_graph_says_what_to_do() -> None:
    commands = CommandBuffer("step")
    commands.program("double", [X], [X])
    with pytest.raises(CommandError, match=r"(?s)'step' does not carry .* 'double'.*commands\.graph"):
        Session("cpu").prepare(commands)


def test_a_graph_of_other_types_or_that_does_not_parse_is_refused() -> None:
    other, broken, weightless = CommandBuffer("other"), CommandBuffer("broken"), CommandBuffer("weightless")
    other.program("layer", [Y], [X], graph=print_graph(GraphBuilder("none").build({})))
    broken.program("layer", [X], [Y], graph="graph (")
    weightless.program("layer", [X], [Y], graph=print_graph(layer()))
    with pytest.raises(CommandError, match="carries another graph"):
        Session("reference").prepare(other)
    for commands in (broken, weightless):
        with pytest.raises(TextError):
            Session("reference").prepare(commands)


def test_parameters_are_constants_of_the_recording(file: Path, tmp_path: Path) -> None:
    commands = CommandBuffer("step")
    with pytest.raises(CommandError, match="parameter 'w' of program 'p' has no constant 'c'"):
        commands.program("p", [], [], parameters={"w": "c"})
    text = file.read_bytes()
    name = next(iter(load_commands(file).constants)).encode()
    (tmp_path / "spoiled").write_bytes(text.replace(b'\\"' + name + b'\\"]]', b'\\"' + name[::-1] + b'\\"]]'))
    with pytest.raises(CommandFileError, match="has no constant"):
        load_commands(tmp_path / "spoiled")


def test_closing_ends_the_programs(file: Path) -> None:
    step = Session("reference").prepare(file)
    bound = {"x": Buffer.empty(X, step.device), "y": Buffer.empty(Y, step.device)}
    with CommandStream(step.device) as stream:
        stream.run(lambda i, o: step.close())
        step.replay(stream, bound)
        with pytest.raises(DeviceError, match=r"step\[1\] run @"):
            stream.synchronize()
        with pytest.raises(ProgramClosed):
            step.replay(stream, bound)
