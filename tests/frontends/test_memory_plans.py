"""The memory plans of real models' programs are as small as plans can be, or nearly so."""

from __future__ import annotations

from collections import defaultdict

import pytest

from rlx.backends.cpu.conv import prefers_channels_last
from rlx.backends.cpu.matrix import CpuTemplates
from rlx.backends.cpu.records import Flattener, Tables
from rlx.codegen.lower import lower
from rlx.codegen.target import PRESETS
from rlx.driver import Interval, certify
from rlx.frontends import load
from rlx.ir import Graph
from rlx.passes.channels_last import channels_last
from rlx.passes.pipeline import optimize

NAMES = (
    "magika", "basic-pitch", "ocr-direction", "ocr-recognition", "ocr-detection", "silero-16k", "light-resnet50",
)  # fmt: skip


def _tables(graph: Graph) -> Tables:
    """What the CPU's compiler plans for the graph, without the native code."""
    optimized = channels_last(optimize(graph, level=2), prefers_channels_last)
    program = lower(optimized, CpuTemplates(PRESETS["avx512"]))
    flattener = Flattener(program, defaultdict(int), defaultdict(int))
    flattener.add(program.steps)
    return flattener.finish(debug=False)


def _check(graph: Graph) -> int:
    """Check the plan; the size of the arena."""
    tables = _tables(graph)
    rows = [Interval(f"{i}:{name}", first, end, size) for i, (name, first, end, _, size) in enumerate(tables.arena_map)]
    assert len(rows) > 5
    certify(tables.plan, rows)
    assert 1.0 <= tables.plan.ratio <= 1.05
    return tables.plan.size


@pytest.mark.parametrize("name", NAMES)
def test_a_real_models_plan_is_within_a_twentieth_of_its_bound(name, real_models, model_file) -> None:
    size = _check(load(model_file(name)).specialize(real_models.MODELS[name].shapes))
    if name == "light-resnet50":
        assert size < 6_000_000, "a residual sum overwrites what it adds to"


def test_minilms_plan_is_within_a_twentieth_of_its_bound(minilm) -> None:
    model = load(minilm)
    size = _check(model.specialize(dict.fromkeys(model.inputs, (32, 128))))
    tokens, width, inner = 32 * 128, 384, 1536
    assert size == tokens * (width + inner) * 4, "a residual sum overwrites what it adds to"
