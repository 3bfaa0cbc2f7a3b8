"""Plans of channels-last convolutions: every one that is offered gives the default's bits; nothing else is allowed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlx.backends.cpu.assemble import assemble
from rlx.backends.cpu.conv import prefers_channels_last
from rlx.backends.cpu.conv_pixels import PixelPlan
from rlx.backends.cpu.executable import CpuExecutable
from rlx.backends.cpu.host import supported_targets
from rlx.backends.cpu.scheduled import Choices, ScheduledTemplates
from rlx.codegen.lower import lower
from rlx.codegen.target import PRESETS
from rlx.driver import Buffer, Device
from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import f32
from rlx.options import Options
from rlx.passes.channels_last import channels_last
from rlx.passes.pipeline import optimize

SHAPE, WEIGHTS = (2, 5, 13, 9), (40, 5, 3, 3)


@pytest.fixture(scope="module")
def graph() -> Graph:
    """relu(convolution of 3 x 3, stride 1, padded)."""
    b = GraphBuilder("conv")
    x, w = b.input("x", TensorType(SHAPE, f32)), b.parameter("w", np.ones(WEIGHTS, np.float32))
    ones = dict.fromkeys(("strides", "lhs_dilation", "rhs_dilation"), (1, 1))
    y = b.emit("conv_general", x, w, padding=((1, 1), (1, 1)), groups=1, **ones)
    return channels_last(optimize(b.build({"y": b.emit("relu", y)}), level=2), prefers_channels_last)


def choices_of(graph: Graph, target: str) -> tuple[str, Choices]:
    templates = ScheduledTemplates(PRESETS[target], "direct", {})
    lower(graph, templates)
    ((site, choices),) = templates.choices.items()
    return site, choices


def answer(graph: Graph, target: str, site: str, plan: PixelPlan) -> np.ndarray:
    rng = np.random.default_rng(8)
    templates = ScheduledTemplates(PRESETS[target], "direct", {site: plan})
    program = lower(graph, templates)
    assert list(templates.chosen.values()) == [str(plan)]
    executable = CpuExecutable(assemble(program, PRESETS[target], Options()), Device("cpu"), Options(threads=2))
    executable.bind_parameters({name: rng.standard_normal(WEIGHTS, np.float32) for name in program.parameters})
    (out,) = (Buffer.from_numpy(np.full(t.sizes, np.nan, np.float32)) for t in program.outputs.values())
    executable.run([Buffer.from_numpy(rng.standard_normal(SHAPE, np.float32))], [out])
    found = np.array(out.numpy())
    executable.close()
    return found


@pytest.mark.parametrize("target", [t for t in ("avx512", "avx2", "portable") if t in supported_targets()])
def test_every_plan_that_is_offered_gives_the_bits_of_the_default(graph, target):
    site, choices = choices_of(graph, target)
    tiles = choices.other_tiles()
    plans = [choices.default, *tiles[:3], *choices.other_cuts(choices.default), *choices.other_cuts(tiles[-1])[:2]]
    assert len(plans) > 4
    assert all(choices.allows(plan) for plan in plans)
    wanted = answer(graph, target, site, plans[0])
    assert not np.isnan(wanted).any()
    for plan in plans[1:]:
        assert answer(graph, target, site, plan).tobytes() == wanted.tobytes(), str(plan)


def test_a_plan_survives_json_and_nothing_else_is_read_as_one(graph):
    _, choices = choices_of(graph, "avx2")
    document = choices.default.document()
    assert PixelPlan.of(document) == choices.default
    for wrong in ({}, {**document, "more": 1}, {**document, "band": 1.5}, {**document, "rows": True}):
        with pytest.raises(ValueError, match="not a plan"):
            PixelPlan.of(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"columns": 10},
        {"rows": 14},
        {"vectors": 9},
        {"rows": 2, "columns": 4},
        {"band": 14},
        {"panels": 100},
        {"band": 0},
    ],
)
def test_what_there_is_no_code_for_is_not_allowed(graph, change):
    _, choices = choices_of(graph, "avx2")
    assert choices.allows(choices.default)
    assert not choices.allows(replace(choices.default, **change))


def test_bands_are_whole_tiles(graph):
    _, choices = choices_of(graph, "avx512")
    plan = PixelPlan(rows=2, columns=9, vectors=1, band=4, panels=1)
    assert choices.allows(plan)
    assert not choices.allows(replace(plan, band=5))
