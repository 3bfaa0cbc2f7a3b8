"""Every error that RLX raises on purpose.

An RLX error is a message in up to four parts: what is wrong (which thing, what came, what was expected), where it was
decided, and what to do. `str(error)` joins them; the first line begins with the class name and ends in nothing:

    ShapeMismatch [RLX-R012]: input 'mask' has shape (1, 64), the program expects (1, 128)
      compiled from model.onnx, where 'mask' is (batch, sequence)
      pad the input, or compile again with shapes={'mask': (1, 64)}

`code` is stable: it never changes meaning and is never reused. The letter names the layer: I ir, D driver, P passes,
C codegen, R runtime, F frontends, U user interface. Classes also derive from the builtin a Python user would catch
(ValueError, TypeError, ...). Errors pickle.
"""

from __future__ import annotations

from collections.abc import Iterable


class RLXError(Exception):
    """The root of all errors that RLX raises on purpose.

    message: one line: which thing, both sides.
    where: where it was decided: a model's node, a source line, a file.
    hint: what the user can do now.
    """

    code: str = "RLX-X000"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{type(self).__name__} [{self.code}]: {self.message}"]
        lines += [f"  {part}" for part in (self.where, self.hint) if part]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.where, self.hint))


def _rebuild(cls: type[RLXError], message: str, where: str | None, hint: str | None) -> RLXError:
    return cls(message, where=where, hint=hint)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to `word`, or None where none is close: for 'did you mean'."""
    import difflib

    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


# -- ir ------------------------------------------------------------------------------------------------------------


class IRError(RLXError, ValueError):
    """A graph or one of its parts breaks a rule of the IR."""

    code = "RLX-I001"


class UnknownOp(IRError):
    """No op record has this name."""

    code = "RLX-I002"


class TypeRuleError(IRError, TypeError):
    """An op's shape or dtype rule refuses its operands or attributes."""

    code = "RLX-I003"


class VerifyError(IRError):
    """The verifier found a graph that breaks SSA, typing or naming."""

    code = "RLX-I004"


class TextError(IRError):
    """The text form does not parse; the message carries line and column."""

    code = "RLX-I005"


class InterpretError(IRError):
    """The interpreter was given inputs that the graph does not take, or an op failed while it was evaluated."""

    code = "RLX-I006"


# -- driver --------------------------------------------------------------------------------------------------------


class DriverError(RLXError):
    """A device, its memory or its queue was asked for something it cannot give."""

    code = "RLX-D001"


class DeviceNameError(DriverError, ValueError):
    """A device's name does not parse; it is a kind, or a kind, a colon and an ordinal: `cpu`, `cuda:1`."""

    code = "RLX-D002"


class DeviceNotFound(DriverError, LookupError):
    """No such device is here; the hint lists those that are."""

    code = "RLX-D003"


class BrokenBackend(DriverError, ImportError):
    """A backend's entry point does not import, or gives something that is not a backend; names the distribution."""

    code = "RLX-D004"


class DuplicateBackend(DriverError):
    """Two distributions claim one kind of device; names both."""

    code = "RLX-D005"


class BufferFreed(DriverError, RuntimeError):
    """A buffer was used after its bytes, or the bytes it views, were freed."""

    code = "RLX-D006"


class BufferDonated(BufferFreed):
    """A buffer was used after its bytes, or the bytes it views, were donated."""

    code = "RLX-D022"


class BufferReadOnly(DriverError, BufferError):
    """A write to, or a writable export of, a read-only buffer."""

    code = "RLX-D007"


class BufferMismatch(DriverError, ValueError):
    """Two sides of a transfer, or a value and its buffer, differ in shape, dtype, device or length; shows both."""

    code = "RLX-D008"


class LayoutError(DriverError, ValueError):
    """A view cannot be expressed by strides over the same bytes, or an operation needs contiguous bytes."""

    code = "RLX-D009"


