"""Primitives against outside references: what PyTorch, Python's integers and plain loops answered."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rlx.ir import all_ops
from rlx.ir.op import Sample
from rlx.testing.op_samples import assert_close, evaluate_sample

#: Control flow and strangers' functions have tests of their own.
WITHOUT = {"cond", "while_loop", "scan", "custom_call"}
PRIMITIVES = sorted(name for name, op in all_ops().items() if not op.is_composite and name not in WITHOUT)


@functools.cache
def goldens() -> ModuleType:
    path = Path(__file__).parent / "op_goldens.py"
    spec = importlib.util.spec_from_file_location("op_goldens", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def cases() -> dict[str, list]:
    found: dict[str, list] = {}
    for case in goldens().load():
        found.setdefault(case.op, []).append(case)
    return found


@pytest.mark.parametrize("op", PRIMITIVES)
def test_a_primitive_answers_as_the_outside_reference_does(op: str) -> None:
    assert len(cases()[op]) >= 6
    for case in cases()[op]:
        sample = Sample(case.arrays, case.attrs)
        assert_close(op, sample, evaluate_sample(op, sample), case.expected)
