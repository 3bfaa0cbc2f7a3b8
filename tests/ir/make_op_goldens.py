"""Make tests/ir/data/ops.npz: what outside references answer for each primitive.

    PYTHONPATH=src python tests/ir/make_op_goldens.py

Floating-point functions and arithmetic are PyTorch's, which the tests themselves do without; integers are Python's own;
everything that moves, selects or counts is written out in `op_references` as plain loops over the definitions of
StableHLO, with no NumPy arithmetic. Samples are those of the records, from another seed than the op tests use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from op_goldens import PATH, Golden, save
from op_references.contractions import conv, dot_general
from op_references.movement import (
    broadcast,
    concatenate,
    dynamic_slice,
    dynamic_update_slice,
    gather,
    iota,
    pad,
    reshape,
    rev,
    scatter,
    slice_,
    transpose,
)
from op_references.numbers import Arrays, Attrs
from op_references.pointwise import bitcast, convert, pointwise
from op_references.reductions import arg_extreme, cumulative, reduce, reduce_window, sort, top_k
from op_references.threefry import rng_bits

from rlx.ir import all_ops
from rlx.ir.op import complete_attrs

SEED = 20
#: Arrays that would make the file large say nothing that smaller ones do not.
MOST_BYTES = 12_000

WHOLE: dict[str, Callable[[Arrays, Attrs], Any]] = {
    "convert": convert,
    "bitcast_convert": bitcast,
    "iota": iota,
    "broadcast_in_dim": broadcast,
    "reshape": reshape,
    "transpose": transpose,
    "rev": rev,
    "slice": slice_,
    "pad": pad,
    "concatenate": concatenate,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "scatter": scatter,
    "sort": sort,
    "top_k": top_k,
    "dot_general": dot_general,
    "conv_general": conv,
    "rng_bits": rng_bits,
    "constant": lambda arrays, attrs: attrs["value"],
}


def reference(op: str, arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...] | None:
    """What the outside reference of `op` answers; None where it cannot."""
    if op in WHOLE:
        found = WHOLE[op](arrays, attrs)
    elif op.startswith("reduce_window"):
        found = reduce_window(op, arrays, attrs)
    elif op.startswith("reduce_"):
        found = reduce(op, arrays, attrs)
    elif op in ("argmax", "argmin"):
        found = arg_extreme(op, arrays, attrs)
    elif op.startswith("cum"):
        found = cumulative(op, arrays, attrs)
    else:
        found = pointwise(op, arrays, attrs)
    return found if found is None or isinstance(found, tuple) else (found,)


def main() -> None:
    cases: list[Golden] = []
    for name, record in sorted(all_ops().items()):
        if record.is_composite or record.samples is None:
            continue
        before = len(cases)
        # One seed for all ops: equal inputs are stored once.
        for sample in record.samples(np.random.default_rng(SEED)):
            if sample.regions or sum(x.nbytes for x in sample.arrays) > MOST_BYTES:
                continue
            attrs = complete_attrs(record, sample.attrs)
            expected = reference(name, sample.arrays, attrs)
            if expected is not None:
                cases.append(Golden(name, sample.arrays, attrs, tuple(np.asarray(e) for e in expected)))
        print(f"{name}: {len(cases) - before} cases")
    save(cases)
    print(f"{len(cases)} cases, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
