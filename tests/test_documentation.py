"""The documentation tells the truth: its Python runs, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
]
LAYERS = ("ir", "driver", "passes", "codegen", "backends", "runtime", "frontends", "cli")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p.read_text())], ids=lambda p: p.name)
def test_the_python_on_a_page_runs_in_order(page, minilm, tmp_path, monkeypatch):
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(minilm)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE_DIR", str(tmp_path / "cache"))
    names: dict[str, object] = {}
    for number, block in enumerate(python_blocks(page.read_text()), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [t for t in targets if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_has_a_page_that_begins_with_a_picture(layer):
    title, blank, fence = (ROOT / "docs" / f"{layer}.md").read_text().splitlines()[:3]
    assert title.startswith("# ")
    assert (blank, fence) == ("", "```")
