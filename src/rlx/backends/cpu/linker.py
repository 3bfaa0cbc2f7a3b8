"""Link relocatable ELF objects into a flat image that any process can map and run.

`link` lays the allocated sections out as two parts, code with its read-only data first, writable data after it from a
page boundary on, and applies every relocation that does not depend on where the image will stand. Calls to functions
that no object defines (libc, libm) go through stubs that jump to slots in the writable part; the loader
(`rlx.backends.cpu.image`) fills the slots. The objects come from our own code generator with the small,
position-independent code model, so only a handful of relocation kinds can appear (`rlx.backends.cpu.relocations`); any
other is a LinkError. Global names are unique: no two objects define the same one.

Source: ELF-64 Object File Format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rlx.backends.cpu.relocations import MACHINES, Machine
from rlx.errors import RLXError

SHT_RELA, SHT_NOBITS = 4, 8
SHF_WRITE, SHF_ALLOC = 1, 2
SHN_UNDEF, SHN_ABS, SHN_COMMON = 0, 0xFFF1, 0xFFF2


class LinkError(RLXError, RuntimeError):
    """An object file is not one that our code generator writes."""

    code = "RLX-C020"


@dataclass(frozen=True)
class LinkedImage:
    """A position-independent image.

    data: the bytes; the first `code_bytes` (whole pages) are to be executable, the rest writable.
    functions: name -> offset of each defined function that has external linkage.
    externals: name -> offsets of 8-byte slots that must hold that function's address.
    absolute: (offset, target offset): 8-byte slots that must hold image address + target offset.
    """

    data: bytes
    code_bytes: int
    functions: dict[str, int]
    externals: dict[str, int]
    absolute: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Section:
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int
    is_function: bool
    is_global: bool


def _string(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


def _machine(elf: bytes) -> Machine:
    if elf[:6] != b"\x7fELF\x02\x01" or len(elf) < 64:
        raise LinkError("not a 64-bit little-endian ELF object")
    kind, number = struct.unpack_from("<HH", elf, 16)
    machine = next((m for m in MACHINES if m.elf == number), None)
    if kind != 1 or machine is None:
        raise LinkError(f"ELF type {kind}, machine {number}: expected a relocatable object for x86-64 or AArch64")
    return machine


def _sections(elf: bytes) -> list[_Section]:
    (table_offset,) = struct.unpack_from("<Q", elf, 40)
    entry_size, count, names_index = struct.unpack_from("<HHH", elf, 58)
    raw = [struct.unpack_from("<IIQQQQIIQQ", elf, table_offset + i * entry_size) for i in range(count)]
    names = elf[raw[names_index][4] : raw[names_index][4] + raw[names_index][5]]
    return [_Section(_string(names, r[0]), r[1], r[2], r[4], r[5], r[6], r[7], max(1, r[8])) for r in raw]


def _symbols(elf: bytes, sections: list[_Section]) -> list[_Symbol]:
    table = next((s for s in sections if s.type == 2), None)
    if table is None:
        raise LinkError("the object has no symbol table")
    strings_at = sections[table.link]
    strings = elf[strings_at.offset : strings_at.offset + strings_at.size]
    symbols = []
    for at in range(table.offset, table.offset + table.size, 24):
        name, info, _other, section, value, _size = struct.unpack_from("<IBBHQQ", elf, at)
        symbols.append(_Symbol(_string(strings, name), section, value, info & 15 == 2, info >> 4 != 0))
    return symbols


def _align(value: int, to: int) -> int:
    return -(-value // to) * to


def link(*objects: bytes) -> LinkedImage:
    """Link objects of one machine. Raises LinkError for what our code generator never writes."""
    machine = _machine(objects[0])
    sections = {(o, i): s for o, elf in enumerate(objects) for i, s in enumerate(_sections(elf))}
    symbols = [_symbols(elf, [s for (of, _), s in sections.items() if of == o]) for o, elf in enumerate(objects)]
    loaded = [
        at for at, s in sections.items()
        if s.flags & SHF_ALLOC and s.size and not s.name.startswith((".eh_frame", ".note"))
    ]  # fmt: skip
    defined = {
        s.name: (o, s)
        for o, table in enumerate(symbols)
        for s in table
        if s.is_global and s.section != SHN_UNDEF and (o, s.section) in sections
    }
    undefined = sorted({s.name for t in symbols for s in t if s.section == SHN_UNDEF and s.name} - defined.keys())

    # Code and read-only data, then a stub an undefined function; from the next page on the slots and writable data.
    place: dict[tuple[int, int], int] = {}
    end = 0
    for at in (at for at in loaded if not sections[at].flags & SHF_WRITE):
        place[at] = _align(end, sections[at].align)
        end = place[at] + sections[at].size
    stubs_at = _align(end, 16)
    code_bytes = _align(stubs_at + machine.stub_bytes * len(undefined), machine.page)
    slots = {name: code_bytes + 8 * i for i, name in enumerate(undefined)}
    stubs = {name: stubs_at + machine.stub_bytes * i for i, name in enumerate(undefined)}
    end = code_bytes + 8 * len(undefined)
    for at in (at for at in loaded if sections[at].flags & SHF_WRITE):
        place[at] = _align(end, sections[at].align)
        end = place[at] + sections[at].size

    image = bytearray(end)
    for at in loaded:
        s = sections[at]
        if s.type != SHT_NOBITS:
            image[place[at] : place[at] + s.size] = objects[at[0]][s.offset : s.offset + s.size]
    for name in undefined:
        machine.write_stub(image, stubs[name], slots[name])

    indirect: dict[int, int] = {}  # target offset -> slot that holds its address (for GOT loads of our own symbols)
    absolute: list[tuple[int, int]] = []
    for (o, _), s in sections.items():
        if s.type != SHT_RELA or (o, s.info) not in place:
            continue
        base = place[o, s.info]
        for at in range(s.offset, s.offset + s.size, 24):
            offset, info, addend = struct.unpack_from("<QQq", objects[o], at)
            kind, symbol, of = info & 0xFFFFFFFF, symbols[o][info >> 32], o
            where = base + offset
            if symbol.section == SHN_UNDEF and symbol.name in defined:
                of, symbol = defined[symbol.name]
            external = symbol.section == SHN_UNDEF
            if not external and (of, symbol.section) not in place:
                raise LinkError(f"relocation against {symbol.name!r}, which is in no loaded section")
            target = stubs[symbol.name] if external else place[of, symbol.section] + symbol.value
            if kind in machine.absolute:
                if where < code_bytes:
                    raise LinkError(f"absolute address of {symbol.name!r} in read-only code")
                absolute.append((where, target + addend))
                continue
            if kind in machine.through_slot:
                if external:
                    target = slots[symbol.name]
                else:
                    slot = indirect.setdefault(target, _align(len(image), 8))
                    if slot >= len(image):
                        image.extend(bytes(slot + 8 - len(image)))
                        absolute.append((slot, target))
                    target = slot
            if not machine.patch(image, kind, where, target + addend):
                raise LinkError(f"relocation kind {kind} against {symbol.name!r}")

    functions = {
        name: place[o, s.section] + s.value
        for name, (o, s) in defined.items()
        if s.is_function and (o, s.section) in place
    }
    return LinkedImage(bytes(image), code_bytes, functions, slots, tuple(absolute))
