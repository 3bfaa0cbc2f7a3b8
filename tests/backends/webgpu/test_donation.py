"""Donated inputs on WebGPU: outputs are computed in their memory, and nothing is copied."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.driver import Buffer, Device
from rlx.errors import BufferDonated
from rlx.ir import Graph, GraphBuilder, TensorType, interpret
from rlx.ir.dtypes import f32, i32
from rlx.options import Options
from rlx.runtime import CompiledGraph, Session

ROWS, WIDTH = 48, 65


@pytest.fixture
def session(webgpu: Device) -> Session:
    return Session(webgpu, Options(cache=False))


def _cache_update() -> Graph:
    """One step of a cache: a row is written at `at`, and what is in the cache is summed by columns."""
    b = GraphBuilder("cache_update")
    cache, row = b.input("cache", TensorType((ROWS, WIDTH), f32)), b.input("row", TensorType((1, WIDTH), f32))
    at = b.input("at", TensorType((), i32))
    new = b.emit("dynamic_update_slice", cache, row, at, b.constant(np.int32(0)))
    return b.build({"new": new, "sums": b.emit("reduce_sum", new, dimensions=(0,))})


def _feeds(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "cache": rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
        "row": rng.normal(size=(1, WIDTH)).astype(np.float32),
        "at": np.array(seed % ROWS, np.int32),
    }


def _program(session: Session, donate: tuple[str, ...]) -> CompiledGraph:
    program = session.compile(_cache_update(), donate=donate)
    assert isinstance(program, CompiledGraph)
    return program


def test_a_donated_cache_is_updated_where_it_is(session: Session, webgpu: Device) -> None:
    with _program(session, ("cache",)) as program:
        assert program.in_inputs == {"new": "cache"}
        want = _feeds(0)["cache"]
        cache = Buffer.from_numpy(want).to(webgpu)
        address = cache.address
        for seed in (3, 7, ROWS - 1):
            feeds = {**_feeds(seed), "cache": want}
            want = interpret(_cache_update(), feeds)["new"]
            moved = {name: Buffer.from_numpy(feeds[name]).to(webgpu) for name in ("row", "at")}
            found = program.run({**moved, "cache": cache})
            assert found["new"].address == address
            with pytest.raises(BufferDonated):
                cache.to(Device("cpu"))
            cache = found["new"]
            np.testing.assert_array_equal(cache.to(Device("cpu")).numpy(), want)
            np.testing.assert_allclose(found["sums"].to(Device("cpu")).numpy(), want.sum(0), atol=2e-5)


def test_a_donated_array_receives_the_output(session: Session) -> None:
    with _program(session, ("cache",)) as program:
        for seed in (1, 2):
            feeds = _feeds(seed)
            want = interpret(_cache_update(), feeds)["new"]
            assert program.run(feeds)["new"] is feeds["cache"]
            np.testing.assert_array_equal(feeds["cache"], want)


def test_an_output_asked_for_elsewhere_is_copied_there(session: Session, webgpu: Device) -> None:
    with _program(session, ("cache",)) as program:
        feeds = _feeds(5)
        moved = {name: Buffer.from_numpy(array).to(webgpu) for name, array in feeds.items()}
        out = {"new": Buffer.empty(TensorType((ROWS, WIDTH), f32), webgpu)}
        program.run(moved, out=out)
        np.testing.assert_array_equal(out["new"].to(Device("cpu")).numpy(), interpret(_cache_update(), feeds)["new"])


def test_a_donation_saves_the_copy_of_the_cache(session: Session) -> None:
    with _program(session, ("cache",)) as donating, _program(session, ()) as plain:
        launches = [len(p.executable._manifest["lists"]["steps"]["steps"]) for p in (donating, plain)]
        assert launches[0] == launches[1] - 1
