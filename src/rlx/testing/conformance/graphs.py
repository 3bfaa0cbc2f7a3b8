"""Small programs that cases run: exact on small whole numbers, whatever the device's arithmetic."""

from __future__ import annotations

from rlx.ir import Graph, GraphBuilder, TensorType
from rlx.ir.dtypes import f32, i32

#: What most cases move.
FOUR = TensorType((4,), f32)
VECTOR = TensorType((64,), f32)
MANY = TensorType((1000,), i32)


def affine(type: TensorType = VECTOR) -> Graph:
    """y = 2 x + 1."""
    b = GraphBuilder("affine")
    x = b.input("x", type)
    return b.build({"y": b.binary("add", b.binary("mul", x, 2.0), 1.0)})


def add(type: TensorType = VECTOR) -> Graph:
    """z = x + y."""
    b = GraphBuilder("add")
    return b.build({"z": b.binary("add", b.input("x", type), b.input("y", type))})


def swap(type: TensorType = VECTOR) -> Graph:
    """(x - y, x * y): two results."""
    b = GraphBuilder("swap")
    x, y = b.input("x", type), b.input("y", type)
    return b.build({"difference": b.binary("sub", x, y), "product": b.binary("mul", x, y)})


def scramble(type: TensorType = MANY) -> Graph:
    """y = 1664525 x + 1013904223, wrapped: a step of a random generator, whose every bit tells whether it was taken."""
    b = GraphBuilder("scramble")
    return b.build({"y": b.binary("add", b.binary("mul", b.input("x", type), 1664525), 1013904223)})


def advance(type: TensorType = MANY) -> Graph:
    """z = x + y on whole numbers."""
    b = GraphBuilder("advance")
    return b.build({"z": b.binary("add", b.input("x", type), b.input("y", type))})