class NotHostMemory(DriverError, BufferError):
    """Device memory was read as if it were host memory."""

    code = "RLX-D010"


class NotOwner(DriverError, RuntimeError):
    """A view, or a buffer inside an arena, was asked to free bytes that belong to another."""

    code = "RLX-D011"


class DLPackError(DriverError, BufferError):
    """A tensor cannot cross by DLPack as asked; says which part of the protocol stands in the way."""

    code = "RLX-D012"


class ArrayInterfaceError(DriverError, BufferError):
    """An object's array interface is missing, malformed, or says what no buffer can be."""

    code = "RLX-D021"


class FileMapError(DriverError, OSError):
    """A file cannot be mapped as asked: absent, too short, misaligned, or not writable."""

    code = "RLX-D013"


class MemoryKindError(DriverError, ValueError):
    """A device has no memory of the kind asked for; lists the kinds that it has."""

    code = "RLX-D020"


class OutOfMemory(DriverError, MemoryError):
    """A device has no room; says requested, free, limit, reserved, largest hole, and the largest holders."""

    code = "RLX-D014"


class BindingLimit(DriverError, ValueError):
    """A kernel would see more bytes of one tensor than the device lets a shader bind; says both numbers."""

    code = "RLX-D051"


class PlanError(DriverError, ValueError):
    """A memory plan's input or the plan itself breaks a rule; names the values."""

    code = "RLX-D015"


class RedZoneError(DriverError, RuntimeError):
    """Bytes outside every value of a debug arena were overwritten; names the nearest value."""

    code = "RLX-D016"


class DeviceError(DriverError, RuntimeError):
    """An operation on a stream failed; names the first that did. Its exception is the `__cause__`."""

    code = "RLX-D017"


class DeviceLost(DeviceError):
    """A device stopped answering: reset, removed, or its driver crashed. What was on it is gone, for good."""

    code = "RLX-D050"


class EventError(DriverError, RuntimeError):
    """An event was recorded twice, or waited for before it was recorded."""

    code = "RLX-D018"


class EventTimeout(DriverError, TimeoutError):
    """An event was not reached in the time given."""

    code = "RLX-D019"


class SemaphoreError(DriverError, ValueError):
    """A semaphore was asked for a payload that does not grow or that 64 bits do not hold."""

    code = "RLX-D030"


class SemaphoreTimeout(DriverError, TimeoutError):
    """A semaphore did not reach a value in the time given; says where it is."""

    code = "RLX-D031"


class CommandError(DriverError, ValueError):
    """A recording, or what it is replayed with, breaks a rule: a wrong binding, an unknown name, an overlap."""

    code = "RLX-D032"


class CommandFileError(CommandError):
    """A file holds no recording: cut short, not of this format, or breaking a recording's rules."""

    code = "RLX-D033"


class TensorFileError(DriverError, ValueError):
    """A safetensors file breaks its format's rules: an undefined dtype, wrong sizes, overlapping tensors."""

    code = "RLX-D034"


class TensorFileNotFound(TensorFileError, FileNotFoundError):
    """The path of a safetensors file does not exist."""

    code = "RLX-D035"


class DamagedTensorFile(TensorFileError):
    """A safetensors file is cut short, or its header does not decode."""

    code = "RLX-D036"


class UnsupportedTensor(TensorFileError, NotImplementedError):
    """A safetensors file, or one to be written, has elements of a dtype that the other side does not know."""

    code = "RLX-D037"


class StateMismatch(DriverError, ValueError):
    """A file of states lacks one that was asked for, or has it with another type; shows both."""

    code = "RLX-D038"


# -- frontends -----------------------------------------------------------------------------------------------------


class FrontendError(RLXError, ValueError):
    """A model could not be read or imported."""

    code = "RLX-F001"


class ModelNotFound(FrontendError, FileNotFoundError):
    """The path of a model does not exist."""

    code = "RLX-F002"


