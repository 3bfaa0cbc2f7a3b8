"""The demo's corpus: passages of real text, each found where it says it is."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def corpus():
    spec = importlib.util.spec_from_file_location("corpus", ROOT / "examples" / "semantic_search" / "corpus.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["corpus"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["corpus"]


def test_passages_come_from_the_documentation_and_the_modules(corpus):
    passages = corpus.read_passages(ROOT)
    files = {p.file for p in passages}
    assert {"README.md", "docs/driver.md", "src/rlx/driver/planner.py"} <= files
    assert len(passages) > 100
    assert all(p.text for p in passages)


def test_a_passage_of_a_page_begins_at_the_line_that_it_names(corpus):
    for passage in corpus.read_passages(ROOT):
        if passage.file.endswith(".md"):
            line = (ROOT / passage.file).read_text().splitlines()[passage.line - 1]
            first = line.replace("`", "").split()[0].strip("*[]")
            assert first.split("]")[0] in passage.text, passage


def test_code_tables_and_pictures_are_no_passages(corpus, tmp_path):
    (tmp_path / "page.md").write_text(
        "# A `title`\n\n```\na ─▶ picture\n```\n\n| a | table |\n\nText with a [link](x.md).\n"
    )
    (passage,) = corpus.read_passages(tmp_path)
    assert (passage.line, passage.heading, passage.text) == (9, "A title", "Text with a link.")
