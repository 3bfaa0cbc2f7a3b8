"""Kernels beside their limits: what is charged to whom. How fast they are is the machine's business."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import rlx
from rlx.driver import Ceilings, MemoryLevel
from rlx.errors import RunError
from rlx.ir import GraphBuilder, TensorType, dtypes
from rlx.runtime.roofline import measure_roofline
from rlx.runtime.roofline_chart import roofline_svg

CEILINGS = Ceilings(1, 1e9, 1e8, (MemoryLevel("L2", 1 << 20, 4e8),))


def two_products():
    """y = (x @ a) @ b with x [8, 16], a [16, 32], b [32, 64]: two kernels of one label."""
    b = GraphBuilder("products")
    x = b.input("x", TensorType((8, 16), dtypes.f32))
    for name, shape in (("a", (16, 32)), ("b", (32, 64))):
        weight = b.parameter(name, np.ones(shape, np.float32))
        x = b.emit("dot_general", x, weight, lhs_contract=(1,), rhs_contract=(0,))
    return b.build({"y": x})


@pytest.fixture
def program():
    return rlx.Session("cpu", rlx.Options(threads=1, cache=False)).compile(two_products())


def test_every_launch_is_timed_and_charged_with_its_own_work(program):
    roofline = measure_roofline(program, {"x": np.ones((8, 16), np.float32)}, CEILINGS, runs=2)
    assert sorted(k.step for k in roofline.kernels) == list(range(len(program.report.steps)))
    for kernel in roofline.kernels:
        own = program.report.steps[kernel.step]
        assert kernel.report is own
        assert kernel.launches == 1
        assert kernel.seconds > 0
        assert kernel.least == max(own.flops / 1e9, own.bytes / 4e8)
    assert [k.lost for k in roofline.kernels] == sorted((k.lost for k in roofline.kernels), reverse=True)


def test_the_products_of_one_label_are_told_apart(program):
    roofline = measure_roofline(program, {"x": np.ones((8, 16), np.float32)}, CEILINGS, runs=1)
    flops = sorted(k.report.flops for k in roofline.kernels if "dot_general" in k.report.ops)
    assert flops == [2 * 8 * 16 * 32, 2 * 8 * 32 * 64]


def test_products_of_bf16_are_held_to_the_rate_of_bf16():
    ceilings = Ceilings(1, 1e9, 1e12, products={"bf16": 4e9})
    session = rlx.Session("cpu", rlx.Options(threads=1, cache=False, precision="bf16"))
    roofline = measure_roofline(session.compile(two_products()), {"x": np.ones((8, 16), np.float32)}, ceilings, runs=1)
    products = [k for k in roofline.kernels if "dot_general" in k.report.ops]
    assert {k.report.factors for k in products} == {"bf16"}
    assert all(k.least == k.report.flops / 4e9 for k in products)


def test_the_chart_is_xml_with_a_titled_circle_a_launch(program):
    roofline = measure_roofline(program, {"x": np.ones((8, 16), np.float32)}, CEILINGS, runs=1)
    root = ET.fromstring(roofline_svg(roofline))
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(roofline.kernels)
    for circle in circles:
        assert "of its" in circle[0].text
        assert 0 <= float(circle.get("cx")) <= 760
        assert 0 <= float(circle.get("cy")) <= 420


def test_a_backend_that_cannot_time_kernels_is_refused():
    program = rlx.Session("reference").compile(two_products())
    with pytest.raises(RunError, match="reference:0 cannot time their kernels"):
        measure_roofline(program, {"x": np.ones((8, 16), np.float32)}, CEILINGS)