class NotAModel(FrontendError):
    """The file or directory holds no kind of model that RLX reads."""

    code = "RLX-F003"


class DamagedModel(FrontendError):
    """The file is cut short or its bytes do not decode."""

    code = "RLX-F004"


class InvalidModel(FrontendError):
    """The file decodes, but what it says breaks its format's rules: an undefined name, a missing type or operand."""

    code = "RLX-F005"


class UnknownModelOp(FrontendError, NotImplementedError):
    """The model uses an op that RLX has no rule for; the message names op, domain, opset and node."""

    code = "RLX-F006"


class UnsupportedModel(FrontendError, NotImplementedError):
    """The model uses a feature or an attribute value that RLX has no rule for; the message names the node."""

    code = "RLX-F007"


class ExternalDataRefused(FrontendError, PermissionError):
    """A model asks for weights from a file outside its own folder."""

    code = "RLX-F008"


class InputMismatch(FrontendError, TypeError):
    """Given shapes or values name an unknown input or contradict what the model declares; both sides are shown."""

    code = "RLX-F009"


class OpenShape(FrontendError):
    """A dimension that the model leaves open was given no size."""

    code = "RLX-F010"


class DataDependentShape(FrontendError):
    """A shape follows from values known only when the model runs; the message names node, op and the input to fix."""

    code = "RLX-F011"


class MissingExtra(FrontendError, ImportError):
    """A package that this frontend needs is not installed; the hint says which extra brings it."""

    code = "RLX-F012"


class ModelWarning(UserWarning):
    """A model loads, but part of it cannot work for the shapes it is imported for."""


# -- codegen -------------------------------------------------------------------------------------------------------


class CodegenError(RLXError):
    """Target code could not be made."""

    code = "RLX-C001"


class UnsupportedKernel(CodegenError, NotImplementedError):
    """A kernel holds what the emitter has no code for: an op on a dtype, a statement where it may not stand."""

    code = "RLX-C002"


class EmitError(CodegenError, RuntimeError):
    """LLVM refused a module that the emitter wrote; names the kernel and quotes LLVM."""

    code = "RLX-C003"


# -- lowering ------------------------------------------------------------------------------------------------------


class LoweringError(RLXError):
    """A graph cannot become kernels: a symbolic size, or an op that no lowering rule knows."""

    code = "RLX-C010"


class CustomCallNotCompiled(LoweringError):
    """A custom call has no native code; only the interpreter runs it."""

    code = "RLX-C011"


# -- runtime -------------------------------------------------------------------------------------------------------


class RunError(RLXError):
    """A program was called in a way that it does not accept."""

    code = "RLX-R001"


class MissingInput(RunError, TypeError):
    """An input was not given; lists those that are expected."""

    code = "RLX-R010"


class UnknownInput(RunError, TypeError):
    """A name is no input of the program; lists those that are, and the nearest."""

    code = "RLX-R011"


class ShapeMismatch(RunError, ValueError):
    """An array's shape is not the program's; shows both."""

    code = "RLX-R012"


class DTypeMismatch(RunError, TypeError):
    """An array's dtype is not the program's; shows both."""

    code = "RLX-R013"


class ProgramClosed(RunError, RuntimeError):
    """A program was called after `close`."""

    code = "RLX-R014"


class NotCompiled(RunError, RuntimeError):
    """A program with open dimensions was asked about code that the first call has yet to choose sizes for."""

    code = "RLX-R015"


class DonationError(RunError, ValueError):
    """An input that a program may overwrite cannot be overwritten, or not in this way of calling."""

    code = "RLX-R016"


class TunedAnswerDiffers(RLXError, ArithmeticError):
    """A program with tuned schedules gives other bits than the same program without."""

    code = "RLX-R017"


# -- user interface ------------------------------------------------------------------------------------------------


class UsageError(RLXError, ValueError):
    """The command line asks for something that makes no sense."""

    code = "RLX-U001"
