"""`rlx devices`: what programs can run on here."""

from __future__ import annotations

from collections.abc import Mapping

from rlx.cli.program import JsonOption
from rlx.cli.terminal import print_json, print_note, print_table, size
from rlx.driver import Device
from rlx.driver.registry import registry


def devices(as_json: JsonOption = False) -> None:
    """List the devices that are here, and what is wrong with backends that do not work."""
    found = [(device, device.properties) for device in Device.all()]
    problems = registry.problems()
    if as_json:
        print_json(
            {
                "devices": [
                    {
                        "device": str(device),
                        "name": properties.name,
                        "memory_bytes": properties.memory_bytes,
                        "features": dict(properties.features),
                    }
                    for device, properties in found
                ],
                "problems": [str(problem) for problem in problems],
            }
        )
        return
    rows = [(device, p.name, size(p.memory_bytes), ", ".join(feature_texts(p.features))) for device, p in found]
    print_table("devices", ("device", "name", ">memory", "features"), rows)
    for problem in problems:
        print_note(str(problem))


def feature_texts(features: Mapping[str, bool | int | str]) -> list[str]:
    """The features that a device has, one text each."""
    return [name if value is True else f"{name}: {value}" for name, value in features.items() if value]
