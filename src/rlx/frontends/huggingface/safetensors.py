"""Safetensors files as models: `rlx.driver.safetensors` reads them; here its refusals become those of models.

Errors. ModelNotFound for a missing file; DamagedModel for one that is cut short or whose header does not decode;
InvalidModel where the header breaks the format's rules; UnsupportedModel for an element type RLX has not.
"""

from __future__ import annotations

from pathlib import Path

from rlx.driver import safetensors
from rlx.driver.safetensors import MAX_HEADER, SafetensorsFile
from rlx.errors import (
    DamagedModel,
    DamagedTensorFile,
    FrontendError,
    InvalidModel,
    ModelNotFound,
    TensorFileError,
    TensorFileNotFound,
    UnsupportedModel,
    UnsupportedTensor,
)

__all__ = ["MAX_HEADER", "SafetensorsFile", "open_safetensors"]

_OF_A_MODEL: dict[type[TensorFileError], type[FrontendError]] = {
    TensorFileError: InvalidModel,
    TensorFileNotFound: ModelNotFound,
    DamagedTensorFile: DamagedModel,
    UnsupportedTensor: UnsupportedModel,
}


def open_safetensors(path: Path) -> SafetensorsFile:
    """As `rlx.driver.safetensors.open_safetensors`. Raises as the module says."""
    try:
        return safetensors.open_safetensors(path)
    except TensorFileError as error:
        raise _OF_A_MODEL[type(error)](error.message, where=error.where, hint=error.hint) from None
