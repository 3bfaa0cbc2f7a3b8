"""Measure the errors of elementary functions and write docs/numerics.md.

    python bench/ulp.py [FUNCTION ...] --results DIR [--targets T,...] [--chunks N] [--dtypes f32,f16,bf16,f64]
    python bench/ulp.py --results DIR --write docs/numerics.md

The first form measures each function (by default all) over the first N of the chunks that all f32 numbers make (by
default all of them: a minute and more a function and target) and keeps what it found in DIR, a file for each function,
dtype and target, where more chunks replace fewer. Two processes may fill one DIR. The second form makes the page of
what DIR holds. 16-bit formats are always measured whole; f64 on samples, against NumPy's `longdouble`. `--targets neon`
goes through the emulator that `make aarch64` brings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from rlx.backends.cpu.host import supported_targets
from rlx.codegen.target import PRESETS
from rlx.ir import dtypes
from rlx.ir.dtypes import DType
from rlx.options import Options
from rlx.testing import aarch64
from rlx.testing.vector_math import (
    BINARY,
    CHUNK,
    CHUNKS,
    UNARY,
    Chunks,
    Compute,
    Score,
    all_floats,
    all_narrow,
    graph,
    measure,
    pairs,
    program,
    wide_samples,
)

#: Chunks between two writes of a result; chunks of pairs, and of f64 numbers, at most.
STRIDE, MOST_PAIRS, MOST_WIDE = 1 << 12, 1 << 13, 1 << 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("functions", nargs="*", metavar="FUNCTION")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--targets", default=",".join(supported_targets()))
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    parser.add_argument("--dtypes", default="f32,f16,bf16,f64")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if given.write:
        given.write.write_text(page(given.results))
        return
    given.results.mkdir(parents=True, exist_ok=True)
    for name in given.functions or [*UNARY, *BINARY]:
        for dtype in given.dtypes.split(","):
            fill(given.results, name, getattr(dtypes, dtype), given.targets.split(","), given.chunks)


def fill(results: Path, name: str, dtype: DType, targets: Sequence[str], chunks: int) -> None:
    """Measure one function in one dtype and keep its scores; some chunks at a time where there are many."""
    total = {target: Score() for target in targets}
    for done, part in parts(name, dtype, chunks):
        for (_, target), score in measure([name], targets, part, dtype, programs=program_for).items():
            total[target].add(score)
            place = results / f"{name}.{dtype.name}.{target}.json"
            if not place.exists() or json.loads(place.read_text())["arguments"] <= done:
                place.write_text(json.dumps({**asdict(total[target]), "arguments": done}))
    print(name, dtype, *(f"{t} {s.worst:.3f}" for t, s in total.items()), flush=True)


@cache
def program_for(names: tuple[str, ...], target: str, dtype: DType, elements: int) -> Compute:
    """As `program`; what this machine cannot run itself, an emulated one does."""
    if target != "neon" or target in supported_targets():
        return program(names, target, dtype, elements)
    options = Options(threads=1, cache=False)
    artifact, machine = aarch64.compile_for_neon(graph(names, dtype, elements), options), emulator()
    return lambda **inputs: machine.run(artifact, inputs, {}, options)


@cache
def emulator() -> aarch64.Emulator:
    return aarch64.Emulator()


def parts(name: str, dtype: DType, chunks: int) -> Iterator[tuple[int, Chunks]]:
    """(arguments with those before, chunks)"""
    if dtype is dtypes.f64:
        if name in UNARY and name not in ("erf", "gelu"):  # NumPy has no erf for a reference
            count = min(chunks, MOST_WIDE)
            yield count * CHUNK, wide_samples(count)
    elif dtype is not dtypes.f32:
        if name in UNARY:
            yield 1 << 16, all_narrow(dtype)
    elif name in BINARY:
        count = min(chunks, MOST_PAIRS)
        yield count * CHUNK, pairs(name, count)
    else:
        for first in range(0, chunks, STRIDE):
            last = min(chunks, first + STRIDE)
            yield last * CHUNK, all_floats(range(first, last))


# -- the page ------------------------------------------------------------------------------------------------------

_HEAD = """\
# Numerics: how far elementary functions are from the truth

Made by `python bench/ulp.py`; do not edit. `tests/codegen/test_vector_math.py` holds every function to its bound.

An ulp of a result is the distance between neighbouring numbers of its dtype there, 2^-149 for f32 denormals; rounding
the exact result gives at most 0.5. References are NumPy's functions in f64, and the C library's for erf: they are less
than 10^-8 of an f32 ulp off (compared with mpmath). For f64 results they are NumPy's in `longdouble`. Functions are
measured as programs compute them.

- *arguments*: how many were tried. 2^32 is every f32 number there is, denormals, infinities and NaN among them; fewer
  are spread evenly over all of them by their bits; for two operands they are any two numbers, and as often two whose
  result is neither 0 nor infinite.
- *at*: an argument with the largest error. *mean*: over arguments whose result is a number, infinities included.
- *specials*: kept where no argument gave NaN that should not have, or a number for NaN, or a result of the wrong sign,
  zeros included; else how many did. Results that are denormal, or overflow, are held to the same bound.
- gelu adds numbers as large as its argument by its definition, so its errors are in ulps of the argument where that is
  larger. `gelu_tanh` is `approximate="tanh"`.
- asin, acos, atan, sinh, cosh, asinh, acosh, atanh, cbrt and atan2 are the C library's double functions, rounded to
  f32; so are sin, cos and tan of arguments beyond 10^6. sqrt and the division of rsqrt are instructions.
- With AVX-512 the exponentials inside a softmax of f32 go a shorter way than exp does, and are up to 1.0 ulp off.
- f64 functions are the C library's, but for logistic and the composites, made of them.

Bounds hold for every target. Where a target is missing from a table, it was not measured.
"""


def page(results: Path) -> str:
    """The page, in Markdown."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for place in sorted(results.glob("*.json")):
        name, dtype, target, _ = place.name.split(".")
        score = json.loads(place.read_text())
        if score["worst"] >= 0:
            found[name, dtype, target] = score
    lines = [_HEAD]
    for dtype in ("f32", "f16", "bf16", "f64"):
        tables: dict[str, list[str]] = {}
        for target in PRESETS:
            rows = {n: found[n, dtype, target] for n in [*UNARY, *BINARY] if (n, dtype, target) in found}
            if rows:
                tables.setdefault(table(rows, bounded=dtype == "f32"), []).append(target)
        for text, targets in tables.items():
            lines += [f"## {dtype}: {', '.join(targets)}", "", text, ""]
    return "\n".join(lines) + "\n"


def table(rows: dict[str, dict[str, Any]], *, bounded: bool) -> str:
    lines = [f"| function | max ulp |{' bound |' if bounded else ''} at | mean ulp | arguments | specials |"]
    lines += ["| --- |" + " --- |" * (6 if bounded else 5)]
    for name, score in rows.items():
        bound = [f"{(UNARY | BINARY)[name].bound:g}"] if bounded else []
        where = ", ".join(f"{x:.9g}" for x in score["where"])
        mean = score["total"] / max(1, score["count"])
        specials = "kept" if not score["wrong"] else f"{score['wrong']} wrong"
        cells = [name, f"{score['worst']:.3f}", *bound, where, f"{mean:.4f}", power(score["arguments"]), specials]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def power(count: int) -> str:
    """A count as people read it."""
    exponent = count.bit_length() - 1
    return f"2^{exponent}" if count == 1 << exponent else f"{count / 2**exponent:.2f} x 2^{exponent}"


if __name__ == "__main__":
    main()
