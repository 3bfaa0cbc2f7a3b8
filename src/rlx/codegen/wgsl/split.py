"""Arguments larger than a shader may bind, as several bindings each.

A binding is replaced by parts of it, which follow one another, and each access to its array by a function that finds
the part: `a0[i]` becomes `a0_load(i)`, a store `a0_store(i, v)`. This works on a shader's text, so it holds for every
kernel, whoever emitted it. Only kernels that meet such an argument pay for it: a comparison a part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rlx.codegen.wgsl.kernel import Shader
from rlx.errors import UnsupportedKernel

_DECLARATION = re.compile(r"^@group\(0\) @binding\((\d+)\) var<storage, read_write> (\w+): array<(.+)>;$", re.MULTILINE)
_ACCESS = re.compile(r"(?:\b(atomicLoad|atomicAnd|atomicOr)\(&)?\b(\w+)\[")
#: Bytes of an element in storage.
_SIZES = {"f32": 4, "u32": 4, "i32": 4, "atomic<u32>": 4, "i64": 8, "u64": 8, "vec2<u32>": 8, "vec2<f32>": 8,
          "vec4<f32>": 16, "vec4<u32>": 16, "vec4<i32>": 16}  # fmt: skip


def split_bindings(shader: Shader, cuts: Sequence[Sequence[int]]) -> Shader:
    """The shader with its i-th binding in `1 + len(cuts[i])` parts, cut at these bytes, multiples of 16 that rise.

    Parts take consecutive bindings. Raises UnsupportedKernel for elements or accesses that cannot be divided.
    """
    text = shader.source
    declarations, functions, divided = [], [], {}
    number = 0
    for match, ends in zip(_DECLARATION.finditer(text), cuts, strict=True):
        name, element = match[2], match[3]
        parts = [name] if not ends else [f"{name}_{i}" for i in range(len(ends) + 1)]
        for part in parts:
            declarations.append(f"@group(0) @binding({number}) var<storage, read_write> {part}: array<{element}>;")
            number += 1
        if ends:
            if element not in _SIZES or re.search(rf"\b(?:let|var) {name}\b", text):
                raise UnsupportedKernel(f"the argument {name}, of {element} elements, cannot be divided among bindings")
            divided[name] = element
            functions.append(_functions(name, element, [cut // _SIZES[element] for cut in ends]))
    body = _DECLARATION.sub("", text)
    source = "\n".join([*declarations, *functions, _accesses(body, divided)])
    return replace(shader, source=source, bindings=number)


def _functions(name: str, element: str, ends: Sequence[int]) -> str:
    """What loads and stores an element, by its place in the whole; `ends` are the parts' ends, in elements."""

    def chosen(statement: str) -> str:
        lines, start = [], 0
        for i, end in enumerate(ends):
            lines.append(f"  if (i < {end}) {{ {statement.format(place=f'{name}_{i}[i - {start}]')} }}")
            start = end
        return "\n".join([*lines, "  " + statement.format(place=f"{name}_{len(ends)}[i - {start}]")])

    if element == "atomic<u32>":
        return "\n".join(
            [
                f"fn {name}_atomicLoad(i: i32) -> u32 {{\n{chosen('return atomicLoad(&{place});')}\n}}",
                f"fn {name}_atomicAnd(i: i32, v: u32) {{\n{chosen('atomicAnd(&{place}, v); return;')}\n}}",
                f"fn {name}_atomicOr(i: i32, v: u32) {{\n{chosen('atomicOr(&{place}, v); return;')}\n}}",
            ]
        )
    return "\n".join(
        [
            f"fn {name}_load(i: i32) -> {element} {{\n{chosen('return {place};')}\n}}",
            f"fn {name}_store(i: i32, v: {element}) {{\n{chosen('{place} = v; return;')}\n}}",
        ]
    )


def _accesses(text: str, divided: dict[str, str]) -> str:
    """The text with every access to a divided array through its functions."""
    done = []
    at = 0
    while True:
        match = _ACCESS.search(text, at)
        while match is not None and match[2] not in divided:
            match = _ACCESS.search(text, match.end())
        if match is None:
            return "".join([*done, text[at:]])
        name, atomic = match[2], match[1]
        close = _closing(text, match.end() - 1)
        index = _accesses(text[match.end() : close], divided)
        done.append(text[at : match.start()])
        rest = text[close + 1 :]
        if (divided[name] == "atomic<u32>") is (atomic is None):
            raise UnsupportedKernel(f"an access to {name} cannot be divided: ...{text[match.start() : close + 9]}")
        if atomic:
            done.append(f"{name}_{atomic}(i32({index})")
            at = close + 1
        elif re.match(r" = [^=]", rest):
            end = text.index(";", close)
            done.append(f"{name}_store(i32({index}), {_accesses(text[close + 4 : end], divided)})")
            at = end
        else:
            done.append(f"{name}_load(i32({index}))")
            at = close + 1


def _closing(text: str, opening: int) -> int:
    """Where the bracket that opens at `opening` closes."""
    depth = 0
    for at in range(opening, len(text)):
        depth += {"[": 1, "]": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise UnsupportedKernel("a shader's brackets do not match")
