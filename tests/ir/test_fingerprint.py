"""The fingerprint: equal for equal graphs in any process, different for any change that means something."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlx
from rlx.errors import IRError
from rlx.ir import (
    Dim,
    Graph,
    GraphBuilder,
    Location,
    Parameter,
    TensorType,
    Value,
    dtypes,
    fingerprint,
    fingerprint_parameters,
    print_graph,
)
from rlx.ir.location import UNKNOWN

F32 = dtypes.f32
T = TensorType((2,), F32)


def test_two_builds_agree(make_graph: Callable[[], Graph]) -> None:
    assert fingerprint(make_graph()) == fingerprint(make_graph())


@pytest.mark.parametrize("seed", ["0", "1234"])
def test_processes_with_other_hash_seeds_agree(
    seed: str, makers: dict[str, Callable[[], Graph]], tmp_path: Path
) -> None:
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); from rlx.ir import fingerprint, parse_text\n"
        "for path in sys.argv[2:]: print(fingerprint(parse_text(pathlib.Path(path).read_text())))\n"
    )
    paths = []
    for name, make in makers.items():
        path = tmp_path / f"{name}.rlx.txt"
        path.write_text(print_graph(make(), data=True))
        paths.append(str(path))
    source = str(Path(rlx.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program, source, *paths],
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [fingerprint(make()) for make in makers.values()]


def graph_with(
    *,
    name: str = "g",
    source: str = "",
    input_name: str = "x",
    input_type: TensorType = T,
    output_name: str = "y",
    value_name: str = "",
    parameter_name: str = "w",
    data: Any = (1.0, 2.0),
    location: Location = UNKNOWN,
    op: str = "add",
    swap: bool = False,
    axis: Any = 0,
    constant: Any = 1.5,
    region_op: str = "neg",
    region_name: str = "then",
    attributes: tuple = (),
) -> Graph:
    b = GraphBuilder(name, source=source)
    with b.at(location):
        x = b.input(input_name, input_type)
        w = b.parameter(parameter_name, np.array(data, np.float32))
        y = b.emit(op, *((w, x) if swap else (x, w)))
        y.name = value_name
        y = b.emit("mul", y, b.broadcast(b.constant(np.array(constant, np.float32)), (2,)))
        y = b.emit("softmax", y, axis=axis)
        shapes = {"result_shapes": ((2,),), "result_dtypes": (F32,)}
        y = b.emit("custom_call", y, target="t", attributes=attributes, **shapes)
        regions = []
        for region_operation, label in ((region_op, region_name), ("exp", "else")):
            inner = GraphBuilder(label)
            regions.append(inner.build([inner.emit(region_operation, inner.input(label, T))]))
        y = b.emit("cond", b.constant(True, dtypes.bool_), y, regions=regions)
    return b.build({output_name: y})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"source": "elsewhere.onnx"},
        {"value_name": "hidden"},
        {"location": Location("a.py", "f", 3)},
        {"data": (5.0, 6.0)},
        {"region_name": "taken"},
    ],
)
def test_names_of_values_places_and_weights_do_not_matter(change: dict[str, Any]) -> None:
    assert fingerprint(graph_with(**change)) == fingerprint(graph_with())


@pytest.mark.parametrize(
    "change",
    [
        {"input_name": "x2"},
        {"output_name": "z"},
        {"parameter_name": "v"},
        {"op": "sub"},
        {"swap": True},
        {"axis": -1},
        {"constant": 1.5000001},
        {"constant": -1.5},
        {"region_op": "exp"},
        {"attributes": (("a", 1),)},
    ],
)
def test_what_means_something_changes_it(change: dict[str, Any]) -> None:
    assert fingerprint(graph_with(**change)) != fingerprint(graph_with())


def test_values_that_compare_equal_but_are_not_the_same_differ() -> None:
    other_nan = struct.unpack("<d", b"\x01\0\0\0\0\0\xf8\x7f")[0]
    kinds = [
        math.nan,
        other_nan,
        0,
        0.0,
        -0.0,
        False,
        None,
        "0",
        (),
        (0,),
        ((0,),),
        F32,
        "f32",
        Dim("f32"),
        Dim("n"),
        Dim("n", 1),
        "n",
    ]
    prints = {fingerprint(graph_with(attributes=(("a", value),))) for value in kinds}
    assert len(prints) == len(kinds)


def test_types_and_bounds_count() -> None:
    def graph(type: TensorType) -> Graph:
        b = GraphBuilder()
        return b.build({"y": b.input("x", type)})

    types = [T, TensorType((2,), dtypes.i32), TensorType((1, 2), F32), TensorType((Dim("n"),), F32)]
    types += [TensorType((Dim("n", 1),), F32), TensorType((Dim("m"),), F32), TensorType((Dim("n") * 2,), F32)]
    assert len({fingerprint(graph(t)) for t in types}) == len(types)


def test_the_order_of_attributes_in_a_dict_does_not_matter() -> None:
    graph = graph_with()
    nodes = tuple(replace(n, attrs=dict(reversed(list(n.attrs.items())))) for n in graph.nodes)
    assert fingerprint(replace(graph, nodes=nodes)) == fingerprint(graph)


def test_a_value_that_nothing_defines_is_an_error() -> None:
    graph = graph_with()
    with pytest.raises(IRError, match="which nothing defines before it"):
        fingerprint(replace(graph, outputs=(Value(T, "loose"),)))


def test_weights_have_a_fingerprint_of_their_own() -> None:
    same, other = graph_with(name="other", op="sub"), graph_with(data=(1.0, -2.0))
    assert fingerprint_parameters(graph_with()) == fingerprint_parameters(same)
    assert fingerprint_parameters(graph_with()) != fingerprint_parameters(other)
    assert fingerprint_parameters(graph_with()) != fingerprint_parameters(graph_with(parameter_name="v"))


def test_strided_weights_are_read_in_row_major_order() -> None:
    data = np.arange(6, dtype=np.float32).reshape(2, 3)

    def graph(array: np.ndarray) -> Graph:
        value = Value(TensorType(array.shape, F32), "w")
        return Graph("g", (), (Parameter("w", value, array),), (), (value,), ("y",))

    assert fingerprint_parameters(graph(data)) == fingerprint_parameters(graph(np.asfortranarray(data)))
