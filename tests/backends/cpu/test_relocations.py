"""AArch64 instructions are patched by its reference manual, and an object for it links into an image."""

from __future__ import annotations

import struct

import pytest

from rlx.backends.cpu.linker import link
from rlx.backends.cpu.relocations import AArch64
from rlx.codegen.llvm.object import compile_kernels
from rlx.codegen.target import PRESETS
from rlx.ir.dtypes import f32
from rlx.testing.kernel_runner import pointwise_kernel

#: (instruction before, relocation, its place, its target, instruction after)
WORDS = {
    "bl, back": (0x94000000, 283, 0x1004, 0x1000, 0x97FFFFFF),
    "b, forth": (0x14000000, 282, 0x1000, 0x101000, 0x14040000),
    "adrp x0, two pages on": (0x90000000, 275, 0x1FFC, 0x3010, 0xD0000000),
    "adrp x1, a page back": (0x90000001, 275, 0x2000, 0x1FFF, 0xF0FFFFE1),
    "add x0, x0, #0xabc": (0x91000000, 277, 0, 0x5ABC, 0x912AF000),
    "ldrb w0, [x1, #5]": (0x39400020, 278, 0, 0x1005, 0x39401420),
    "ldrh w0, [x1, #6]": (0x79400020, 284, 0, 0x1006, 0x79400C20),
    "ldr s0, [x1, #8]": (0xBD400020, 285, 0, 0x1008, 0xBD400820),
    "ldr d0, [x1, #8]": (0xFD400020, 286, 0, 0x1008, 0xFD400420),
    "ldr q0, [x0, #16]": (0x3DC00000, 299, 0, 0x1010, 0x3DC00400),
    "ldr x0, [x0, #8], of a slot": (0xF9400000, 312, 0, 0x1008, 0xF9400400),
}


@pytest.mark.parametrize("name", WORDS)
def test_an_instruction_refers_to_its_target(name: str) -> None:
    before, kind, where, to, after = WORDS[name]
    image = bytearray(where + 4)
    struct.pack_into("<I", image, where, before)
    assert AArch64().patch(image, kind, where, to)
    assert struct.unpack_from("<I", image, where)[0] == after


def test_an_unknown_kind_is_left_to_the_linker_to_refuse() -> None:
    assert not AArch64().patch(bytearray(8), 279, 0, 0)


def test_words_hold_the_distance() -> None:
    image = bytearray(16)
    assert AArch64().patch(image, 260, 0, -8)
    assert AArch64().patch(image, 261, 8, 12)
    assert struct.unpack_from("<qi", image) == (-8, 4)


def test_an_object_links_with_a_stub_for_each_function_of_the_c_library() -> None:
    kernels = [("k_sin", pointwise_kernel("sin", [f32], f32)), ("k_exp", pointwise_kernel("exp", [f32], f32))]
    image = link(compile_kernels(kernels, PRESETS["neon"]))
    assert set(image.functions) >= {"k_sin", "k_exp"}
    assert "sin" in image.externals
    assert image.code_bytes % 65536 == 0  # the largest pages that systems use
    assert image.externals["sin"] >= image.code_bytes
    jumps = sum(word == 0xD61F0200 for (word,) in struct.iter_unpack("<I", image.data[: image.code_bytes]))  # br x16
    assert jumps == len(image.externals)
