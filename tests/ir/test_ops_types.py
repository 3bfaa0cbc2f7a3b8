"""Type rules: shapes with symbolic sizes, and refusals that say which operand or attribute and show both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlx.errors import TypeRuleError
from rlx.ir import Dim, GraphBuilder, TensorType, get
from rlx.ir.dtypes import DType, bf16, bool_, c64, f8e4m3, f16, f32, f64, i4, i8, i32, i64, u4, u8, u32
from rlx.ir.op import Call, complete_attrs

N = Dim("n", 1, 64)


def typed(shape: Any, dtype: DType = f32) -> TensorType:
    return TensorType(tuple(shape), dtype)


def infer(op: str, *types: TensorType, **attrs: Any) -> tuple[TensorType, ...]:
    record = get(op)
    return record.infer(Call(types, complete_attrs(record, attrs)))


CONV = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1)}
WINDOW = {
    "window": (1, 3),
    "strides": (1, 2),
    "padding": ((0, 0), (1, 1)),
    "base_dilation": (1, 1),
    "window_dilation": (1, 1),
}
ROWS = {"offset_dims": (1,), "collapsed_slice_dims": (0,), "start_index_map": (0,), "slice_sizes": (1, 3)}
INTO_ROWS = {
    "update_window_dims": (1,),
    "inserted_window_dims": (0,),
    "scatter_dims_to_operand_dims": (0,),
    "combiner": "add",
}

SHAPES = [
    ("broadcast_in_dim", [typed((N, 1))], {"shape": (2, N, 5), "broadcast_dims": (1, 2)}, (2, N, 5)),
    ("reshape", [typed((N, 4, 8))], {"shape": (N, 32)}, (N, 32)),
    ("reshape", [typed((N, 4, 8))], {"shape": (N * 4, 8)}, (N * 4, 8)),
    ("transpose", [typed((N, 3, 5))], {"permutation": (2, 0, 1)}, (5, N, 3)),
    ("slice", [typed((N, 9))], {"starts": (0, 1), "limits": (N, 8), "strides": (1, 3)}, (N, 3)),
    ("pad", [typed((N, 3)), typed(())], {"low": (1, 0), "high": (2, 0), "interior": (0, 0)}, (N + 3, 3)),
    ("concatenate", [typed((N, 3)), typed((N, 4))], {"dimension": 1}, (N, 7)),
    ("concatenate", [typed((N, 3)), typed((2, 3))], {"dimension": 0}, (N + 2, 3)),
    ("iota", [], {"shape": (N, 3), "dimension": 0, "dtype": i32}, (N, 3)),
    ("reduce_sum", [typed((N, 3, 5))], {"dimensions": (1,)}, (N, 5)),
    ("argmax", [typed((3, N))], {"dimension": 1}, (3,)),
    ("cumsum", [typed((N, 3))], {"dimension": 0}, (N, 3)),
    ("sort", [typed((N, 3))], {"dimension": 0}, (N, 3)),
    ("reduce_window_max", [typed((N, 9))], WINDOW, (N, 5)),
    ("dot_general", [typed((N, 5)), typed((5, 7))], {"lhs_contract": (1,), "rhs_contract": (0,)}, (N, 7)),
    (
        "dot_general",
        [typed((2, N, 5)), typed((2, N, 5))],
        {"lhs_contract": (2,), "rhs_contract": (2,), "lhs_batch": (0,), "rhs_batch": (0,)},
        (2, N, N),
    ),
    ("conv_general", [typed((N, 3, 8, 8)), typed((4, 3, 3, 3))], CONV, (N, 4, 8, 8)),
    ("conv_general", [typed((1, 3, N, 8)), typed((4, 3, 3, 3))], CONV, (1, 4, N, 8)),
    ("gather", [typed((7, 3)), typed((N, 1), i32)], ROWS, (N, 3)),
    ("scatter", [typed((7, 3)), typed((N, 1), i32), typed((N, 3))], INTO_ROWS, (7, 3)),
    ("dynamic_slice", [typed((N, 3)), typed((), i32), typed((), i32)], {"sizes": (1, 3)}, (1, 3)),
]


@pytest.mark.parametrize(("op", "types", "attrs", "shape"), SHAPES, ids=[f"{s[0]}{i}" for i, s in enumerate(SHAPES)])
def test_a_type_rule_carries_symbolic_sizes(op: str, types: list, attrs: dict, shape: tuple) -> None:
    assert infer(op, *types, **attrs)[0].shape == shape


DOT = {"lhs_contract": (1,), "rhs_contract": (0,)}
REFUSALS = [
    ("add", [typed((2,)), typed((3,))], {}, "add: operand 1 is f32[3], but operand 0 is f32[2]: their shapes"),
    ("add", [typed((2,)), typed((2,), f64)], {}, "add: operand 1 is f64[2], but operand 0 is f32[2]: their dtypes"),
    ("add", [typed((2,), bool_)] * 2, {}, "add: operand 0 is bool[2], accepted dtypes are i4, u4, i8"),
    ("add", [typed((2,))], {}, "add takes 2 operands, got 1"),
    ("exp", [typed((2,), i32)], {}, "exp: operand 0 is i32[2], accepted dtypes are f8e4m3"),
    ("not", [typed((2,))], {}, "not: operand 0 is f32[2]"),
    ("lt", [typed((2,), c64)] * 2, {}, "lt: operand 0 is c64[2]"),
    ("complex", [typed((2,), f16)] * 2, {}, "complex: operand 0 is f16[2], accepted dtypes are f32, f64"),
    ("select", [typed((2,)), typed((2,)), typed((2,))], {}, "select: operand 0 is f32[2], accepted dtypes are bool"),
    (
        "select",
        [typed((2,), bool_), typed((2,)), typed((3,))],
        {},
        "select: operand 2 is f32[3], but operand 0 is bool[2]",
    ),
    ("convert", [typed((2,))], {}, "convert needs the attribute 'dtype'"),
    ("convert", [typed((2,))], {"dtype": "f32"}, "convert: dtype must be a DType, got 'f32'"),
    ("bitcast_convert", [typed((2,))], {"dtype": i8}, "operand 0 is f32[2] with 32 bits an element, i8 has 8"),
    (
        "broadcast_in_dim",
        [typed((2, 3))],
        {"shape": (2, 4), "broadcast_dims": (0, 1)},
        "dimension 1 of f32[2, 3] must be 1 or 4",
    ),
    (
        "broadcast_in_dim",
        [typed((2, 3))],
        {"shape": (3, 2), "broadcast_dims": (1, 0)},
        "broadcast_dims (1, 0) must increase",
    ),
    ("reshape", [typed((2, 3))], {"shape": (7,)}, "reshape: f32[2, 3] has 6 elements, the new shape (7,) has 7"),
    ("reshape", [typed((2, 3))], {"shape": (-1,)}, "reshape: shape must be a tuple of sizes, got (-1,)"),
    ("transpose", [typed((2, 3))], {"permutation": (0, 0)}, "permutation (0, 0) names a dimension twice"),
    ("transpose", [typed((2, 3))], {"permutation": (1,)}, "permutation (1,) must name every dimension of f32[2, 3]"),
    ("rev", [typed((2, 3))], {"dimensions": (2,)}, "names dimension 2 of a tensor of rank 2"),
    (
        "slice",
        [typed((5,))],
        {"starts": (0,), "limits": (6,), "strides": (1,)},
        "limit of dimension 0 is 6, the dimension has size 5",
    ),
    (
        "slice",
        [typed((5,))],
        {"starts": (3,), "limits": (2,), "strides": (1,)},
        "start 3 of dimension 0 is beyond its limit 2",
    ),
    (
        "slice",
        [typed((5,))],
        {"starts": (0,), "limits": (2,), "strides": (0,)},
        "stride 0 of dimension 0 must be at least 1",
    ),
    (
        "pad",
        [typed((5,)), typed((1,))],
        {"low": (0,), "high": (0,), "interior": (0,)},
        "operand 1 is f32[1], it must be a scalar",
    ),
    (
        "pad",
        [typed((2,)), typed(())],
        {"low": (-2,), "high": (-1,), "interior": (0,)},
        "cut more from dimension 0 of f32[2]",
    ),
    ("concatenate", [typed((2, 3)), typed((3, 3))], {"dimension": 1}, "operand 1 is f32[3, 3], operand 0 is f32[2, 3]"),
    ("concatenate", [], {"dimension": 0}, "concatenate takes at least 1 operands, got 0"),
    (
        "dynamic_slice",
        [typed((5,)), typed((), f32)],
        {"sizes": (2,)},
        "dynamic_slice: operand 1 is f32[], accepted dtypes",
    ),
    ("dynamic_slice", [typed((5,))], {"sizes": (2,)}, "f32[5] needs 1 start indices, got 0"),
    (
        "dynamic_update_slice",
        [typed((2,)), typed((3,)), typed((), i32)],
        {},
        "the update's dimension 0 is 3, the dimension has size 2",
    ),
    (
        "gather",
        [typed((7, 3)), typed((4, 2), i32)],
        ROWS,
        "index vectors of i32[4, 2] have 2 entries, start_index_map (0,) names 1",
    ),
    (
        "gather",
        [typed((7, 3)), typed((4, 1), i32)],
        ROWS | {"slice_sizes": (2, 3)},
        "slice size of dimension 0 is 2, it must be 1",
    ),
    (
        "gather",
        [typed((7, 3)), typed((4, 1), i32)],
        ROWS | {"mode": "wrap"},
        "mode is 'wrap', it must be one of clip, fill",
    ),
    (
        "scatter",
        [typed((7, 3)), typed((4, 1), i32), typed((5, 3))],
        INTO_ROWS,
        "the updates f32[5, 3] have batch dimensions (5,)",
    ),
    ("scatter", [typed((7, 3), bool_), typed((4, 1), i32), typed((4, 3), bool_)], INTO_ROWS, "bool[7, 3] has no add"),
    ("reduce_max", [typed((2,), c64)], {"dimensions": (0,)}, "reduce_max: operand 0 is c64[2]"),
    ("reduce_sum", [typed((2,), bool_)], {"dimensions": (0,)}, "reduce_sum: operand 0 is bool[2]"),
    ("reduce_sum", [typed((2, 3))], {"dimensions": (-1,)}, "names dimension -1 of a tensor of rank 2"),
    ("argmax", [typed((2, 0))], {"dimension": 1}, "dimension 1 of f32[2, 0] is empty"),
    ("argmax", [typed((2, 3))], {"dimension": 1, "dtype": i8}, "argmax: dtype is i8, accepted dtypes are i32, i64"),
    ("cumsum", [typed((2, 3))], {"dimension": 2}, "cumsum: dimension is 2, the operand has rank 2"),
    ("sort", [typed((2, 3))], {"dimension": 0, "num_keys": 2}, "num_keys is 2, there are 1 operands"),
    ("sort", [typed((2, 3)), typed((3, 2))], {"dimension": 0}, "sort: operand 1 is f32[3, 2]"),
    ("top_k", [typed((2, 3))], {"k": 4}, "top_k: k is 4, the dimension has size 3"),
    (
        "reduce_window_sum",
        [typed((2, 9))],
        WINDOW | {"strides": (1, 0)},
        "strides (1, 0) must be at least 1 everywhere",
    ),
    (
        "reduce_window_sum",
        [typed((2, 9))],
        WINDOW | {"padding": (0, 1)},
        "padding must be a tuple of (low, high) pairs",
    ),
    (
        "dot_general",
        [typed((2, 5)), typed((4, 3))],
        DOT,
        "contract dimension 1 of f32[2, 5] has size 5, dimension 0 of f32[4, 3] has 4",
    ),
    ("dot_general", [typed((2, 5), i8), typed((5, 3), u8)], DOT, "operand 1 is u8[5, 3], but operand 0 is i8[2, 5]"),
    (
        "dot_general",
        [typed((2, 5)), typed((5, 3))],
        DOT | {"preferred_dtype": i32},
        "preferred_dtype i32 is of another kind",
    ),
    (
        "conv_general",
        [typed((1, 3, 8, 8)), typed((4, 2, 3, 3))],
        CONV,
        "has 3 channels, f32[4, 2, 3, 3] in 1 groups takes 2",
    ),
    ("conv_general", [typed((1, 4, 8, 8)), typed((3, 2, 3, 3))], CONV | {"groups": 2}, "the 3 output channels"),
    ("rng_bits", [typed((3,), u32)], {"shape": (2,)}, "operand 0 is u32[3], the key must be u32[2]"),
    ("rng_bits", [typed((2,), u32)], {"shape": (2**32,)}, "needs 4294967296 words of 32 bits"),
    ("iota", [], {"shape": (2,), "dimension": 0, "dtype": bool_}, "iota: dtype is bool, accepted dtypes are i4"),
    ("constant", [], {"value": np.zeros(2, "datetime64[s]")}, "has no RLX dtype"),
    ("constant", [], {"value": 1.0}, "constant: value must be an array, got 1.0"),
]


@pytest.mark.parametrize(("op", "types", "attrs", "text"), REFUSALS, ids=[f"{r[0]}{i}" for i, r in enumerate(REFUSALS)])
def test_a_type_rule_says_what_it_refuses(op: str, types: list, attrs: dict, text: str) -> None:
    with pytest.raises(TypeRuleError) as refused:
        infer(op, *types, **attrs)
    assert text in str(refused.value)


def test_dot_general_accumulates_bytes_in_a_preferred_wider_integer() -> None:
    (result,) = infer("dot_general", typed((2, 5), i8), typed((5, 3), i8), **DOT, preferred_dtype=i32)
    assert result == typed((2, 3), i32)


@pytest.mark.parametrize("dtype", [i4, u4, f8e4m3, bf16, i64])
def test_every_dtype_can_be_a_constant(dtype: DType) -> None:
    b = GraphBuilder()
    assert b.constant(1, dtype).type == typed((), dtype)
