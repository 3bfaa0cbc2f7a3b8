"""Frontends: a model's file -> `Model` -> `rlx.ir.Graph`."""

from rlx.frontends.load import load
from rlx.frontends.model import Model

__all__ = ["Model", "load"]
