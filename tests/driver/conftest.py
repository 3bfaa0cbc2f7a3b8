"""What driver tests share: a plug-in device, and tensors by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlx.driver import Device

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="session")
def plugin_path() -> Iterator[str]:
    """The folder of the sample plug-in, on the import path as an installed package would be."""
    sys.path.insert(0, str(PLUGIN))
    yield str(PLUGIN)
    sys.path.remove(str(PLUGIN))


@pytest.fixture
def opaque(plugin_path: str) -> Device:
    """A device whose memory the host cannot read."""
    return Device("opaque")
