"""Functions that shaders call, in WGSL: each shader gets those that it names, and what they need.

A function is written once, as text, in one of the files of this package; `functions_for` picks. All of them work in f32
and 32-bit integers alone, unless their name says otherwise, and promise no more of the shader compiler than WGSL does:
no fused multiply-add, no reassociation where it would matter (sums that must not be rearranged go through integers).
"""

from __future__ import annotations

import re

from rlx.codegen.wgsl.exponential import EXPONENTIAL
from rlx.codegen.wgsl.floats import FLOATS
from rlx.codegen.wgsl.inverse import INVERSE
from rlx.codegen.wgsl.trigonometric import TRIGONOMETRIC
from rlx.codegen.wgsl.whole import WHOLE
from rlx.codegen.wgsl.wide_integers import WIDE_INTEGERS

_NAME = re.compile(r"\brlx_\w+")
_DEFINITION = re.compile(r"^(?:fn (rlx_\w+)|var<private> (rlx_\w+)|const (rlx_\w+))", re.MULTILINE)

#: Names of what is no number, read from variables so that no shader compiler folds them.
_PRIVATE = """
var<private> rlx_inf_bits: u32 = 0x7f800000u;
var<private> rlx_nan_bits: u32 = 0x7fc00000u;
var<private> rlx_sign_bit: u32 = 0x80000000u;
"""


def _definitions(*texts: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        starts = list(_DEFINITION.finditer(text))
        ends = [m.start() for m in starts[1:]] + [len(text)]
        for match, end in zip(starts, ends, strict=True):
            name = match[1] or match[2] or match[3]
            assert name not in found, f"{name} is defined twice"
            found[name] = text[match.start() : end].strip()
    return found


_FUNCTIONS = _definitions(_PRIVATE, FLOATS, EXPONENTIAL, TRIGONOMETRIC, INVERSE, WHOLE, WIDE_INTEGERS)


def functions_for(text: str) -> str:
    """Definitions of every rlx_* name in `text`, and of those that they name, each after what it needs."""
    chosen: dict[str, str] = {}

    def need(name: str) -> None:
        if name not in chosen:
            definition = _FUNCTIONS[name]
            for other in sorted(set(_NAME.findall(definition)) - {name}):
                need(other)
            chosen[name] = definition

    for name in sorted(set(_NAME.findall(text))):
        need(name)
    return "\n".join(chosen.values())
