"""The device keeps every promise of RLX's driver."""

from collections.abc import Callable


def test_the_device_conforms(rlx_conformance: Callable[[], None]) -> None:
    rlx_conformance()
