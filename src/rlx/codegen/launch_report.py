"""What an artefact says of its launches, as rows of JSON: the same on every backend, read by the runtime's report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rlx.codegen.kernel import Kernel
from rlx.codegen.program import Launch, Step, walk_steps


def launch_rows(steps: Iterable[Step], name: Callable[[Kernel], str]) -> list[dict[str, Any]]:
    """A row a launch, nested ones included, in program order; `name` is the native kernel's, equal for equal code."""
    return [
        {
            "kernel": name(step.kernel),
            "label": step.kernel.label,
            "ops": list(step.sources),
            "flops": step.kernel.cost.flops,
            "bytes": step.kernel.cost.bytes,
            "factors": step.kernel.cost.factors,
            "location": str(step.location),
        }
        for step in walk_steps(steps)
        if isinstance(step, Launch)
    ]
