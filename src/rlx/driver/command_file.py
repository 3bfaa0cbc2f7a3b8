"""Recordings as files: safetensors, with the constants as tensors and the rest as JSON in the metadata.

A loaded recording was recorded anew, command by command, so nothing in a file is trusted that a caller would not be.
Equal recordings give equal bytes. Files hold no address, device or path, and load on any machine.

Errors. CommandFileError for a file that is no recording or breaks its rules, with the CommandError as `__cause__`;
TensorFileNotFound where there is none.
Threads. Any thread may call; nothing else may record into a recording that is being saved.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlx.driver.command import Copy, Fill, Operand, Program, Run, Signal, Wait
from rlx.driver.command_buffer import CommandBuffer
from rlx.driver.safetensors import SafetensorsFile, open_safetensors, write_safetensors
from rlx.errors import CommandFileError, RLXError, TensorFileError, TensorFileNotFound
from rlx.ir import dtypes
from rlx.ir.types import TensorType

#: What the metadata calls the form of the file.
FORM = "rlx commands 1"
_KEYS = ("form", "commands")


def save_commands(path: str | Path, commands: CommandBuffer) -> None:
    """Write a recording, replacing what is there. Raises UnsupportedTensor for a constant's dtype, OSError."""
    document = {
        "name": commands.name,
        "slots": [[name, *_type(type)] for name, type in commands.slots.items()],
        "programs": [
            [p.key, [_type(t) for t in p.inputs], [_type(t) for t in p.outputs], p.graph, *_parameters(p)]
            for p in commands.programs.values()
        ],
        "semaphores": commands.semaphores,
        "commands": [_row(command) for command in commands.commands],
    }
    text = json.dumps(document, separators=(",", ":"))
    write_safetensors(Path(path), commands.constants, dict(zip(_KEYS, (FORM, text), strict=True)))


def load_commands(path: str | Path) -> CommandBuffer:
    """Read a recording. Raises as the module says."""
    path = Path(path)
    try:
        file = open_safetensors(path)
    except TensorFileNotFound:
        raise
    except TensorFileError as error:
        raise CommandFileError(f"{str(path)!r} holds no recording: {error.message}", hint=error.hint) from error
    if file.metadata.get("form") != FORM or set(file.metadata) != set(_KEYS):
        raise CommandFileError(
            f"{str(path)!r} holds no recording that this version reads",
            where=f"its form is {file.metadata.get('form')!r}, expected {FORM!r}",
        )
    try:
        return _Reader(file).commands()
    except (RLXError, RecursionError, ValueError, TypeError, OverflowError) as error:
        why = error.message if isinstance(error, RLXError) else f"{type(error).__name__}: {error}"
        raise CommandFileError(
            f"{str(path)!r} breaks the rules of a recording: {why}", where=getattr(error, "where", None)
        ) from error


def _type(type: TensorType) -> list[Any]:
    return [type.dtype.name, list(type.sizes)]


def _place(operand: Operand) -> list[Any]:
    return [operand.slot, operand.offset, *_type(operand.type)]


def _parameters(program: Program) -> list[Any]:
    """A fifth part, for programs that have any."""
    return [[list(pair) for pair in program.parameters]] if program.parameters else []


def _row(command: Fill | Copy | Run | Signal | Wait) -> list[Any]:
    match command:
        case Fill(target, element):
            return ["fill", _place(target), element.hex()]
        case Copy(target, source):
            return ["copy", _place(target), _place(source)]
        case Run(key, inputs, outputs):
            return ["run", key, [_place(o) for o in inputs], [_place(o) for o in outputs]]
        case Signal(semaphore, value):
            return ["signal", semaphore, value]
        case Wait(semaphore, value):
            return ["wait", semaphore, value]


class _Reader:
    """From what JSON gave, which may be anything, to a recording; raises ValueError for another form."""

    def __init__(self, file: SafetensorsFile) -> None:
        self.file = file
        self.result = CommandBuffer()

    def commands(self) -> CommandBuffer:
        document = json.loads(self.file.metadata["commands"])
        parts = ("name", "slots", "programs", "semaphores", "commands")
        if not isinstance(document, dict) or set(document) != set(parts):
            raise ValueError(f"expected exactly {', '.join(parts)}")
        self.result.name = _text(document["name"])
        for name, *type in _rows(document["slots"], 3):
            self._slot(_text(name), _read_type(type))
        if unused := set(self.file.tensors) - set(self.result.constants):
            raise ValueError(f"{sorted(unused)} are tensors without a slot")
        for row in _list(document["programs"]):
            ((key, inputs, outputs, graph, *more),) = _rows([row], 5 if len(_list(row)) == 5 else 4)
            parameters = {_text(name): _text(constant) for name, constant in _rows(more[0], 2)} if more else {}
            types = _read_types(inputs), _read_types(outputs)
            self.result.program(_text(key), *types, graph=_text(graph), parameters=parameters)
        for name in _list(document["semaphores"]):
            self.result.semaphore(_text(name))
        for row in _list(document["commands"]):
            self._command(row)
        return self.result

    def _slot(self, name: str, type: TensorType) -> None:
        array = self.file.tensors.get(name)
        if array is None:
            self.result.slot(name, type)
        elif self.result.constant(name, array).type != type:
            raise ValueError(f"constant {name!r} is declared as {type}, its tensor is {self.result.slots[name]}")

    def _command(self, row: Any) -> None:
        readers: dict[str, tuple[int, Callable[..., Any]]] = {
            "fill": (3, lambda target, element: Fill(_operand(target), bytes.fromhex(_text(element)))),
            "copy": (3, lambda target, source: Copy(_operand(target), _operand(source))),
            "run": (4, lambda key, inputs, outputs: Run(_text(key), _operands(inputs), _operands(outputs))),
            "signal": (3, lambda semaphore, value: Signal(_text(semaphore), value)),
            "wait": (3, lambda semaphore, value: Wait(_text(semaphore), value)),
        }
        kind = row[0] if isinstance(row, list) and row else None
        if not isinstance(kind, str) or kind not in readers:
            raise ValueError(f"{kind!r} is no command")
        length, read = readers[kind]
        (found,) = _rows([row], length)
        self.result.add(read(*found[1:]))


def _list(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError(f"expected a list, found {found!r}")
    return found


def _rows(found: Any, length: int) -> list[list[Any]]:
    if any(len(_list(row)) != length for row in _list(found)):
        raise ValueError(f"expected lists of {length}")
    return found


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise ValueError(f"expected a string, found {found!r}")
    return found


def _read_type(found: Any) -> TensorType:
    ((dtype, sizes),) = _rows([found], 2)
    if any(type(size) is not int or not 0 <= size < 2**48 for size in _list(sizes)) or len(sizes) > 64:
        raise ValueError(f"{sizes!r} is no shape")
    return TensorType(tuple(sizes), dtypes.by_name(_text(dtype)))


def _read_types(found: Any) -> list[TensorType]:
    return [_read_type(row) for row in _list(found)]


def _operand(found: Any) -> Operand:
    ((slot, offset, *type_of),) = _rows([found], 4)
    if type(offset) is not int or offset < 0:
        raise ValueError(f"{offset!r} is no offset")
    return Operand(_text(slot), _read_type(type_of), offset)


def _operands(found: Any) -> tuple[Operand, ...]:
    return tuple(_operand(row) for row in _list(found))
