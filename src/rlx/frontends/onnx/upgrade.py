"""Older forms of ONNX ops, rewritten as the newest.

A rule takes a node and returns it as the next form; `_RULES` says up to which opset each applies. What was an
attribute and became an operand turns into an array operand; a meaning that changed (Softmax before opset 13) becomes
an attribute of our own, named in `rlx.frontends.onnx`'s handlers. Handlers then know one form of each op.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rlx.errors import UnsupportedModel
from rlx.frontends.onnx.node import STANDARD, ModelNode

Rule = Callable[[ModelNode], ModelNode]

#: Attributes of the first opsets that never meant anything for inference.
_IDLE = ("consumed_inputs", "is_test")
#: Names that Cast's first form gave types by.
_CAST_NAMES = {
    "FLOAT": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, "BOOL": 9, "FLOAT16": 10,
    "DOUBLE": 11, "UINT32": 12, "UINT64": 13,
}  # fmt: skip


def upgrade(node: ModelNode) -> ModelNode:
    """`node` in its newest form. Raises UnsupportedModel where an old form means what the newest cannot say."""
    if node.domain == STANDARD:
        for before, rule in _RULES.get(node.op, ()):
            if node.opset < before:
                node = rule(node)
    return node


def _move(**moved: tuple[int, np.dtype | type]) -> Rule:
    """Attributes that became operands: name -> (operand index, dtype)."""

    def rule(node: ModelNode) -> ModelNode:
        attrs = dict(node.attrs)
        inputs = list(node.inputs)
        for name, (index, dtype) in moved.items():
            if name in attrs:
                inputs += [""] * (index + 1 - len(inputs))
                inputs[index] = np.array(attrs.pop(name), dtype=dtype)
        return replace(node, inputs=tuple(inputs), attrs=attrs)

    return rule


def _with(**attrs: Any) -> Rule:
    """Attributes whose default changed, or that older forms imply: set where absent."""
    return lambda node: replace(node, attrs={**attrs, **node.attrs})


def _rename(**names: str) -> Rule:
    return lambda node: replace(node, attrs={names.get(k, k): v for k, v in node.attrs.items()})


def _drop(node: ModelNode) -> ModelNode:
    return replace(node, attrs={k: v for k, v in node.attrs.items() if k not in _IDLE})


def _as_op(name: str) -> Rule:
    return lambda node: replace(node, op=name)


def _pad_value(node: ModelNode) -> ModelNode:
    """Pad's value had no type; Pad's handler converts it."""
    return _move(pads=(1, np.int64), value=(2, np.float32))(node)


def _clip_bounds(node: ModelNode) -> ModelNode:
    """Clip was for floats alone; its handler converts the bounds."""
    return _move(min=(1, np.float32), max=(2, np.float32))(node)


def _slice(node: ModelNode) -> ModelNode:
    attrs = {"axes": tuple(range(len(node.attrs.get("starts", ())))), **node.attrs}
    return _move(starts=(1, np.int64), ends=(2, np.int64), axes=(3, np.int64))(replace(node, attrs=attrs))


def _cast(node: ModelNode) -> ModelNode:
    to = node.attrs.get("to")
    return replace(node, attrs={**node.attrs, "to": _CAST_NAMES.get(to, to) if isinstance(to, str) else to})


def _topk(node: ModelNode) -> ModelNode:
    attrs = dict(node.attrs)
    k = np.array([attrs.pop("k")], dtype=np.int64)
    return replace(node, inputs=(node.inputs[0], k), attrs=attrs)


def _upsample_1(node: ModelNode) -> ModelNode:
    attrs = dict(node.attrs)
    scales = (1.0, 1.0, attrs.pop("height_scale"), attrs.pop("width_scale"))
    return replace(node, attrs={**attrs, "scales": scales})


def _upsample(node: ModelNode) -> ModelNode:
    """Upsample(x, scales) is Resize in the form of opset 10."""
    return replace(node, op="Resize", opset=10)


def _resize(node: ModelNode) -> ModelNode:
    """Before opset 11: asymmetric coordinates, rounded down, and no region of interest."""
    attrs = {**node.attrs, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return replace(node, inputs=(node.inputs[0], "", *node.inputs[1:]), attrs=attrs)


def _grid_sample(node: ModelNode) -> ModelNode:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attrs.get("mode", "bilinear")
    return replace(node, attrs={**node.attrs, "mode": names.get(mode, mode)})


def _batch_norm(node: ModelNode) -> ModelNode:
    if node.attrs.get("spatial", 1) != 1:
        raise UnsupportedModel(f"BatchNormalization (opset {node.opset}) with spatial=0 has no rule")
    attrs = {k: v for k, v in node.attrs.items() if k != "spatial"}
    # Outputs beyond the first held running statistics, which inference does not compute.
    return replace(node, attrs=attrs, outputs=node.outputs[:1])


def _dropout(node: ModelNode) -> ModelNode:
    return _move(ratio=(1, np.float32))(node)


_AXES = _move(axes=(1, np.int64))
_OLD_AXIS = _with(legacy_broadcast=True)
_FLAT = _with(axis=1, flatten=True)
_REDUCE_18 = (
    "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceSumSquare",
)  # fmt: skip
_BINARY_7 = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater")

#: op -> rules in order, each with the first opset that it no longer applies to.
_RULES: dict[str, tuple[tuple[int, Rule], ...]] = {
    **dict.fromkeys(_BINARY_7, ((7, _drop), (7, _OLD_AXIS))),
    **dict.fromkeys(_REDUCE_18, ((18, _AXES),)),
    "BatchNormalization": ((7, _drop), (14, _batch_norm)),
    "Cast": ((6, _cast),),
    "Clip": ((6, _drop), (11, _clip_bounds)),
    "Concat": ((4, _with(axis=1)),),
    "Dropout": ((7, _drop), (12, _dropout)),
    "GridSample": ((20, _grid_sample),),
    "GroupNormalization": ((21, _with(per_group=True)),),
    "Hardmax": ((13, _FLAT),),
    "LogSoftmax": ((13, _FLAT),),
    "Pad": ((2, _rename(paddings="pads")), (11, _pad_value)),
    "PRelu": ((7, _drop), (7, _with(by_channel=True))),
    "ReduceSum": ((13, _AXES),),
    "Reshape": ((5, _drop), (5, _move(shape=(1, np.int64)))),
    "Resize": ((11, _resize),),
    "RoiAlign": ((16, _with(coordinate_transformation_mode="output_half_pixel")),),
    "Scan": ((9, _as_op("BatchedScan")),),
    "Scatter": ((100, _as_op("ScatterElements")),),
    "Slice": ((10, _slice),),
    "Softmax": ((13, _FLAT),),
    "Split": ((2, _with(axis=0)), (13, _move(split=(1, np.int64)))),
    "Squeeze": ((13, _AXES),),
    "TopK": ((10, _topk),),
    "Unsqueeze": ((13, _AXES),),
    "Upsample": ((7, _upsample_1), (9, _move(scales=(1, np.float32))), (100, _upsample), (100, _resize)),
}
