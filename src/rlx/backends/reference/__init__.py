"""The reference backend: the interpreter behind the whole driver contract. Copy it to begin a backend of your own."""

from rlx.backends.reference.backend import backend

__all__ = ["backend"]
