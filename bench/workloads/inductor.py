"""torch.compile, where it can work: it needs a C++ compiler on the machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from workload import Missing


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through inductor, weights frozen into it."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise Missing("inductor needs a C++ compiler, and there is none here")
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    return torch.compile(function, dynamic=False)
