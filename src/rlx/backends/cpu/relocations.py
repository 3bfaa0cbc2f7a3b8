"""What a linker must know of a processor: its relocations, and stubs that call functions elsewhere.

Each `Machine` patches an image in place. Only the kinds that our code generator's small, position-independent code can
hold are known; the linker refuses others. Images are mapped at multiples of `page`, on which code that finds addresses
by pages relies.

Sources: System V ABI, AMD64 supplement, section 4.4; ELF for the Arm 64-bit Architecture, section 5.7.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Protocol


class Machine(Protocol):
    """One processor architecture.

    elf: its number in ELF files. page: the largest page that systems on it use. stub_bytes: size of a stub.
    absolute: kinds that ask for an 8-byte address. through_slot: kinds whose target is a slot with the symbol's
    address, not the symbol.
    """

    elf: int
    page: int
    stub_bytes: int
    absolute: frozenset[int]
    through_slot: frozenset[int]

    def write_stub(self, image: bytearray, at: int, slot: int) -> None:
        """Code at `at` that jumps to the address in `slot`."""
        ...

    def patch(self, image: bytearray, kind: int, where: int, to: int) -> bool:
        """Let the instruction or word at `where` refer to `to`; False for a kind that is not known."""
        ...


class AMD64:
    """R_X86_64_*: 64 (1); PC32 (2), PLT32 (4), PC64 (24); GOTPCREL (9), GOTPCRELX (41), REX_GOTPCRELX (42)."""

    elf, page, stub_bytes = 62, 4096, 8
    absolute = frozenset((1,))
    through_slot = frozenset((9, 41, 42))

    def write_stub(self, image: bytearray, at: int, slot: int) -> None:
        struct.pack_into("<HI", image, at, 0x25FF, slot - at - 6)  # jmp *slot(%rip)

    def patch(self, image: bytearray, kind: int, where: int, to: int) -> bool:
        if kind in (2, 4, 9, 41, 42):
            struct.pack_into("<i", image, where, to - where)
        elif kind == 24:
            struct.pack_into("<q", image, where, to - where)
        else:
            return False
        return True


class AArch64:
    """R_AARCH64_*: ABS64 (257); PREL64 (260), PREL32 (261); JUMP26 (282), CALL26 (283); ADR_PREL_PG_HI21 (275) with
    ADD_ABS_LO12_NC (277) and LDST{8, 16, 32, 64, 128}_ABS_LO12_NC (278, 284, 285, 286, 299); ADR_GOT_PAGE (311) with
    LD64_GOT_LO12_NC (312).
    """

    elf, page, stub_bytes = 183, 1 << 16, 16
    absolute = frozenset((257,))
    through_slot = frozenset((311, 312))
    #: Low twelve bits of an address in an instruction: kind -> how far they are shifted right.
    _low: ClassVar = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4, 312: 3}

    def write_stub(self, image: bytearray, at: int, slot: int) -> None:
        struct.pack_into("<III", image, at, 0x90000010, 0xF9400210, 0xD61F0200)  # adrp x16; ldr x16, [x16]; br x16
        self.patch(image, 275, at, slot)
        self.patch(image, 286, at + 4, slot)

    def patch(self, image: bytearray, kind: int, where: int, to: int) -> bool:
        if kind == 260:
            struct.pack_into("<q", image, where, to - where)
            return True
        if kind == 261:
            struct.pack_into("<i", image, where, to - where)
            return True
        (word,) = struct.unpack_from("<I", image, where)
        if kind in (282, 283):
            word |= (to - where) >> 2 & 0x3FFFFFF
        elif kind in (275, 311):
            pages = (to >> 12) - (where >> 12)
            word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
        elif kind in self._low:
            word |= (to & 0xFFF) >> self._low[kind] << 10
        else:
            return False
        struct.pack_into("<I", image, where, word)
        return True


MACHINES: tuple[Machine, ...] = (AMD64(), AArch64())
