"""A device in a package of its own: the worked example of a plug-in. Its memory cannot be read by the host."""

from opaque_device.backend import backend

__all__ = ["backend"]
