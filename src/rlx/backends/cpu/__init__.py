"""The CPU backend: whole programs as native code, for AVX-512, AVX2 and a portable baseline."""

from rlx.backends.cpu.backend import backend

__all__ = ["backend"]
