"""The measurements behind the benchmark page: kept whole, added to, never mixed with others'."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlx.driver import Ceilings, MemoryLevel

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(BENCH)
    for name in ("cell", "results"):  # plain names, as a script's neighbours have: another test may hold one of its own
        monkeypatch.delitem(sys.modules, name, raising=False)
    import cell
    import results

    taken = {"revision": "abc", "versions": "v", "machine": "m"}
    monkeypatch.setattr(results, "taken", lambda: taken)

    def make(rlx: float, peer: float, flops: float = 1e9, **changes: str) -> cell.Cell:
        ceilings = Ceilings(1, flops, 2e9, (MemoryLevel("L2", 1 << 20, 5e9),), 3e9, {"bf16": 2e9})
        samples = {"RLX": [cell.Sample(rlx, rlx / 2, 7, 0.0)], "peer": [cell.Sample(peer, peer, 7, 0.2)]}
        differences = dict.fromkeys(samples, 1e-7)
        return cell.Cell("work", 1, taken | changes, ["2026-01-01"], [ceilings], samples, {"other": "why"}, differences)

    return SimpleNamespace(make=make, Results=results.Results)


def test_what_is_written_is_read_again(bench, tmp_path):
    kept = bench.Results(tmp_path / "page.json", startup="| a |\n", memory=None)
    kept.add(bench.make(1.0, 2.0))
    kept.write()
    assert bench.Results.read(tmp_path / "page.json") == kept
    assert not list(tmp_path.glob("*.part"))


def test_a_cell_measured_again_gains_processes_and_keeps_the_best_ceiling(bench):
    kept = bench.Results(None)
    for rlx, flops in ((1.0, 4e9), (3.0, 1e9), (2.0, 2e9)):
        cell = kept.add(bench.make(rlx, 4.0, flops))
    assert [sample.median for sample in cell.samples["RLX"]] == [1.0, 3.0, 2.0]
    assert (cell.median("RLX"), cell.fastest("RLX"), cell.ratio, cell.fastest_ratio) == (2.0, 0.5, 0.5, 0.125)
    assert cell.best_ceilings.flops == 4e9
    assert cell.unsteady(0.9) and not cell.unsteady(1.1)


@pytest.mark.parametrize(("first", "second"), [("abc", "def"), ("abc, changed since", "abc, changed since")])
def test_a_cell_of_another_revision_replaces(bench, first, second):
    kept = bench.Results(None)
    kept.add(bench.make(1.0, 2.0, revision=first))
    kept.add(bench.make(3.0, 2.0, revision=second))
    assert [sample.median for sample in kept.cells["work", 1].samples["RLX"]] == [3.0]


@pytest.mark.parametrize("changes", [{"machine": "n"}, {"versions": "w"}])
def test_cells_of_another_machine_or_of_other_versions_are_dropped(bench, tmp_path, changes):
    kept = bench.Results(tmp_path / "page.json")
    kept.add(bench.make(1.0, 2.0))
    kept.add(replace(bench.make(1.0, 2.0, **changes), workload="theirs"))
    kept.write()
    assert list(bench.Results.read(tmp_path / "page.json").cells) == [("work", 1)]
